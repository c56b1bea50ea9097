"""What an HTTP request asks for, and what of it and of its answer is passed on. Pure.

What two readers could take for two requests is refused (RFC 9112 6.3, 11.2), and so is a request whose target
and Host disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import h11

from backends.frozen import frozen

__all__ = [
    "BadRequest",
    "Headers",
    "Inside",
    "Wanted",
    "forwarded",
    "framing_is_ambiguous",
    "read_authority",
    "wanted",
]

Headers = list[tuple[bytes, bytes]]

_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(r"http://([^/?#]*)([^#]*)", re.IGNORECASE)
_HTTP_PORT = 80
# RFC 9110 7.6.1, and what is between a client and its proxy alone.
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})


class BadRequest(Exception):
    """A request that is refused before any rule is asked. `reason` is a code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@frozen
class Inside:
    """Requests that arrive where one port, and one name where it is not None, have been agreed on before."""

    port: int
    name: str | None


@frozen
class Wanted:
    """Whom a request is for. `target` is what that server is asked for: a path."""

    name: str
    port: int
    target: bytes

    @property
    def host(self) -> bytes:
        """The Host header."""
        return f"{self.name}{'' if self.port == _HTTP_PORT else f':{self.port}'}".encode()


def wanted(request: h11.Request, inside: Inside | None) -> Wanted:
    """What a request, other than CONNECT, asks for.

    Parameters
    ----------
    inside: what has been agreed on; None: it was sent to a proxy and must name all of it.

    Raises `BadRequest`.
    """
    if framing_is_ambiguous(request.headers):
        raise BadRequest("framing_ambiguous")
    hosts = [value for name, value in request.headers if name == b"host"]
    host = read_authority(hosts[0].decode("latin-1"), _HTTP_PORT) if hosts else None
    target = request.target.decode("latin-1")
    if inside is None:
        return _absolute(target, host, bool(hosts))
    if not (target.startswith("/") or target == "*") or "#" in target:
        raise BadRequest("target_malformed")
    if host is None:
        raise BadRequest("host_malformed")
    name, port = host
    has_port = hosts[0].decode("latin-1").rpartition(":")[2].isdigit()
    if (has_port and port != inside.port) or (inside.name is not None and _fold(name) != inside.name):
        raise BadRequest("host_mismatch")
    return Wanted(_fold(name), inside.port, request.target)


def read_authority(text: str, default_port: int | None) -> tuple[str, int] | None:
    """The host and the port of ``host:port``; None: it is malformed. Credentials make it so."""
    match = _AUTHORITY.fullmatch(text)
    port = None if match is None else int(match[2]) if match[2] else default_port
    return None if match is None or port is None or not 0 < port < 65_536 else (match[1], port)


def framing_is_ambiguous(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a message has both of the headers that say how long it is."""
    names = {name for name, _ in headers}
    return {b"content-length", b"transfer-encoding"} <= names


def forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers that go on to the other side: without those of the hop, nor those that Connection names.

    Raises `BadRequest` where Connection names one that says what the message is.
    """
    pairs = list(headers)
    named = {
        word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")
    }
    if named & _FRAMING:
        raise BadRequest("framing_ambiguous")
    dropped = _HOP_BY_HOP | named
    return [(name, value) for name, value in pairs if name not in dropped and not name.startswith(b"proxy-")]


def _absolute(target: str, host: tuple[str, int] | None, has_host: bool) -> Wanted:
    match = _ABSOLUTE.fullmatch(target)
    authority = None if match is None else read_authority(match[1], _HTTP_PORT)
    if match is None or authority is None:
        raise BadRequest("target_malformed")
    if has_host and (host is None or (_fold(host[0]), host[1]) != (_fold(authority[0]), authority[1])):
        raise BadRequest("host_mismatch")
    path = match[2] if match[2].startswith("/") else f"/{match[2]}"
    return Wanted(_fold(authority[0]), authority[1], path.encode("latin-1"))


def _fold(name: str) -> str:
    return name.lower().removesuffix(".")
