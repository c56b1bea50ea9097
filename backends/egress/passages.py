"""What a client's connection is used for: one passage for each decision, from the asking to the last byte."""

from __future__ import annotations

import asyncio
import time

from backends.egress.bounds import FIRST_MESSAGE_S
from backends.egress.events import Events
from backends.egress.names import Decision
from backends.egress.streams import Stream

__all__ = ["Connection", "Passage", "Refused"]


class Passage:
    """A way out that somebody asks for.

    Parameters
    ----------
    connection: the number of the client's connection.
    protocol: how it was asked for: ``connect``, ``http``, ``socks5``, ``tls``, ``dns`` or ``forward``.
    name: the host's, as it was asked for until it has been decided.
    """

    def __init__(
        self, connection: int, protocol: str, name: str = "", port: int | None = None, method: str = ""
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self.name = name
        self.port = port
        self.method = method
        self.decision: Decision | None = None
        self.address: str | None = None
        self.rule = ""
        self._began: float | None = None

    def write(self, events: Events, verdict: str, reason: str = "", **more: int | None) -> None:
        """One event of this passage."""
        known = {"id": self.connection, "name": self.name, "address": self.address, "port": self.port}
        events.write(
            verdict, self.protocol, **known, rule=self.rule, reason=reason, method=self.method, **more
        )

    def begin(self, events: Events) -> None:
        """It is allowed, and connected."""
        self._began = time.monotonic()
        self.write(events, "allowed")

    def finish(self, events: Events, reason: str, sent: int, received: int) -> None:
        """It is over, if it ever began. `reason` is empty where both ends were done."""
        if self._began is not None:
            took_ms = int((time.monotonic() - self._began) * 1000)
            self._began = None
            self.write(events, "closed", reason, bytesOut=sent, bytesIn=received, durationMs=took_ms)


class Refused(Exception):
    """A passage that is not given. `denied`: by the rules; else it could not be had.

    Parameters
    ----------
    reason: a code; with `passage` all that events and the client are told.
    """

    def __init__(self, passage: Passage, reason: str, *, denied: bool = True) -> None:
        super().__init__(reason)
        self.passage = passage
        self.reason = reason
        self.denied = denied


class Connection:
    """A client, while it is served.

    `passage` is what the connection is used for at the moment, or was used for last. `ended_by` is why it is
    ended from outside, where it is. `due` is the loop's time at which the message that is being waited for
    must be complete.
    """

    def __init__(self, number: int, stream: Stream) -> None:
        self.number = number
        self.stream = stream
        self.passage: Passage | None = None
        self.task: asyncio.Task[None] | None = None
        self.ended_by = ""
        self.due = 0.0
        self.expect_message()

    def expect_message(self) -> None:
        """Wait for a first message, from now on."""
        self.due = asyncio.get_running_loop().time() + FIRST_MESSAGE_S

    async def begins_with(self, passage: Passage) -> bytes:
        """What the message begins with, which stays to be read; nothing where the client is done.

        Raises `Refused`.
        """
        try:
            async with asyncio.timeout_at(self.due):
                first = await self.stream.receive()
        except TimeoutError:
            raise Refused(passage, "timeout", denied=False) from None
        if first:
            self.stream.unread(first)
        return first

    def end(self, reason: str) -> None:
        self.ended_by = self.ended_by or reason
        if self.task is not None:
            self.task.cancel()
