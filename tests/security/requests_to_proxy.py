"""Requests that a filtering proxy could read otherwise than who is behind it: data only.

`WEB` may be reached at ports 80, 443 and 8088, `SECOND` may not be.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["ALLOWED", "CONNECTS", "FORMS", "SECOND", "SMUGGLED", "WEB"]

WEB, SECOND = "web.example.test", "second.test"
_LATER = f"GET http://{SECOND}/smuggled HTTP/1.1\r\nHost: {SECOND}\r\n\r\n"
_ORIGIN = f"GET /smuggled HTTP/1.1\r\nHost: {SECOND}\r\n\r\n"


def _get(target: str, host: str = "") -> str:
    return f"GET {target} HTTP/1.1\r\n{f'Host: {host}' if host else f'Host: {WEB}'}\r\n\r\n"


_TARGETS = (
    *(
        f"http://{WEB}@{SECOND}/",
        f"http://{WEB}:80@{SECOND}/",
        f"http://{SECOND}#@{WEB}/",
        f"http://{SECOND}\\@{WEB}/",
    ),
    *(
        f"http://{SECOND}/@{WEB}/",
        f"http://{SECOND}?@{WEB}/",
        f"http://{WEB}:80:80/",
        f"http://{WEB}.{SECOND}/",
    ),
    *(
        f"http://{WEB}%00.{SECOND}/",
        f"http://{WEB}\0.{SECOND}/",
        f"http://{WEB}%2e{SECOND}/",
        f"http://{WEB}%40{SECOND}/",
    ),
    *(
        f"http://{SECOND}./",
        f"http://{SECOND.upper()}/",
        "http://\uff53econd.test/".encode().decode("latin-1"),
        "http://xn--econd-ora.test/",
    ),
    *(
        f"https://{SECOND}/",
        f"ftp://{SECOND}/",
        f"//{SECOND}/",
        f"http:/{SECOND}/",
        f"http:{SECOND}/",
        f"http:///{SECOND}/",
        "*",
    ),
    *(
        f"http://{WEB}:{port}/"
        for port in ("65616", "+80", "-1", "0", "00000000080", " 80", "8\u00b2", "22", "61080", "")
    ),
    *(
        f"http://{host}/"
        for host in (
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "0",
            "127.0.0.1.",
        )
    ),
    *(
        f"http://{host}:8000/"
        for host in (
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::]",
            "[fe80::1%25lo]",
            "localhost",
            "localhost.",
            "10.187.0.1",
        )
    ),
    *(
        f"http://{host}/latest/"
        for host in ("169.254.169.254", "[fd00:ec2::254]", "0xa9fea9fe", "169.254.43518", "100.100.100.200")
    ),
    *("http://203.0.113.2:8000/", "http://93.184.216.35/", "http://1572395043/"),
)


def _hosts() -> Iterator[str]:
    """The target is allowed, and what else names a host is another."""
    first = f"GET http://{WEB}/ HTTP/1.1\r\n"
    for lines in (
        f"Host: {SECOND}",
        f"Host: {WEB}\r\nHost: {SECOND}",
        f"Host: {SECOND}\r\nHost: {WEB}",
        f"Host: {WEB}, {SECOND}",
        f"Host: {WEB} {SECOND}",
        f"Host: {WEB}:22",
        f"Host : {SECOND}",
        f"Host: {WEB}\r\n\tHost: {SECOND}",
        f" Host: {SECOND}",
        f"Host: {WEB}\r\nConnection: Host",
        f"Host: {WEB}\nHost: {SECOND}",
        f"Host: {WEB}\rHost: {SECOND}",
        f"Host: {SECOND}@{WEB}",
    ):
        yield f"{first}{lines}\r\n\r\n"


FORMS = (
    *(_get(target) for target in _TARGETS),
    *(_get(target, target.partition("://")[2].partition("/")[0]) for target in _TARGETS if "://" in target),
    *_hosts(),
    _get("/", SECOND),
    f"GET http://{WEB}/ HTTP/1.1 http://{SECOND}/ HTTP/1.1\r\nHost: {WEB}\r\n\r\n",
    f"GET http://{SECOND}/ HTTP/0.9\r\n\r\n",
    f"GET http://{SECOND}/ HTTP/2.0\r\nHost: {WEB}\r\n\r\n",
    f"GET http://{SECOND}/\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    f"PROXY TCP4 192.0.2.1 93.184.216.35 1 80\r\nGET / HTTP/1.1\r\nHost: {SECOND}\r\n\r\n",
)
"""None of them reaches anybody."""


def _connect(authority: str, after: str = "") -> str:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {WEB}:443\r\n\r\n\x1e{after}"


CONNECTS = (
    *(
        _connect(f"{host}:443")
        for host in (
            SECOND,
            f"{WEB}@{SECOND}",
            f"{WEB}:443@{SECOND}",
            "93.184.216.35",
            "[::1]",
            "127.1",
            "2130706433",
        )
    ),
    *(
        _connect(authority)
        for authority in (
            WEB,
            f"{WEB}:",
            f"{WEB}:22",
            f"{WEB}:65979",
            f"http://{WEB}:443",
            f"{WEB}:443/",
            f"{WEB}:443,{SECOND}:443",
        )
    ),
    *(
        _connect(f"{SECOND}:443\r\nX: {WEB}:443"),
        _connect(f"{WEB}\t{SECOND}:443"),
        _connect(f"{WEB}%20{SECOND}:443"),
    ),
    _connect(f"{WEB}:443", f"GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n"),
    _connect(f"{WEB}:443", f"GET / HTTP/1.1\r\nHost: {SECOND}\r\n\r\n"),
    _connect(f"{WEB}:443", "SSH-2.0-attack\r\n"),
    _connect(f"{WEB}:80", f"GET / HTTP/1.1\r\nHost: {SECOND}\r\n\r\n"),
    _connect(f"{WEB}:80", f"GET http://{SECOND}/ HTTP/1.1\r\nHost: {WEB}\r\n\r\n"),
    _connect(f"{WEB}:80", f"CONNECT {SECOND}:443 HTTP/1.1\r\nHost: {SECOND}:443\r\n\r\n"),
    f"CONNECT {WEB}:443 HTTP/1.1\r\nHost: {WEB}:443\r\nContent-Length: 5\r\n\r\nhello",
)
"""Neither does any of these, though to some it is said that there is a tunnel."""


def _post(headers: str, body: str) -> str:
    return f"POST http://{WEB}:8088/first HTTP/1.1\r\nHost: {WEB}:8088\r\n{headers}\r\n\r\n{body}"


SMUGGLED = (
    _post(f"Content-Length: {5 + len(_ORIGIN)}\r\nTransfer-Encoding: chunked", f"0\r\n\r\n{_ORIGIN}"),
    _post("Transfer-Encoding: chunked\r\nContent-Length: 4", f"5c\r\n{_ORIGIN}\r\n0\r\n\r\n"),
    _post(f"Content-Length: 0\r\nContent-Length: {len(_ORIGIN)}", _ORIGIN),
    _post(f"Content-Length: {len(_ORIGIN)}\r\nContent-Length: 0", _ORIGIN),
    _post(f"Content-Length: 0, {len(_ORIGIN)}", _ORIGIN),
    *(
        _post(f"Transfer-Encoding: {value}\r\nContent-Length: {len(_ORIGIN) + 5}", f"0\r\n\r\n{_ORIGIN}")
        for value in ("xchunked", "chunked, identity", "identity", "\x0bchunked", "chunked\r\n ,x")
    ),
    *(
        _post(f"Transfer-Encoding: {value}", f"0\r\n\r\n{_ORIGIN}")
        for value in ("xchunked", "chunked, identity", "identity, chunked", "cow")
    ),
    _post(f"Content-Length : {len(_ORIGIN)}", _ORIGIN),
    _post(f"Content-Length: +{len(_ORIGIN)}", _ORIGIN),
    _post(f"Content-Length: 0x{len(_ORIGIN):x}", _ORIGIN),
    _post("Content-Length: -1", _ORIGIN),
    _post(f"X: y\nContent-Length: {len(_ORIGIN)}", _ORIGIN),
    _post("Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding", f"0\r\n\r\n{_ORIGIN}"),
    _post("Content-Length: 5\r\nConnection: Content-Length", f"hello{_ORIGIN}"),
    _post("Transfer-Encoding: chunked", f"0;x=\n{_ORIGIN}\r\n\r\n"),
    _post("Transfer-Encoding: chunked", f"0\r\n{_ORIGIN}\r\n"),
    _post("Transfer-Encoding: chunked", f"0\r\nHost: {SECOND}\r\n\r\n{_LATER}"),
    _post("Transfer-Encoding: chunked", f"-1\r\n\r\n{_ORIGIN}"),
    _post("Transfer-Encoding: chunked", f"FFFFFFFFFFFFFFFF1\r\n{_ORIGIN}\r\n0\r\n\r\n"),
    _post("Content-Length: 5", f"hello{_LATER}"),
    _post("Content-Length: 5\r\nExpect: 100-continue", f"hello{_ORIGIN}"),
    _post("Content-Length: 5\r\nUpgrade: websocket\r\nConnection: Upgrade", f"hello{_ORIGIN}"),
    _post(
        "Content-Length: 5\r\nX-Forwarded-Host: " + SECOND + "\r\nProxy-Connection: keep-alive",
        f"hello{_ORIGIN}",
    ),
)
"""What of them goes on to the server there, it can read in one way only."""

ALLOWED = (
    _post("Content-Length: 5", "hello"),
    _post("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
)
