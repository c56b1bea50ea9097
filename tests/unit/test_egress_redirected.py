"""Connections that nft turns to the real proxy: their content names the host, not their address."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from backends.egress.rules import Rules
from backends.egress.settings import ListenerKind
from backends.network.policy import Inspection
from tests.unit.egress_peers import (
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

RULES = Rules(
    (
        name_rule("example.test"),
        name_rule("web.test", "names.1", ports=((443, 443), (8080, 8080)), inspection=Inspection.HTTP),
        name_rule("tls.test", "names.2", ports=((80, 80),), inspection=Inspection.TLS),
        name_rule("any.test", "names.3", inspection=Inspection.NONE),
    ),
    (name_rule("bad.test", "deniedNames.0"),),
)
ELSEWHERE = "203.0.113.77"
REDIRECT = """
table inet turned {{
  chain output {{
    type nat hook output priority -100;
    ip daddr 203.0.113.0/24 meta l4proto tcp redirect to :{port}
    ip6 daddr 2001:db8:77::/48 meta l4proto tcp redirect to :{port}
  }}
}}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:

        def web(sock: socket.socket) -> None:
            host = [line for line in read_head(sock).lower().split(b"\r\n") if line.startswith(b"host: ")]
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(host[0]), host[0]))

        def tls(sock: socket.socket) -> None:
            sock.sendall(b"got %d" % len(sock.recv(65_536)))

        for port, handle in ((80, web), (8080, web), (443, tls)):
            made.serve(WEB, port, handle)
        for name in ("example.test", "web.test", "tls.test", "any.test", "bad.test"):
            made.names[name] = [WEB]
        yield made


@pytest.fixture
def proxy(net: Network) -> Iterator[Proxy]:
    with Proxy(net, RULES) as made:
        port = made.ports[ListenerKind.REDIRECTED]
        net.sandbox.command("nft", "-f", "-", text=REDIRECT.format(port=port))
        yield made
        net.sandbox.command("nft", "delete", "table", "inet", "turned")


@pytest.mark.parametrize("name", ["example.test", "any.test"])
def test_tls_goes_where_its_name_leads_and_not_to_the_address(net: Network, proxy: Proxy, name: str) -> None:
    hello = client_hello(name)
    client = net.sandbox.connect(ELSEWHERE, 443)
    client.sendall(hello)
    assert read_all(client) == b"got %d" % len(hello)
    client.close()
    allowed = proxy.event(verdict="allowed", protocol="tls")
    assert (allowed["name"], allowed["address"], allowed["port"]) == (name, WEB, 443)
    assert proxy.event(verdict="closed", protocol="tls")["bytesOut"] == len(hello)


@pytest.mark.parametrize(
    ("name", "port"), [("example.test", 80), ("web.test", 8080), ("any.test", 80), ("Example.Test:80", 80)]
)
def test_http_goes_where_its_host_leads(net: Network, proxy: Proxy, name: str, port: int) -> None:
    client = net.sandbox.connect(ELSEWHERE, port)
    client.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    suffix = "" if port == 80 else f":{port}"
    assert read_all(client).endswith(f"\r\n\r\nhost: {name.lower().removesuffix(':80')}{suffix}".encode())


@pytest.mark.parametrize(
    ("port", "first", "reason"),
    [
        (443, client_hello("other.test"), "name_not_allowed"),
        (443, client_hello("bad.test"), "name_denied"),
        (8443, client_hello("example.test"), "port_not_allowed"),
        (443, client_hello(None), "no_sni"),
        (443, client_hello("web.test"), "not_http"),
        (443, b"\x16\3\1\0\5\2\0\0\1\0", "not_tls"),
        (443, b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n", "not_tls"),
        (80, b"GET / HTTP/1.1\r\nHost: tls.test\r\n\r\n", "not_tls"),
        (80, b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n", "name_not_allowed"),
        (80, b"GET / HTTP/1.1\r\nHost: example.test:81\r\n\r\n", "host_mismatch"),
        (80, b"GET / HTTP/1.1\r\nHost: 203.0.113.77\r\n\r\n", "address_literal"),
        (80, b"GET / HTTP/1.0\r\n\r\n", "host_malformed"),
        (80, b"GET http://example.test/ HTTP/1.1\r\nHost: example.test\r\n\r\n", "target_malformed"),
        (80, b"CONNECT example.test:80 HTTP/1.1\r\nHost: example.test\r\n\r\n", "target_malformed"),
        (443, b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "request_malformed"),
        (443, b"\0\0\0\1", "unknown_protocol"),
        (80, b"\5\1\0", "unknown_protocol"),
    ],
)
def test_what_names_no_allowed_host_goes_nowhere(
    net: Network, proxy: Proxy, port: int, first: bytes, reason: str
) -> None:
    client = net.sandbox.connect(ELSEWHERE, port)
    client.sendall(first)
    read_all(client)
    assert proxy.event(verdict="denied")["reason"] == reason
    assert not [event for event in proxy.events() if event["verdict"] == "allowed"]


def test_a_second_request_to_another_host_is_decided_by_itself(net: Network, proxy: Proxy) -> None:
    client = net.sandbox.connect(ELSEWHERE, 80)
    client.sendall(b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\nGET / HTTP/1.1\r\nHost: bad.test\r\n\r\n")
    said = read_all(client)
    assert b"\r\n\r\nhost: example.test" in said and b"X-Mxc-Denied: name_denied\r\n" in said


def test_ipv6_is_redirected_as_well(net: Network) -> None:
    with Proxy(net, RULES, loopback="::1") as proxy:
        port = proxy.ports[ListenerKind.REDIRECTED]
        net.sandbox.command("nft", "-f", "-", text=REDIRECT.format(port=port))
        hello = client_hello("example.test")
        client = net.sandbox.connect("2001:db8:77::1", 443)
        client.sendall(hello)
        assert read_all(client) == b"got %d" % len(hello)
        net.sandbox.command("nft", "delete", "table", "inet", "turned")


def test_who_connects_to_the_port_itself_gets_nothing(proxy: Proxy) -> None:
    client = proxy.client(ListenerKind.REDIRECTED)
    client.sendall(client_hello("example.test"))
    assert is_ended(client)
    assert proxy.event(verdict="denied", protocol="tls")
