"""Plain HTTP: every request of a connection is decided anew, by name, port and method."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import h11

from backends.egress.bounds import KEEP_ALIVE_S
from backends.egress.gate import Gate
from backends.egress.http_exchange import ClientFailed, HttpPeer, UpstreamFailed, exchange
from backends.egress.http_requests import (
    BadRequest,
    Inside,
    forwarded,
    read_authority,
    wanted,
)
from backends.egress.passages import Connection, Passage, Refused
from backends.egress.streams import Stream
from backends.network.policy import Inspection

__all__ = ["HttpService", "Tunnel"]

Tunnel = Callable[[Passage, Callable[[Refused | None], Awaitable[None]]], Awaitable[None]]

_VERSIONS = (b"1.0", b"1.1")
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class _Upstream:
    """A connection to a server, kept for the client's next request."""

    def __init__(self, peer: HttpPeer, passage: Passage) -> None:
        self.peer = peer
        self.name, self.port, self.address = passage.name, passage.port, passage.address or ""

    def serves(self, passage: Passage) -> bool:
        return (self.name, self.port) == (passage.name, passage.port) and self.peer.stream.is_quiet()


class HttpService:
    """Serves one client's connection.

    Parameters
    ----------
    inside: what has been agreed on about its requests; None: they are sent to a proxy, in absolute form.
    tunnel: serves CONNECT; None: it is refused.
    """

    def __init__(
        self, gate: Gate, connection: Connection, inside: Inside | None, tunnel: Tunnel | None = None
    ) -> None:
        self._gate = gate
        self._connection = connection
        self._inside = inside
        self._tunnel = tunnel
        self._client = HttpPeer(connection.stream, h11.SERVER)
        self._upstream: _Upstream | None = None

    async def serve(self) -> None:
        """Until the client has no more requests. Raises `Refused`, after the client has been answered."""
        try:
            while (request := await self._next_request()) is not None:
                passage = Passage(self._connection.number, "http", method=request.method.decode("ascii"))
                try:
                    if request.http_version not in _VERSIONS:
                        raise BadRequest("version_unknown")
                    if request.method == b"CONNECT":
                        await self._open_tunnel(request)
                        return
                    await self._serve_one(request, passage)
                except BadRequest as bad:
                    await self._answer(HTTPStatus.BAD_REQUEST, passage, bad.reason)
                    raise Refused(passage, bad.reason) from bad
                except ClientFailed:
                    return
                if not self._client.is_reusable:
                    await self._connection.stream.linger()
                    return
                self._client.state.start_next_cycle()
                if not await self._is_next():
                    return
        finally:
            self._drop_upstream()

    async def _next_request(self) -> h11.Request | None:
        passage = Passage(self._connection.number, "http")
        try:
            async with asyncio.timeout_at(self._connection.due):
                event = await self._client.next_event()
        except TimeoutError:
            await self._answer(HTTPStatus.REQUEST_TIMEOUT, passage, "timeout")
            raise Refused(passage, "timeout", denied=False) from None
        except h11.RemoteProtocolError as error:
            await self._answer(error.error_status_hint, passage, "request_malformed")
            raise Refused(passage, "request_malformed") from error
        return event if isinstance(event, h11.Request) else None

    async def _is_next(self) -> bool:
        """Wait for the next request's first byte: whether it comes."""
        if not self._client.state.trailing_data[0]:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    if await self._client.stream.departed():
                        return False
            except TimeoutError:
                return False
        self._connection.expect_message()
        return True

    async def _serve_one(self, request: h11.Request, passage: Passage) -> None:
        asked = wanted(request, self._inside)
        headers = forwarded(request.headers)
        headers = [(b"Host", asked.host), *((name, value) for name, value in headers if name != b"host")]
        if any(name == b"transfer-encoding" for name, _ in request.headers):
            headers.append((b"Transfer-Encoding", b"chunked"))  # the only one that h11 takes
        passage.name, passage.port = asked.name, asked.port
        try:
            if self._gate.admit(self._connection, passage).inspection is Inspection.TLS:
                raise Refused(passage, "not_tls")
            upstream = await self._reach(passage)
        except Refused as refused:
            await self._refuse(refused)
            raise
        forward = h11.Request(method=request.method, target=asked.target, headers=headers)
        await self._exchange(upstream, forward, passage)

    async def _reach(self, passage: Passage) -> _Upstream:
        """A connection for `passage`: the one there is, where that leads to the same place, or a new one."""
        kept = self._upstream
        if kept is not None and kept.serves(passage) and self._gate.check(passage, kept.address).allowed:
            passage.address = kept.address
            passage.begin(self._gate.events)
            kept.peer.state.start_next_cycle()
            return kept
        self._drop_upstream()
        addresses = await self._gate.resolve(passage)
        connected = await self._gate.connect(passage, addresses)
        self._upstream = _Upstream(HttpPeer(Stream(connected), h11.CLIENT), passage)
        return self._upstream

    async def _exchange(self, upstream: _Upstream, request: h11.Request, passage: Passage) -> None:
        stream = upstream.peer.stream
        sent, received = stream.sent, stream.received
        reason, keep = "broken", False
        try:
            keep = await exchange(self._client, upstream.peer, request)
            reason = ""
        except UpstreamFailed:
            if self._client.state.our_state is not h11.SEND_RESPONSE:
                raise ClientFailed from None
            await self._answer(HTTPStatus.BAD_GATEWAY, passage, "response_malformed")
        finally:
            if self._client.state.our_state is h11.SEND_BODY:
                self._client.stream.abort()  # half of an answer must not look like a whole one
            reason = self._connection.ended_by or reason
            passage.finish(self._gate.events, reason, stream.sent - sent, stream.received - received)
            if not keep:
                self._drop_upstream()

    async def _open_tunnel(self, request: h11.Request) -> None:
        authority = read_authority(request.target.decode("latin-1"), None)
        if self._tunnel is None or authority is None:
            raise BadRequest("target_malformed")
        if {name for name, _ in request.headers} & {b"content-length", b"transfer-encoding"}:
            raise BadRequest("framing_ambiguous")  # CONNECT has no body (RFC 9110 9.3.6)
        self._drop_upstream()
        await self._client.next_event()
        self._client.stream.unread(self._client.state.trailing_data[0])
        passage = Passage(self._connection.number, "connect", *authority)

        async def reply(refused: Refused | None) -> None:
            if refused is not None:
                await self._refuse(refused)
            else:
                await self._client.stream.send(_ESTABLISHED)

        await self._tunnel(passage, reply)

    async def _refuse(self, refused: Refused) -> None:
        status = HTTPStatus.FORBIDDEN if refused.denied else HTTPStatus.BAD_GATEWAY
        await self._answer(status, refused.passage, refused.reason)

    async def _answer(self, status: int, passage: Passage, reason: str) -> None:
        """An answer of our own, after which the connection is closed. It says why, and which rule."""
        rule = f" ({passage.rule})" if passage.rule else ""
        body = f"mxc-ops: {reason}{rule}\n".encode()
        phrase = HTTPStatus(status).phrase
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("X-Mxc-Denied", reason),
            ("Connection", "close"),
        ]
        with contextlib.suppress(OSError, h11.LocalProtocolError):
            await self._client.send(h11.Response(status_code=status, headers=headers, reason=phrase))
            if passage.method != "HEAD":
                await self._client.send(h11.Data(data=body))
            await self._client.send(h11.EndOfMessage())

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.peer.stream.close()
            self._upstream = None
