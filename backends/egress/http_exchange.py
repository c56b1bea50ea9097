"""One request and its answer between two HTTP/1.1 connections, both ways at once."""

from __future__ import annotations

import asyncio

import h11

from backends.egress.bounds import IDLE_S
from backends.egress.http_requests import BadRequest, forwarded, framing_is_ambiguous
from backends.egress.streams import Stream

__all__ = ["ClientFailed", "HttpPeer", "UpstreamFailed", "exchange"]

HttpEvent = (
    h11.Request
    | h11.InformationalResponse
    | h11.Response
    | h11.Data
    | h11.EndOfMessage
    | h11.ConnectionClosed
    | type[h11.PAUSED]
)

# Together at most 32 KiB of headers: h11 looks at what it has after every portion.
_LONGEST_UNFINISHED = 24 * 1024
_HEAD_PORTION = 8 * 1024


class ClientFailed(Exception):
    """The client broke off, or sent what is no HTTP."""


class UpstreamFailed(Exception):
    """The server did."""


class HttpPeer:
    """An HTTP connection over `stream`. Waiting for the other side is bounded by `IDLE_S` each time."""

    def __init__(self, stream: Stream, role: type[h11.CLIENT] | type[h11.SERVER]) -> None:
        self.stream = stream
        self.state = h11.Connection(role, _LONGEST_UNFINISHED)

    @property
    def is_reusable(self) -> bool:
        """Whether this message is complete both ways, and another one may follow."""
        return self.state.our_state is h11.DONE and self.state.their_state is h11.DONE

    async def next_event(self) -> HttpEvent:
        """Raises h11.RemoteProtocolError, OSError (TimeoutError included)."""
        while True:
            event = self.state.next_event()
            if event is not h11.NEED_DATA:
                return event  # pyright: ignore[reportReturnType]  # h11 types it as its base class
            in_body = self.state.their_state is h11.SEND_BODY
            async with asyncio.timeout(IDLE_S):
                portion = await (self.stream.receive() if in_body else self.stream.receive(_HEAD_PORTION))
            self.state.receive_data(portion)

    async def send(self, event: h11.Event) -> None:
        """Raises h11.LocalProtocolError, OSError (TimeoutError included)."""
        data = self.state.send(event)
        if data:
            async with asyncio.timeout(IDLE_S):
                await self.stream.send(data)


async def exchange(client: HttpPeer, upstream: HttpPeer, request: h11.Request) -> bool:
    """Send `request` and the body that the client sends on, and pass the answer back.

    Returns whether `upstream` may be used again. Raises `ClientFailed`, `UpstreamFailed`.
    """
    try:
        await upstream.send(request)
    except OSError as error:
        raise UpstreamFailed from error
    body = _Body()
    sending = asyncio.create_task(body.send(client, upstream))
    receiving = asyncio.create_task(_pass_answer(client, upstream))
    tasks = [sending, receiving]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not receiving.done():
            await sending
        await receiving
        return body.is_sent and upstream.is_reusable
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Body:
    """What a client sends after its request's head; then it is watched, for it may go without its answer."""

    is_sent = False

    async def send(self, client: HttpPeer, upstream: HttpPeer) -> None:
        """Raises `ClientFailed`. A server that stops listening may still answer: that is no error here."""
        while not self.is_sent:
            try:
                event = await client.next_event()
            except (h11.RemoteProtocolError, OSError) as error:
                raise ClientFailed from error
            if not isinstance(event, h11.Data | h11.EndOfMessage):
                raise ClientFailed
            last = isinstance(event, h11.EndOfMessage)
            try:
                await upstream.send(h11.EndOfMessage() if last else h11.Data(data=event.data))
            except OSError:
                return
            self.is_sent = last
        if await client.stream.departed():
            raise ClientFailed


async def _pass_answer(client: HttpPeer, upstream: HttpPeer) -> None:
    while True:
        try:
            event = await upstream.next_event()
            answer = _passed_on(event, client.state.their_http_version)
        except (h11.RemoteProtocolError, OSError, BadRequest) as error:
            raise UpstreamFailed from error
        if answer is None:
            continue
        try:
            await client.send(answer)
        except OSError as error:
            raise ClientFailed from error
        except h11.LocalProtocolError as error:
            raise UpstreamFailed from error
        if isinstance(answer, h11.EndOfMessage):
            return


def _passed_on(event: HttpEvent, version: bytes | None) -> h11.Event | None:
    """What the client is sent for an event of the server's; trailers stay here (RFC 9110 6.5.1)."""
    if isinstance(event, h11.InformationalResponse):
        if version is None or version < b"1.1":
            return None
        return h11.InformationalResponse(status_code=event.status_code, headers=forwarded(event.headers))
    if isinstance(event, h11.Response):
        if framing_is_ambiguous(event.headers):
            raise BadRequest("framing_ambiguous")
        headers = forwarded(event.headers)
        return h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
    if isinstance(event, h11.Data):
        return h11.Data(data=event.data)
    if isinstance(event, h11.EndOfMessage):
        return h11.EndOfMessage()
    raise BadRequest("response_malformed")
