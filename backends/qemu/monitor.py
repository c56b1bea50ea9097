"""QEMU's monitor: commands under a deadline, on a socket that QEMU inherited (effectful).

There is no path to the monitor, so nobody else can connect, and the end of the socket is the end of QEMU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from socket import socket
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError
from qemu.qmp.error import ProtocolError

__all__ = ["Monitor", "MonitorLost", "MonitorRefused", "MonitorSilent"]

CALL_S = 5.0


class MonitorLost(Exception):
    """QEMU closed the monitor: it is gone, or about to be."""


class MonitorSilent(Exception):
    """QEMU did not answer within the deadline."""


class MonitorRefused(Exception):
    """QEMU answered a command with an error."""


class Monitor:
    """One connection, taken over by `open`. Calls may be made at once from several tasks."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    @classmethod
    async def open(cls, sock: socket, *, deadline_s: float) -> Monitor:
        """Wait for QEMU's greeting and negotiate.

        Raises `MonitorLost` and `MonitorSilent`.
        """
        client = QMPClient("qemu")
        client.logger.disabled = True
        sock.setblocking(False)
        try:
            await asyncio.wait_for(client.connect(sock), deadline_s)
        except TimeoutError as error:
            sock.close()
            raise MonitorSilent(f"QEMU's monitor said nothing within {deadline_s:g} s") from error
        except (QMPError, EOFError, OSError) as error:
            sock.close()
            raise MonitorLost("QEMU ended while it started") from error
        return cls(client)

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, deadline_s: float = CALL_S
    ) -> Any:
        """Run one command and answer what it returns.

        Raises `MonitorRefused` with QEMU's reason, `MonitorLost`, `MonitorSilent`.
        """
        call = self._client.execute(command, dict(arguments) if arguments is not None else None)
        try:
            return await asyncio.wait_for(call, deadline_s)
        except TimeoutError as error:
            raise MonitorSilent(f"QEMU did not answer {command!r} within {deadline_s:g} s") from error
        except ExecuteError as error:
            raise MonitorRefused(f"{command}: {error}") from error
        except (QMPError, ProtocolError, EOFError, OSError) as error:
            raise MonitorLost(f"QEMU ended during {command!r}") from error

    async def hand_over(self, fd: int, name: str) -> None:
        """Give QEMU a copy of `fd` under `name`; raises as `execute`."""
        self._send(fd)
        await self.execute("getfd", {"fdname": name})

    async def hand_over_file(self, fd: int, number: int) -> None:
        """Give QEMU a copy of `fd` that it opens as ``/dev/fdset/NUMBER``; raises as `execute`."""
        self._send(fd)
        await self.execute("add-fd", {"fdset-id": number})

    def _send(self, fd: int) -> None:
        try:
            self._client.send_fd_scm(fd)
        except (QMPError, OSError) as error:
            raise MonitorLost("QEMU ended before it took a descriptor") from error

    async def close(self) -> None:
        """Let go of the connection; QEMU itself is not told to end."""
        with suppress(QMPError, EOFError, OSError, TimeoutError):
            await asyncio.wait_for(self._client.disconnect(), CALL_S)
