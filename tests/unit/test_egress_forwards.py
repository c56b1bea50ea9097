"""Ports through the boundary, in the real proxy: to the host's network, and into the sandbox's."""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from backends.egress.rules import Rules
from backends.egress.settings import ListenerKind, Target
from tests.unit.egress_peers import DEADLINE_S, WEB, Namespace, Network, Proxy, is_ended, network, read_all

TCP, UDP = ListenerKind.FORWARD_TCP, ListenerKind.FORWARD_UDP


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:

        def tell_at_the_end(sock: socket.socket) -> None:
            sock.sendall(hashlib.sha256(read_all(sock)).digest())

        made.serve(WEB, 9, tell_at_the_end)
        yield made


def echo_udp(where: Namespace, address: str) -> socket.socket:
    """A socket that answers each datagram with it and the port it came from."""
    sock = where.listen(address, 0, socket.SOCK_DGRAM)

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = sock.recvfrom(65_536)
                if data == b"end":
                    return
                sock.sendto(data + b" %d" % sender[1], sender)

    threading.Thread(target=answer, daemon=True).start()
    return sock


class Factory:
    """Makes sockets in a namespace for who asks over `theirs`; with `errno_`, refuses."""

    def __init__(self, where: Namespace, errno_: int = 0) -> None:
        self.theirs, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._where = where
        self._errno = errno_
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._ours:
            while request := self._ours.recv(64):
                family, kind = struct.unpack("<II", request)
                if self._errno:
                    self._ours.send(struct.pack("<i", self._errno))
                    continue
                with self._where.run(partial(socket.socket, family, kind)) as made:
                    fds = array.array("i", [made.fileno()])
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
                    self._ours.sendmsg([struct.pack("<i", 0)], rights)


def test_a_tcp_forward_carries_everything_and_the_ends(net: Network) -> None:
    data = os.urandom(1 << 22)
    with Proxy(net, Rules(), forwards=[(TCP, Target(WEB, 9, False, "ports.0"))]) as proxy:
        client = proxy.client(TCP)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == hashlib.sha256(data).digest()
        allowed = proxy.event(verdict="allowed", protocol="forward")
        assert (allowed["rule"], allowed["address"], allowed["port"]) == ("ports.0", WEB, 9)
        closed = proxy.event(verdict="closed", protocol="forward")
        assert (closed["bytesOut"], closed["bytesIn"]) == (len(data), 32)


def test_a_forward_may_lead_to_the_hosts_loopback(net: Network) -> None:
    listener = net.host.listen("127.0.0.1")
    target = Target("127.0.0.1", listener.getsockname()[1], False, "ports.0")
    with Proxy(net, Rules(), forwards=[(TCP, target)]) as proxy, listener:
        client = proxy.client(TCP)
        listener.settimeout(DEADLINE_S)
        server, _ = listener.accept()
        server.sendall(b"first")  # such a server speaks first
        server.close()
        assert read_all(client) == b"first"


def test_a_forward_whose_target_does_not_answer(net: Network) -> None:
    with Proxy(net, Rules(), forwards=[(TCP, Target(WEB, 1, False, "ports.0"))]) as proxy:
        assert is_ended(proxy.client(TCP))
        assert proxy.event(verdict="closed", protocol="forward")["reason"] == "unreachable"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_forward_into_the_sandbox_goes_through_its_sockets(net: Network, address: str) -> None:
    factory = Factory(net.sandbox)
    listener = net.sandbox.listen(address)
    datagrams = echo_udp(net.sandbox, address)
    forwards = [
        (TCP, Target(address, listener.getsockname()[1], True, "ports.0")),
        (UDP, Target(address, datagrams.getsockname()[1], True, "ports.1")),
    ]
    with Proxy(net, Rules(), forwards=forwards, sockets=factory.theirs) as proxy, listener:
        clients = [proxy.client(TCP) for _ in range(20)]
        for client in clients:
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
        listener.settimeout(DEADLINE_S)
        for _ in clients:
            server, _ = listener.accept()
            with server:
                server.sendall(read_all(server) * 2)
        assert [read_all(client) for client in clients] == [b"xx"] * 20
        with proxy.udp(UDP) as sock:
            sock.send(b"hello")
            assert sock.recv(100).startswith(b"hello ")
            sock.send(b"end")
    factory.theirs.close()


def test_a_sandbox_that_makes_no_sockets(net: Network) -> None:
    factory = Factory(net.sandbox, errno_=24)
    forwards = [(TCP, Target("127.0.0.1", 9, True, "ports.0"))]
    with Proxy(net, Rules(), forwards=forwards, sockets=factory.theirs) as proxy:
        for _ in range(3):
            assert is_ended(proxy.client(TCP))
        assert proxy.event(verdict="closed", protocol="forward")["reason"] == "unreachable"
    factory.theirs.close()


def test_each_client_of_a_udp_forward_gets_its_own_answers(net: Network) -> None:
    datagrams = echo_udp(net.internet, WEB)
    target = Target(WEB, datagrams.getsockname()[1], False, "ports.0")
    with Proxy(net, Rules(), forwards=[(UDP, target)]) as proxy:
        clients = [proxy.udp(UDP) for _ in range(8)]
        ports: list[bytes] = []
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        for number, client in enumerate(clients):
            said, port = client.recv(100).split()
            assert said == b"%d" % number
            ports.append(port)
        assert len(set(ports)) == len(clients)
        clients[0].send(b"again")
        assert clients[0].recv(100) == b"again " + ports[0]
        assert proxy.event(verdict="allowed", protocol="forward")["rule"] == "ports.0"
        for client in clients:
            client.close()


def test_many_udp_clients_push_the_oldest_out_and_the_newest_are_served(net: Network) -> None:
    datagrams = echo_udp(net.internet, WEB)
    target = Target(WEB, datagrams.getsockname()[1], False, "ports.0")
    with Proxy(net, Rules(), forwards=[(UDP, target)]) as proxy:
        with contextlib.ExitStack() as held:
            for _ in range(300):
                client = held.enter_context(proxy.udp(UDP))
                client.send(b"x")
                assert client.recv(100).startswith(b"x ")
        assert len([event for event in proxy.events() if event["verdict"] == "closed"]) == 300 - 256
