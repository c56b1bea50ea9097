"""The real proxy under clients that mean it harm, and under a host that runs out."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.egress.bounds import CLIENTS
from backends.egress.rules import Rules
from backends.egress.settings import ListenerKind
from backends.network.policy import Inspection
from tests.unit.egress_peers import (
    DEADLINE_S,
    WEB,
    Network,
    Proxy,
    client_hello,
    is_ended,
    name_rule,
    network,
    read_all,
    read_head,
)

RULES = Rules((name_rule("example.test", ports=((7, 7), (443, 443)), inspection=Inspection.NONE),))
TLS = Rules((name_rule("example.test"),))


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:

        def echo(sock: socket.socket) -> None:
            while data := sock.recv(65_536):
                sock.sendall(data)

        made.serve(WEB, 7, echo)
        made.names["example.test"] = [WEB]
        yield made


def assert_served(proxy: Proxy) -> None:
    """A tunnel can be had, before the deadline: whoever was there before may still be on their way out."""
    for _ in range(200):
        with contextlib.suppress(ConnectionError):
            client, head = proxy.connect("example.test:7")
            with client:
                if head.startswith(b"HTTP/1.1 200"):
                    client.sendall(b"served")
                    assert client.recv(10) == b"served"
                    return
        threading.Event().wait(0.1)
    raise AssertionError("nobody is served any more")


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_flood_of_connections_ends_when_it_ends(net: Network, count: int) -> None:
    with Proxy(net, RULES) as proxy, contextlib.ExitStack() as flood:
        port = proxy.ports[ListenerKind.PROXY]

        def open_all() -> None:
            for _ in range(count):
                sock = flood.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))

        net.sandbox.run(open_all)
        turned_away = proxy.event(reason="too_many_connections")
        assert turned_away["count"] >= 1
        flood.close()
        assert_served(proxy)
        told = [event for event in proxy.events() if event.get("reason") == "too_many_connections"]
        assert sum(event["count"] for event in told) <= count - CLIENTS


def test_those_who_say_nothing_make_room_for_others(net: Network) -> None:
    with Proxy(net, RULES) as proxy, contextlib.ExitStack() as held:
        for _ in range(CLIENTS + 50):
            held.enter_context(proxy.client())
        assert_served(proxy)  # while all of them are still open


def until_hung_up_on(client: socket.socket, said: bytes) -> bytes:
    """Say `said` a byte now and then, and nonsense after it: what is answered when it is too much."""
    client.settimeout(0.4)
    for place in range(100):
        try:
            client.sendall(said[place : place + 1] or b"a")
            return client.recv(4096)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
    raise AssertionError("the proxy has all the time in the world")


def test_who_takes_too_long_for_a_first_message_is_hung_up_on(net: Network) -> None:
    with Proxy(net, TLS) as proxy, ThreadPoolExecutor() as pool:
        in_tunnel, _ = proxy.connect("example.test:443")
        slow = [
            (proxy.client(), b"GET http://example.test/ HTTP/1.1\r\nX: "),
            (proxy.client(), b"\5\1\0\5\1\0\3\xff"),
            (proxy.client(ListenerKind.DNS_TCP), b"\x0f\xff"),
            (in_tunnel, client_hello("example.test")[:90]),
        ]
        clients, says = [client for client, _ in slow], [said for _, said in slow]
        http, socks, dns, hello = pool.map(until_hung_up_on, clients, says)
        assert http.startswith(b"HTTP/1.1 408")
        assert (socks, dns, hello) == (b"\5\0", b"", b"")
        assert is_ended(clients[1])
        for protocol in ("http", "socks5", "connect"):
            assert proxy.event(verdict="closed", protocol=protocol)["reason"] == "timeout"


def test_without_free_descriptors_the_next_ones_are_served_later(net: Network) -> None:
    with Proxy(net, RULES, descriptors=64) as proxy, contextlib.ExitStack() as held:
        crowd = [held.enter_context(proxy.client()) for _ in range(200)]
        crowd[0].sendall(b"CONNECT example.test:7 HTTP/1.1\r\nHost: example.test:7\r\n\r\n")
        assert read_head(crowd[0]).startswith(b"HTTP/1.1 502")
        held.close()
        assert_served(proxy)
        assert proxy.ask(b'{"op":"ping"}\n') == {"ok": True}


def test_random_bytes_on_every_port_do_no_harm(net: Network, soak: bool) -> None:
    chance = random.Random(7)
    starts = [
        b"",
        b"\5\1\0\5\1\0\3",
        b"CONNECT example.test:7 HTTP/1.1\r\n",
        b"GET http://",
        b"\x16\3\1",
        b"\0\x20",
    ]
    with Proxy(net, RULES) as proxy:
        for number in range(2_000 if soak else 200):
            kind = chance.choice([ListenerKind.PROXY, ListenerKind.DNS_TCP, ListenerKind.REDIRECTED])
            with proxy.client(kind) as client, contextlib.suppress(OSError):
                client.sendall(chance.choice(starts) + chance.randbytes(chance.randrange(300)))
                if number % 3:
                    client.shutdown(socket.SHUT_WR)
                    read_all(client)
            with proxy.udp() as sock:
                sock.send(chance.randbytes(chance.randrange(200)))
        assert_served(proxy)


def test_resets_at_every_step_do_no_harm(net: Network) -> None:
    script = b"CONNECT example.test:7 HTTP/1.1\r\nHost: example.test:7\r\n\r\nhello"
    with Proxy(net, RULES) as proxy:
        for size in range(0, len(script) + 1):
            client = proxy.client()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(script[:size])
            client.close()
        assert_served(proxy)


def test_who_reads_nothing_of_much_keeps_nobody_else_waiting(net: Network) -> None:
    with Proxy(net, RULES) as proxy, contextlib.ExitStack() as held:
        for _ in range(20):
            client, _ = proxy.connect("example.test:7")
            held.enter_context(client)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(bytes(1 << 16))
        assert_served(proxy)


def test_a_server_that_resets_is_told_on(net: Network) -> None:
    connected = threading.Event()

    def reset(sock: socket.socket) -> None:
        connected.wait(DEADLINE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    net.serve(WEB, 443, reset)
    with Proxy(net, RULES) as proxy:
        client, head = proxy.connect("example.test:443")
        assert head.startswith(b"HTTP/1.1 200")
        connected.set()
        client.settimeout(DEADLINE_S)
        assert is_ended(client)
        assert proxy.event(verdict="closed")["reason"] == "broken"
