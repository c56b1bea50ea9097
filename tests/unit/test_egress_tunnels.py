"""Tunnels through the real proxy: by CONNECT and by SOCKS5, to names that prove to be the ones allowed."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from backends.egress.rules import Rules
from backends.frozen import replace
from backends.network.policy import Inspection, Peer, Ports, Protocol, Rule
from tests.unit.egress_peers import (
    DEADLINE_S,
    HOST,
    OTHER,
    WEB,
    WEB_6,
    Certificates,
    Network,
    Proxy,
    client_hello,
    is_ended,
    name_rule,
    network,
    read_all,
    read_head,
)

OPAQUE = name_rule("raw.example.test", "names.1", ports=((7, 7), (9, 9)), inspection=Inspection.NONE)
RULES = Rules(
    (name_rule("example.test"), OPAQUE, name_rule("*.example.test", "names.2")),
    (name_rule("bad.example.test", "deniedNames.0"),),
)
HELLO = client_hello("example.test")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def net(certificates: Certificates) -> Iterator[Network]:
    with network() as made:
        context = certificates.server()

        def echo_tls(sock: socket.socket) -> None:
            with context.wrap_socket(sock, server_side=True) as talk:
                while data := talk.recv(65_536):
                    talk.sendall(data)

        def echo(sock: socket.socket) -> None:
            while data := sock.recv(65_536):
                sock.sendall(data)

        def tell_at_the_end(sock: socket.socket) -> None:
            digest = hashlib.sha256()
            while data := sock.recv(1 << 20):
                digest.update(data)
            sock.sendall(digest.digest())

        for address in (WEB, WEB_6):
            made.serve(address, 443, echo_tls)
        made.serve(OTHER, 443, lambda sock: sock.sendall(b"the wrong host"))
        made.serve(WEB, 7, echo)
        made.serve(WEB, 9, tell_at_the_end)
        yield made


@pytest.fixture(autouse=True)
def names(net: Network) -> dict[str, list[str]]:
    net.names.clear()
    known = ("example.test", "a.example.test", "bad.example.test", "raw.example.test")
    net.names.update({name: [WEB] for name in known})
    return net.names


@pytest.fixture
def proxy(net: Network) -> Iterator[Proxy]:
    with Proxy(net, RULES) as made:
        yield made


def socks(proxy: Proxy, request: bytes) -> tuple[socket.socket, int]:
    """Negotiate and ask; the connection, and the reply's code."""
    client = proxy.client()
    client.sendall(b"\5\1\0")
    assert client.recv(2) == b"\5\0"
    client.sendall(request)
    reply = client.recv(10)
    assert len(reply) == 10 and reply[0] == 5
    return client, reply[1]


def socks_name(name: str, port: int, command: int = 1) -> bytes:
    return bytes([5, command, 0, 3, len(name)]) + name.encode() + port.to_bytes(2, "big")


@pytest.mark.parametrize("protocol", ["connect", "socks5"])
@pytest.mark.parametrize(("name", "address"), [("example.test", WEB), ("a.example.test", WEB_6)])
def test_tls_to_an_allowed_name(
    proxy: Proxy,
    names: dict[str, list[str]],
    certificates: Certificates,
    protocol: str,
    name: str,
    address: str,
) -> None:
    names[name] = [address]
    if protocol == "connect":
        client, head = proxy.connect(f"{name.upper()}:443")
        assert head.startswith(b"HTTP/1.1 200")
    else:
        client, code = socks(proxy, socks_name(name, 443))
        assert code == 0
    with certificates.client().wrap_socket(client, server_hostname=name) as talk:
        talk.sendall(b"hello")
        assert talk.recv(10) == b"hello"
    allowed = proxy.event(verdict="allowed", protocol=protocol)
    assert (allowed["name"], allowed["address"], allowed["port"]) == (name, address, 443)
    closed = proxy.event(verdict="closed", id=allowed["id"])
    assert closed["bytesOut"] > 200 and closed["bytesIn"] > 200 and closed["durationMs"] >= 0


