"""Run the real filtering proxy between a sandbox and an internet, each a network namespace of the test's own.

`network()` makes three: `sandbox` has a loopback and a default route to nowhere; `host` is where the proxy
lives; `internet` has the addresses 192.0.2.1 to .10 and 2001:db8::1 to ::10, and servers, which are threads
of the test: a socket stays in the namespace that it was made in.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from backends.egress.rules import Rules
from backends.egress.settings import (
    EgressSettings,
    Listener,
    ListenerKind,
    Target,
    encode,
    encode_replace,
)
from backends.network.policy import NameRule

DEADLINE_S = 20
DNS = "192.0.2.1"
WEB = "192.0.2.2"
OTHER = "192.0.2.3"
WEB_6 = "2001:db8::2"
HOST = "192.0.2.100"
EXAMPLE_NETS = ("192.0.2.0/24", "2001:db8::/32")
PROXY_UID = 61_235
_CLONE_NEWNET = 0x40000000
_CHECKOUT = Path(__file__).resolve().parents[2]

T = TypeVar("T")


class Namespace:
    """A network namespace, and a thread in it: `run` does something there. It goes when the thread does."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self.tid = self.run(threading.get_native_id)

    def run(self, work: Callable[[], T]) -> T:
        done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def step() -> None:
            try:
                done.put((work(), None))
            except BaseException as error:
                done.put((None, error))

        self._work.put(step)
        result, error = done.get()
        if error is not None:
            raise error
        return result  # pyright: ignore[reportReturnType]

    def command(self, *words: str, text: str | None = None) -> None:
        self.run(lambda: subprocess.run(words, input=text, text=True, check=True, capture_output=True))

    def listen(self, address: str, port: int = 0, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return self.run(lambda: _bound(address, port, kind))

    def connect(self, address: str, port: int) -> socket.socket:
        return self.run(lambda: socket.create_connection((address, port), DEADLINE_S))

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()

    def _live(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        while (step := self._work.get()) is not None:
            step()


def _bound(address: str, port: int, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(4096)
    return sock


class Network:
    """The three namespaces; `names` is what the internet's DNS server answers, and may be changed."""

    def __init__(self) -> None:
        self.sandbox, self.host, self.internet = Namespace(), Namespace(), Namespace()
        self.names: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self._servers: list[socket.socket] = []
        self.host.command(
            "ip", "link", "add", "up0", "type", "veth", "peer", "net0", "netns", str(self.internet.tid)
        )
        self._configure(self.host, "up0", [f"{HOST}/24"], ["2001:db8::100/64"])
        numbers = range(1, 11)
        fours = [f"192.0.2.{number}/24" for number in numbers]
        self._configure(self.internet, "net0", fours, [f"2001:db8::{number}/64" for number in numbers])
        self.sandbox.command("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
        self._configure(self.sandbox, "out0", ["10.9.9.1/24"], ["fd99::1/64"])
        self.sandbox.command("ip", "route", "add", "default", "dev", "out0")
        self.sandbox.command("ip", "-6", "route", "add", "default", "dev", "out0")
        self._serve_dns()

    def serve(self, address: str, port: int, handle: Callable[[socket.socket], None]) -> None:
        """Serve each connection to a place of the internet in a thread; the socket is closed afterwards."""
        listener = self.internet.listen(address, port)
        self._servers.append(listener)

        def each(client: socket.socket) -> None:
            client.settimeout(DEADLINE_S)
            with client, contextlib.suppress(OSError):
                handle(client)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=each, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
            server.close()
        for namespace in (self.sandbox, self.host, self.internet):
            namespace.close()

    @staticmethod
    def _configure(where: Namespace, link: str, fours: Sequence[str], sixes: Sequence[str]) -> None:
        lines = ["link set lo up", f"link set {link} up", *(f"addr add {each} dev {link}" for each in fours)]
        lines += [f"addr add {each} dev {link} nodad" for each in sixes]
        where.command("ip", "-batch", "-", text="\n".join(lines))

    def _serve_dns(self) -> None:
        sock = self.internet.listen(DNS, 53, socket.SOCK_DGRAM)
        self._servers.append(sock)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    wire, sender = sock.recvfrom(4096)
                    if not wire:
                        return
                    sock.sendto(self._answer(dns.message.from_wire(wire)).to_wire(), sender)

        threading.Thread(target=answer, daemon=True).start()

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        name = question.name.to_text().rstrip(".").lower()
        self.asked.append(name)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | dns.flags.AA
        known = self.names.get(name)
        if known is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        for value in known or ():
            is_address = ":" in value or value.replace(".", "").isdigit()
            kind = ("AAAA" if ":" in value else "A") if is_address else "CNAME"
            if kind in ("CNAME", dns.rdatatype.to_text(question.rdtype)):
                value = value if is_address else f"{value}."
                response.answer.append(dns.rrset.from_text(question.name, 0, "IN", kind, value))
        return response


@contextlib.contextmanager
def network() -> Generator[Network]:
    """A `Network`, for as long as the block; the test is skipped where none can be made."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces of the test's own take root")
    made = Network()
    try:
        yield made
    finally:
        made.close()


def name_rule(pattern: str, name: str = "names.0", **more: Any) -> NameRule:
    """A rule whose name may lead to the internet's example addresses."""
    fields: dict[str, Any] = {"addresses": EXAMPLE_NETS, **more}
    return NameRule(name, "/network", pattern, **fields)


class Proxy:
    """The proxy's process, with a listener of each kind in the sandbox. Use as a context manager.

    `ports` says where each kind of TCP or UDP listener is, on the sandbox's loopback.
    """

    def __init__(
        self,
        net: Network,
        rules: Rules,
        *,
        forwards: Sequence[tuple[ListenerKind, Target]] = (),
        sockets: socket.socket | None = None,
        descriptors: int | None = None,
        user: tuple[int, int] | None = (PROXY_UID, PROXY_UID),
        environment: dict[str, str] | None = None,
        loopback: str = "127.0.0.1",
    ) -> None:
        self._net = net
        self.ports: dict[ListenerKind, int] = {}
        opened, listeners = self._listen(loopback, forwards)
        self.control, theirs = socket.socketpair()
        self.control.settimeout(DEADLINE_S)
        self._control_lines = self.control.makefile("rb")
        self._events = os.memfd_create("events")
        settings = EgressSettings(
            *(rules.names, rules.denied_names, rules.deny, listeners, self._events, theirs.fileno()),
            sockets=None if sockets is None else sockets.fileno(),
            user=user,
            nameservers=(DNS,),
        )
        memory = os.memfd_create("settings")
        os.write(memory, encode(settings))
        give = [memory, self._events, theirs.fileno(), *(sock.fileno() for sock in opened)]
        give += [] if sockets is None else [sockets.fileno()]
        limit = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}:{descriptors}"]
        words = [*limit, sys.executable, "-m", "backends.egress", str(memory)]
        known = {**os.environ, **(environment or {})}
        start = partial(subprocess.Popen[bytes], words, pass_fds=give, stderr=subprocess.PIPE, env=known)
        self.process = net.host.run(partial(start, cwd=_CHECKOUT))
        os.close(memory)
        for sock in (theirs, *opened):
            sock.close()

    def _listen(
        self, loopback: str, forwards: Sequence[tuple[ListenerKind, Target]]
    ) -> tuple[list[socket.socket], tuple[Listener, ...]]:
        forwarding = (ListenerKind.FORWARD_TCP, ListenerKind.FORWARD_UDP)
        kinds = [(kind, None) for kind in ListenerKind if kind not in forwarding]
        opened: list[socket.socket] = []
        listeners: list[Listener] = []
        for kind, target in [*kinds, *forwards]:
            udp = kind in (ListenerKind.DNS_UDP, ListenerKind.FORWARD_UDP)
            sock = self._net.sandbox.listen(loopback, 0, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
            opened.append(sock)
            self.ports[kind] = sock.getsockname()[1]
            listeners.append(Listener(kind, sock.fileno(), target))
        return opened, tuple(listeners)

    def __enter__(self) -> Proxy:
        assert self.told() == {"ready": True}
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        self._control_lines.close()
        try:
            said = self.process.communicate(timeout=DEADLINE_S)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        finally:
            os.close(self._events)
        assert b"filtering proxy" not in said, said

    def told(self) -> dict[str, Any]:
        """The next line of the control socket."""
        line = self._control_lines.readline()
        return json.loads(line) if line else {}

    def ask(self, line: bytes) -> dict[str, Any]:
        self.control.sendall(line)
        return self.told()

    def replace(self, rules: Rules) -> None:
        assert self.ask(encode_replace(rules)) == {"ok": True}

    def events(self) -> list[dict[str, Any]]:
        """All of them so far."""
        text = os.pread(self._events, 1 << 26, 0)
        return [json.loads(line) for line in text.splitlines() if line]

    def event(self, **fields: Any) -> dict[str, Any]:
        """The first event with these fields, which may still be to come."""
        until = time.monotonic() + DEADLINE_S
        while True:
            for event in self.events():
                if all(event.get(key) == value for key, value in fields.items()):
                    return event
            if time.monotonic() > until:
                raise AssertionError(f"no event has {fields}: {self.events()}")
            time.sleep(0.02)

    def client(self, kind: ListenerKind = ListenerKind.PROXY) -> socket.socket:
        """A connection from the sandbox."""
        return self._net.sandbox.connect("127.0.0.1", self.ports[kind])

    def udp(self, kind: ListenerKind = ListenerKind.DNS_UDP) -> socket.socket:
        """A socket of the sandbox, connected to a UDP listener."""
        sock = self._net.sandbox.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.settimeout(DEADLINE_S)
        sock.connect(("127.0.0.1", self.ports[kind]))
        return sock

    def connect(self, target: str) -> tuple[socket.socket, bytes]:
        """Ask for a tunnel by CONNECT: the connection, and the answer's head (with the body of a refusal)."""
        client = self.client()
        client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = read_head(client)
        return client, head if head.startswith(b"HTTP/1.1 200") else head + read_all(client)


def read_head(sock: socket.socket) -> bytes:
    """Up to the empty line, and not a byte more."""
    data = b""
    while not data.endswith(b"\r\n\r\n") and (byte := sock.recv(1)):
        data += byte
    return data


def read_all(sock: socket.socket) -> bytes:
    """Until the end, or until the connection is reset."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while portion := sock.recv(65536):
            data += portion
    return data


def is_ended(sock: socket.socket) -> bool:
    """Whether the other side ends the connection, without another byte, before the deadline."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


class Certificates:
    """A server's certificate that nobody else trusts, for ``*.example.test`` and ``example.test``."""

    def __init__(self, folder: Path) -> None:
        self.key, self.chain = folder / "key.pem", folder / "chain.pem"
        words = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        words += [
            "-keyout",
            str(self.key),
            "-out",
            str(self.chain),
            "-days",
            "2",
            "-subj",
            "/CN=example.test",
        ]
        words += ["-addext", "subjectAltName=DNS:example.test,DNS:*.example.test"]
        subprocess.run(words, check=True, capture_output=True)

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.chain))


def client_hello(server_name: str | None, alpn: Sequence[str] = ()) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    context.check_hostname = server_name is not None
    context.verify_mode = ssl.CERT_NONE if server_name is None else ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    talk = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    return outgoing.read()
