"""Plain HTTP through the real proxy: every request is decided anew, and none can be read in two ways."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import h11
import pytest

from backends.egress.rules import Rules
from backends.network.policy import Inspection
from tests.unit.egress_peers import (
    WEB,
    Network,
    Proxy,
    is_ended,
    name_rule,
    network,
    read_all,
    read_head,
)

RULES = Rules(
    (
        name_rule("example.test", ports=((80, 80), (443, 443))),
        name_rule("read.test", "names.1", methods=("GET", "HEAD")),
        name_rule("web.test", "names.2", ports=((80, 84),), inspection=Inspection.HTTP),
    ),
    (name_rule("bad.test", "deniedNames.0"),),
)


class Server:
    """Answers each request with what it saw of it; `requests` are their heads, `connections` is a count."""

    def __init__(self) -> None:
        self.requests: list[h11.Request] = []
        self.connections = 0

    def handle(self, sock: socket.socket) -> None:
        self.connections += 1
        state = h11.Connection(h11.SERVER)
        while True:
            request: h11.Request | None = None
            body = b""
            while True:
                event: Any = state.next_event()
                if event is h11.NEED_DATA:
                    if state.they_are_waiting_for_100_continue:
                        sock.sendall(
                            state.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                        )
                    state.receive_data(sock.recv(65_536))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
            if request is None:
                return
            self.requests.append(request)
            said = request.method + b" " + request.target + b" " + body
            headers = [("Content-Length", str(len(said))), ("X-Web", "1"), ("Keep-Alive", "timeout=5")]
            answer = state.send(h11.Response(status_code=200, headers=headers)) or b""
            if request.method != b"HEAD":
                answer += state.send(h11.Data(data=said)) or b""
            sock.sendall(answer + (state.send(h11.EndOfMessage()) or b""))
            if state.our_state is not h11.DONE:
                return
            state.start_next_cycle()


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        for name in ("example.test", "read.test", "web.test", "bad.test"):
            made.names[name] = [WEB]
        yield made


@pytest.fixture(scope="module")
def servers(net: Network) -> dict[int, bytes]:
    """Port → what a server says there, whatever it is asked: the answer may be changed."""
    answers: dict[int, bytes] = {}

    def at(port: int) -> None:
        def handle(sock: socket.socket) -> None:
            read_head(sock)
            sock.sendall(answers[port])

        net.serve(WEB, port, handle)

    at(81)

    def never_answer(sock: socket.socket) -> None:
        read_all(sock)

    net.serve(WEB, 82, never_answer)
    return answers


@pytest.fixture(scope="module")
def _server(net: Network) -> Server:
    server = Server()
    net.serve(WEB, 80, server.handle)
    return server


@pytest.fixture
def server(_server: Server) -> Server:
    _server.requests.clear()
    _server.connections = 0
    return _server


@pytest.fixture
def proxy(net: Network) -> Iterator[Proxy]:
    with Proxy(net, RULES) as made:
        yield made


def get(url: str, host: str | None = None, method: str = "GET", more: str = "") -> bytes:
    host = url.split("/")[2] if host is None else host
    return f"{method} {url} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def answers(
    client: socket.socket, count: int, method: bytes = b"GET"
) -> list[tuple[int, bytes, dict[bytes, bytes]]]:
    """The next answers on a connection: status, body, headers."""
    state = h11.Connection(h11.CLIENT)
    found: list[tuple[int, bytes, dict[bytes, bytes]]] = []
    for _ in range(count):
        state.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        state.send(h11.EndOfMessage())
        status, body, headers = 0, b"", dict[bytes, bytes]()
        while True:
            event: Any = state.next_event()
            if event is h11.NEED_DATA:
                state.receive_data(client.recv(65_536))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        found.append((status, body, headers))
        if state.our_state is h11.DONE and state.their_state is h11.DONE:
            state.start_next_cycle()
    return found


def test_a_request_goes_on_in_origin_form_without_the_hops_headers(proxy: Proxy, server: Server) -> None:
    client = proxy.client()
    more = "Proxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: close\r\n"
    more += "Connection: X-Hop\r\nX-Hop: 1\r\nX-Keep: 2\r\n"
    client.sendall(
        get("http://Example.test/a?b=c", "example.TEST", more=more + "Upgrade: h2c\r\nTE: trailers\r\n")
    )
    [(status, body, headers)] = answers(client, 1)
    assert (status, body) == (200, b"GET /a?b=c ")
    assert headers[b"x-web"] == b"1" and b"keep-alive" not in headers
    assert dict(server.requests[0].headers) == {b"host": b"example.test", b"x-keep": b"2"}
    assert proxy.event(verdict="allowed")["method"] == "GET"
    assert proxy.event(verdict="closed")["bytesIn"] > 0
    assert all(word not in str(proxy.events()) for word in ("b=c", "secret", "c2VjcmV0", "/a"))


def test_requests_of_one_connection_reach_one_server_over_one(proxy: Proxy, server: Server) -> None:
    client = proxy.client()
    for number in range(3):
        client.sendall(get(f"http://example.test/{number}"))
        [(status, body, _)] = answers(client, 1)
        assert (status, body) == (200, f"GET /{number} ".encode())
    assert server.connections == 1
    client.sendall(get("http://read.test/3") + get("http://read.test/4"))
    assert [body for _, body, _ in answers(client, 2)] == [b"GET /3 ", b"GET /4 "]
    assert server.connections == 2


@pytest.mark.parametrize(
    ("second", "status", "reason"),
    [
        (get("http://other.test/"), 403, "name_not_allowed"),
        (get("http://bad.test/"), 403, "name_denied"),
        (get("http://example.test:8080/"), 403, "port_not_allowed"),
        (get("http://read.test/", method="POST", more="Content-Length: 0\r\n"), 403, "method_not_allowed"),
        (get("http://127.0.0.1/"), 403, "address_literal"),
        (get("http://example.test:443/"), 403, "not_tls"),
        (get("https://example.test/"), 400, "target_malformed"),
        (get("http://example.test/", "other.test"), 400, "host_mismatch"),
        (b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n", 400, "target_malformed"),
    ],
)
def test_a_later_request_is_decided_like_the_first(
    proxy: Proxy, server: Server, second: bytes, status: int, reason: str
) -> None:
    for first in (b"", get("http://example.test/first")):
        client = proxy.client()
        client.sendall(first + second)
        found = answers(client, 2 if first else 1)
        assert found[-1][0] == status and found[-1][2][b"x-mxc-denied"] == reason.encode()
        assert is_ended(client)
    assert proxy.event(verdict="denied", reason=reason)
    assert len(server.requests) == 1


def test_the_head_of_a_refused_post_is_answered_though_its_body_still_comes(proxy: Proxy) -> None:
    client = proxy.client()
    client.sendall(
        get("http://read.test/", method="POST", more="Content-Length: 500000\r\n") + bytes(500_000)
    )
    [(status, body, _)] = answers(client, 1)
    assert status == 403 and b"method_not_allowed (names.1)" in body


@pytest.mark.parametrize(
    "raw",
    [
        get("http://example.test/", more="Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")
        + b"0\r\n\r\n",
        get("http://example.test/", more="Content-Length: 3\r\nContent-Length: 4\r\n") + b"abcd",
        get("http://example.test/", more="Content-Length: +3\r\n") + b"abc",
        get("http://example.test/", more="Connection: content-length\r\nContent-Length: 3\r\n") + b"abc",
        get("http://example.test/", more="Transfer-Encoding: chunked, chunked\r\n") + b"0\r\n\r\n",
        get("http://example.test/", more="Transfer-Encoding: xchunked\r\n") + b"0\r\n\r\n",
        get("http://example.test/", more="Host: example.test\r\n"),
        get("http://example.test/", more="X : 1\r\n"),
        get("http://example.test/", more="X: a\x00b\r\n"),
        get("http://exa mple.test/", "example.test"),
        b"GET http://example.test/ HTTP/2.0\r\nHost: example.test\r\n\r\n",
        get("http://example.test/", more=f"X: {'a' * 40_000}\r\n"),
        get("http://example.test/", more="".join(f"X{number}: {'a' * 100}\r\n" for number in range(400))),
        b"\x00\xff" * 20 + b"\r\n\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_or_never_ends_goes_nowhere(
    proxy: Proxy, server: Server, raw: bytes
) -> None:
    client = proxy.client()
    client.sendall(raw)
    head = read_head(client)
    assert head.split()[1] in (b"400", b"431", b"501"), head
    assert read_all(client).startswith(b"mxc-ops: ")
    assert server.requests == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_arrives_whole(proxy: Proxy, server: Server, chunked: bool) -> None:
    body = b"0123456789abcdef" * 20_000
    client = proxy.client()
    if chunked:
        raw = (
            b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (body[:7], body[7:]))
            + b"0\r\nX-T: 1\r\n\r\n"
        )
        more = "Transfer-Encoding: chunked\r\n"
    else:
        raw, more = body, f"Content-Length: {len(body)}\r\n"
    threading.Thread(
        target=client.sendall, args=(get("http://example.test/p", method="POST", more=more) + raw,)
    ).start()
    [(status, got, _)] = answers(client, 1)
    assert (status, got) == (200, b"POST /p " + body)


def test_who_waits_for_100_continue_gets_it(proxy: Proxy, server: Server) -> None:
    client = proxy.client()
    more = "Expect: 100-continue\r\nContent-Length: 3\r\n"
    client.sendall(get("http://example.test/", method="PUT", more=more))
    assert read_head(client).startswith(b"HTTP/1.1 100")
    client.sendall(b"abc")
    [(status, body, _)] = answers(client, 1)
    assert (status, body) == (200, b"PUT / abc")


def test_head_and_an_old_client(proxy: Proxy, server: Server) -> None:
    client = proxy.client()
    client.sendall(get("http://example.test/", method="HEAD"))
    [(status, body, headers)] = answers(client, 1, b"HEAD")
    assert (status, body, headers[b"content-length"]) == (200, b"", b"7")
    client = proxy.client()
    client.sendall(b"GET http://example.test/old HTTP/1.0\r\n\r\n")
    assert read_all(client).endswith(b"\r\n\r\nGET /old ")


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", b"abc"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_however_a_server_ends_its_answer_it_arrives_whole(
    proxy: Proxy, servers: dict[int, bytes], answer: bytes, body: bytes
) -> None:
    servers[81] = answer
    client = proxy.client()
    client.sendall(get("http://web.test:81/"))
    [(status, got, _)] = answers(client, 1)
    assert status in (200, 204) and got == body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
def test_a_server_that_does_not_speak_http_is_a_bad_gateway(
    proxy: Proxy, servers: dict[int, bytes], answer: bytes
) -> None:
    servers[81] = answer
    client = proxy.client()
    client.sendall(get("http://web.test:81/", more="Upgrade: x\r\nConnection: upgrade\r\n"))
    [(status, _, headers)] = answers(client, 1)
    assert (status, headers[b"x-mxc-denied"]) == (502, b"response_malformed")


def test_half_an_answer_does_not_look_like_a_whole_one(proxy: Proxy, servers: dict[int, bytes]) -> None:
    servers[81] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    client = proxy.client()
    client.sendall(b"GET http://web.test:81/ HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        while client.recv(65_536):
            pass


def test_a_client_that_goes_without_its_answer_is_let_go(proxy: Proxy, servers: dict[int, bytes]) -> None:
    client = proxy.client()
    client.sendall(get("http://web.test:82/"))
    proxy.event(verdict="allowed")
    client.close()
    assert proxy.event(verdict="closed")["reason"] == "broken"


def test_a_tunnel_to_port_80_is_read_request_by_request(proxy: Proxy, server: Server) -> None:
    client, head = proxy.connect("read.test:80")
    assert head.startswith(b"HTTP/1.1 200")
    client.sendall(b"GET /x HTTP/1.1\r\nHost: read.test\r\n\r\n")
    assert answers(client, 1)[0][1] == b"GET /x "
    client.sendall(b"DELETE /x HTTP/1.1\r\nHost: read.test\r\n\r\n")
    [(status, _, headers)] = answers(client, 1)
    assert (status, headers[b"x-mxc-denied"]) == (403, b"method_not_allowed")
    assert [request.target for request in server.requests] == [b"/x"]


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n", b"host_mismatch"),
        (b"GET / HTTP/1.1\r\nHost: web.test:81\r\n\r\n", b"host_mismatch"),
        (b"GET http://web.test/ HTTP/1.1\r\nHost: web.test\r\n\r\n", b"target_malformed"),
        (b"CONNECT web.test:80 HTTP/1.1\r\nHost: web.test\r\n\r\n", b"target_malformed"),
        (b"\x16\3\1\0\1\1", b"request_malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"version_unknown"),
    ],
)
def test_a_tunnel_to_port_80_is_for_the_name_it_was_asked_for(
    proxy: Proxy, server: Server, inside: bytes, reason: bytes
) -> None:
    client, _ = proxy.connect("web.test:80")
    client.sendall(inside + b"\r\n\r\n")
    assert b"X-Mxc-Denied: " + reason + b"\r\n" in read_all(client)
    assert server.requests == []


def test_a_name_that_leads_elsewhere_later_is_decided_later(
    net: Network, proxy: Proxy, server: Server
) -> None:
    net.names["web.test"] = ["127.0.0.1"]
    try:
        client = proxy.client()
        client.sendall(get("http://web.test/"))
        [(status, _, headers)] = answers(client, 1)
        assert (status, headers[b"x-mxc-denied"]) == (403, b"address_loopback")
    finally:
        net.names["web.test"] = [WEB]
    assert server.requests == []