@pytest.mark.parametrize(
    ("target", "rule", "reason"),
    [
        ("other.test:443", "names.default", "name_not_allowed"),
        ("xexample.test:443", "names.default", "name_not_allowed"),
        ("example.test:8443", "names.0", "port_not_allowed"),
        ("bad.example.test:443", "deniedNames.0", "name_denied"),
        ("127.0.0.1:443", "names.default", "address_literal"),
        ("[::1]:443", "names.default", "address_literal"),
        ("192.0.2.2:443", "names.default", "address_literal"),
        ("0x7f.1:443", "names.default", "address_literal"),
        ("-a.example.test:443", "names.default", "name_malformed"),
    ],
)
def test_a_name_that_is_not_allowed_is_denied_before_it_is_looked_up(
    net: Network, proxy: Proxy, target: str, rule: str, reason: str
) -> None:
    net.asked.clear()
    _, answer = proxy.connect(target)
    assert answer.startswith(b"HTTP/1.1 403")
    assert f"X-Mxc-Denied: {reason}\r\n".encode() in answer and rule.encode() in answer
    event = proxy.event(verdict="denied", protocol="connect")
    assert (event["rule"], event["reason"], event["name"]) == (rule, reason, target.rpartition(":")[0])
    assert net.asked == []


@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT example.test HTTP/1.1\r\nHost: example.test\r\n\r\n",
        b"CONNECT user@example.test:443 HTTP/1.1\r\nHost: example.test\r\n\r\n",
        b"CONNECT example.test:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"CONNECT example.test:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"CONNECT example.test:443 HTTP/1.1\r\n\r\n",
        b"CONNECT  example.test:443\r\n\r\n",
    ],
)
def test_a_malformed_request_for_a_tunnel(proxy: Proxy, head: bytes) -> None:
    client = proxy.client()
    client.sendall(head)
    assert read_all(client).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (client_hello("a.example.test"), "sni_mismatch"),
        (client_hello("other.test"), "sni_mismatch"),
        (client_hello(None), "no_sni"),
        (b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n", "not_tls"),
        (b"SSH-2.0-x\r\n", "not_tls"),
        (HELLO[:5] + b"\2" + HELLO[6:], "not_tls"),
    ],
)
def test_what_does_not_prove_the_name_is_never_connected(proxy: Proxy, first: bytes, reason: str) -> None:
    client, head = proxy.connect("example.test:443")
    assert head.startswith(b"HTTP/1.1 200")
    client.sendall(first)
    assert is_ended(client)
    event = proxy.event(verdict="denied")
    assert (event["reason"], event["name"], event["rule"]) == (reason, "example.test", "names.0")
    assert "address" not in event


def test_a_hello_in_single_bytes_arrives_as_it_was(proxy: Proxy) -> None:
    client, _ = proxy.connect("example.test:443")
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in HELLO:
        client.sendall(bytes([byte]))
    assert client.recv(1) == b"\x16"  # the server's own hello


def test_a_hello_right_behind_the_request_counts(proxy: Proxy) -> None:
    client = proxy.client()
    client.sendall(b"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n" + HELLO)
    assert read_head(client).startswith(b"HTTP/1.1 200")
    assert client.recv(1) == b"\x16"


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        (["127.0.0.1"], "address_loopback"),
        (["169.254.169.254"], "address_link_local"),
        (["10.0.0.1"], "address_private"),
        (["::ffff:127.0.0.1"], "address_loopback"),
        (["64:ff9b::7f00:1"], "address_loopback"),
        (["fd00:ec2::254"], "address_metadata"),
        ([HOST], "address_of_host"),
        (["2001:db8::100"], "address_of_host"),
        (["192.0.2.255"], "address_of_host"),
        (["alias.elsewhere.test"], "address_loopback"),
    ],
)
def test_a_name_that_leads_where_it_must_not_is_denied(
    proxy: Proxy, names: dict[str, list[str]], addresses: list[str], reason: str
) -> None:
    names["example.test"] = addresses
    names["alias.elsewhere.test"] = ["127.0.0.1"]
    _, answer = proxy.connect("example.test:443")
    assert answer.startswith(b"HTTP/1.1 403")
    event = proxy.event(verdict="denied", reason=reason)
    assert event["name"] == "example.test" and "address" in event


def test_only_the_good_ones_of_an_answers_addresses_are_used(
    proxy: Proxy, names: dict[str, list[str]]
) -> None:
    names["a.example.test"] = ["127.0.0.1", "10.0.0.1", "192.0.2.9", WEB]  # .9 refuses connections
    proxy.replace(
        replace(RULES, names=(name_rule("*.example.test", ports=((7, 7),), inspection=Inspection.NONE),))
    )
    client, head = proxy.connect("a.example.test:7")
    assert head.startswith(b"HTTP/1.1 200")
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    for address in ("127.0.0.1", "10.0.0.1"):
        assert proxy.event(verdict="denied", name="a.example.test", address=address)
    assert proxy.event(verdict="allowed", address=WEB)


def test_the_address_that_was_checked_is_the_one_that_is_connected(
    net: Network, proxy: Proxy, names: dict[str, list[str]]
) -> None:
    client, _ = proxy.connect("example.test:443")
    names["example.test"] = [OTHER]
    asked = len(net.asked)
    client.sendall(HELLO)
    assert client.recv(1) == b"\x16"
    assert proxy.event(verdict="allowed")["address"] == WEB
    assert len(net.asked) == asked


def test_deny_rules_hold_for_what_a_name_leads_to(net: Network) -> None:
    ports = (Ports(Protocol.TCP, 443, 443),)
    with Proxy(net, replace(RULES, deny=(Rule("egress.deny.0", "", (Peer(f"{WEB}/32"),), ports),))) as proxy:
        _, answer = proxy.connect("example.test:443")
        assert b"X-Mxc-Denied: address_denied\r\n" in answer and b"egress.deny.0" in answer
        assert proxy.event(verdict="denied")["rule"] == "egress.deny.0"
        _, head = proxy.connect("raw.example.test:7")
        assert head.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("name", "reason"), [("a.example.test", "name_not_found"), ("raw.example.test", "unreachable")]
)
def test_what_cannot_be_had_is_no_denial(
    proxy: Proxy, names: dict[str, list[str]], name: str, reason: str
) -> None:
    del names["a.example.test"]
    names["raw.example.test"] = ["192.0.2.9"]
    _, answer = proxy.connect(f"{name}:{7 if reason == 'unreachable' else 443}")
    assert answer.startswith(b"HTTP/1.1 502")
    assert proxy.event(verdict="closed")["reason"] == reason


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (socks_name("other.test", 443), 2, "name_not_allowed"),
        (socks_name("bad.example.test", 443), 2, "name_denied"),
        (socks_name("127.0.0.1", 443), 2, "address_literal"),
        (b"\5\1\0\1\xc0\0\2\2\1\xbb", 2, "address_literal"),
        (b"\5\1\0\4" + bytes(15) + b"\1\1\xbb", 2, "address_literal"),
        (socks_name("example.test", 443, 2), 7, "request_malformed"),
        (socks_name("example.test", 443, 3), 7, "request_malformed"),
        (b"\5\1\0\2\1\1\1\1\1\1", 8, "request_malformed"),
        (socks_name("", 443), 2, "name_malformed"),
    ],
)
def test_socks5_refuses(proxy: Proxy, request_: bytes, code: int, reason: str) -> None:
    client, got = socks(proxy, request_)
    assert got == code
    assert read_all(client) == b""
    assert proxy.event(verdict="denied", protocol="socks5")["reason"] == reason


def test_socks5_inspects_too(proxy: Proxy) -> None:
    client, code = socks(proxy, socks_name("example.test", 443))
    assert code == 0
    client.sendall(client_hello("a.example.test"))
    assert is_ended(client)
    assert proxy.event(verdict="denied", protocol="socks5")["reason"] == "sni_mismatch"


def test_socks5_takes_no_passwords_and_socks4_is_refused(proxy: Proxy) -> None:
    client = proxy.client()
    client.sendall(b"\5\1\2")
    assert read_all(client) == b"\5\xff"
    client = proxy.client()
    client.sendall(b"\4\1\1\xbb\xc0\0\2\2\0")
    assert read_all(client) == b""
    assert proxy.event(verdict="denied", reason="socks4")


def test_an_end_in_one_direction_is_carried_over_and_the_other_goes_on(proxy: Proxy) -> None:
    client, _ = proxy.connect("raw.example.test:9")
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == hashlib.sha256(b"abc").digest()


def test_much_data_both_ways_at_once_arrives_whole(proxy: Proxy, soak: bool) -> None:
    data = os.urandom(1 << 20) * (256 if soak else 24)
    client, _ = proxy.connect("raw.example.test:7")
    client.settimeout(DEADLINE_S)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = hashlib.sha256()
    size = 0
    while portion := client.recv(1 << 20):
        received.update(portion)
        size += len(portion)
    sender.join()
    assert (size, received.digest()) == (len(data), hashlib.sha256(data).digest())
    closed = proxy.event(verdict="closed")
    assert (closed["bytesOut"], closed["bytesIn"]) == (len(data), len(data))


def test_a_reader_that_stops_holds_the_sender_back_and_loses_nothing(proxy: Proxy) -> None:
    client, _ = proxy.connect("raw.example.test:7")
    client.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 1 << 28:
            sent += client.send(bytes(1 << 16))
    client.settimeout(DEADLINE_S)
    client.shutdown(socket.SHUT_WR)
    assert len(read_all(client)) == sent
