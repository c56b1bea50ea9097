"""The proxy as a process: how it starts, whom it becomes, what its owner may tell it, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from backends.egress.rules import Rules
from backends.egress.settings import EgressSettings, ListenerKind, Target, encode, encode_replace
from backends.frozen import replace
from backends.network.policy import Inspection, Peer, Rule
from tests.unit.egress_peers import (
    DEADLINE_S,
    PROXY_UID,
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

OPAQUE = name_rule("*.test", ports=((7, 7),), inspection=Inspection.NONE)
RULES = Rules((OPAQUE, name_rule("*.test", "names.1")))


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:

        def echo(sock: socket.socket) -> None:
            while data := sock.recv(65_536):
                sock.sendall(data)

        def web(sock: socket.socket) -> None:
            while read_head(sock):
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

        made.serve(WEB, 7, echo)
        made.serve(WEB, 80, web)
        made.serve(WEB, 443, echo)
        for name in ("a.test", "b.test"):
            made.names[name] = [WEB]
        yield made


@pytest.fixture
def proxy(net: Network) -> Iterator[Proxy]:
    with Proxy(net, RULES) as made:
        yield made


def opened(proxy: Proxy, name: str) -> socket.socket:
    client, head = proxy.connect(f"{name}:7")
    assert head.startswith(b"HTTP/1.1 200")
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    return client


def test_it_becomes_who_it_is_told_without_a_way_back(proxy: Proxy) -> None:
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == [str(PROXY_UID)] * 4
    assert (fields["Groups"].strip(), fields["CapEff"], fields["CapPrm"]) == ("", "0" * 16, "0" * 16)
    assert fields["NoNewPrivs"] == "1"
    assert Path(f"/proc/{proxy.process.pid}/maps").stat().st_uid == 0  # not dumpable: proc(5)
    limits = Path(f"/proc/{proxy.process.pid}/limits").read_text()
    [open_files] = [line.split() for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(open_files[3]) == min(int(open_files[4]), 20_000)


def test_nothing_is_loaded_once_it_serves(net: Network) -> None:
    environment = {"PYTHONPROFILEIMPORTTIME": "1"}
    target = Target(WEB, 7, False, "ports.0")
    with Proxy(net, RULES, environment=environment, forwards=[(ListenerKind.FORWARD_TCP, target)]) as proxy:
        assert proxy.process.stderr is not None
        os.set_blocking(proxy.process.stderr.fileno(), False)
        assert b"import time" in (proxy.process.stderr.read() or b"")
        opened(proxy, "a.test").close()
        proxy.client(ListenerKind.FORWARD_TCP).close()
        client, _ = proxy.connect("a.test:443")
        client.sendall(client_hello("a.test"))
        assert client.recv(1) == b"\x16"
        for name in ("a.test", "no.test", "127.0.0.1"):
            client = proxy.client()
            client.sendall(
                f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode()
            )
            assert read_all(client).startswith(b"HTTP/1.1 ")
        client = proxy.client()
        client.sendall(b"\x00\xff\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 400")
        with proxy.udp() as sock:
            for name in ("1a.test", "\4no.b.test"):
                query = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
                sock.send(b"\0\1\1\0\0\1\0\0\0\0\0\0" + query + b"\0\0\1\0\1")
                assert sock.recv(1000)[2] & 0x80
        proxy.replace(Rules())
        assert proxy.ask(b"nonsense\n")["ok"] is False
        os.set_blocking(proxy.process.stderr.fileno(), False)
        assert proxy.process.stderr.read() is None


def start(memory: int, *descriptors: int, through: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*through, sys.executable, "-m", "backends.egress", str(memory)],
        cwd=Path(__file__).resolve().parents[2],
        pass_fds=[memory, *descriptors],
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )


def settings_in_memory(text: bytes) -> int:
    memory = os.memfd_create("settings")
    os.write(memory, text)
    return memory


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"[]", b'{"names": 1}'])
def test_it_does_not_serve_by_settings_that_it_cannot_read(text: bytes) -> None:
    memory = settings_in_memory(text)
    done = start(memory)
    os.close(memory)
    assert done.returncode == 1 and done.stderr.startswith(b"filtering proxy: ")


def test_it_does_not_serve_as_anybody_else_than_it_is_told() -> None:
    ours, theirs = socket.socketpair()
    settings = EgressSettings((), (), (), (), None, theirs.fileno(), None, (os.getuid() + 1, os.getgid() + 1))
    memory = settings_in_memory(encode(settings))
    powerless = ("setpriv", "--bounding-set=-setuid,-setgid") if os.geteuid() == 0 else ()
    done = start(memory, theirs.fileno(), through=powerless)
    os.close(memory)
    theirs.close()
    assert done.returncode == 1 and done.stderr.startswith(b"filtering proxy: ")
    assert ours.recv(100) == b""
    ours.close()


def test_it_ends_with_its_owner_and_so_does_everything_it_carries(net: Network) -> None:
    with Proxy(net, RULES) as proxy:
        client = opened(proxy, "a.test")
        proxy.control.shutdown(socket.SHUT_WR)
        assert proxy.process.wait(DEADLINE_S) == 0
        assert is_ended(client)
        assert proxy.event(verdict="closed")["reason"] == "stopped"


def test_the_terminals_signals_are_not_its_end(proxy: Proxy) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        proxy.process.send_signal(number)
    assert proxy.ask(b'{"op":"ping"}\n') == {"ok": True}


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"\n",
            b"[]\n",
            b"{\n",
            b'{"op":"stop"}\n',
            b'{"op":"ping","x":1}\n',
            b'{"op":"replace"}\n',
            b"\xff\n",
        ),
        b'{"op":"replace","names":[],"deniedNames":[],"deny":[{"name":"x"}]}\n',
        b'{"op":"replace","names":[],"denied_names":[],"deny":[]}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_line_that_is_not_understood_changes_nothing(proxy: Proxy, line: bytes) -> None:
    client = opened(proxy, "a.test")
    answer = proxy.ask(line)
    assert answer["ok"] is False and answer["error"]
    client.sendall(b"x")
    assert client.recv(1) == b"x"


def test_several_lines_at_once_and_a_line_in_parts(proxy: Proxy) -> None:
    proxy.control.sendall(b'{"op":"ping"}\n{"op":"ping"}\n{"op":')
    assert [proxy.told(), proxy.told()] == [{"ok": True}] * 2
    assert proxy.ask(b'"ping"}\n') == {"ok": True}


def test_new_rules_close_what_they_would_not_allow_and_nothing_else(proxy: Proxy) -> None:
    a, b = opened(proxy, "a.test"), opened(proxy, "b.test")
    proxy.replace(replace(RULES, denied_names=(name_rule("a.test", "deniedNames.0"),)))
    assert is_ended(a)
    b.sendall(b"x")
    assert b.recv(1) == b"x"
    assert proxy.event(verdict="closed", name="a.test")["reason"] == "replaced"
    assert proxy.connect("a.test:7")[1].startswith(b"HTTP/1.1 403")
    assert proxy.connect("b.test:7")[1].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        replace(RULES, deny=(Rule("egress.deny.0", "", (Peer(f"{WEB}/32"),)),)),
        Rules((replace(OPAQUE, addresses=()),)),
        Rules((replace(OPAQUE, inspection=Inspection.TLS),)),
        Rules((replace(OPAQUE, ports=((8, 8),)),)),
    ],
)
def test_rules_that_are_narrower_in_any_way_close_a_tunnel(proxy: Proxy, rules: Rules) -> None:
    client = opened(proxy, "a.test")
    proxy.replace(rules)
    assert client.recv(1, socket.MSG_DONTWAIT) == b"", "it was still open when the owner was answered"


def test_a_tunnel_that_waits_for_its_hello_is_under_the_new_rules(proxy: Proxy) -> None:
    client, head = proxy.connect("a.test:443")
    assert head.startswith(b"HTTP/1.1 200")
    proxy.replace(Rules())
    assert is_ended(client)
    client, _ = proxy.connect("a.test:443")


def test_an_idle_connection_to_a_server_is_closed_by_new_rules(proxy: Proxy) -> None:
    client = proxy.client()
    client.sendall(b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert read_head(client).startswith(b"HTTP/1.1 200") and client.recv(1) == b"x"
    proxy.replace(Rules((name_rule("b.test"),)))
    assert is_ended(client)


def test_wider_rules_hold_at_once(net: Network) -> None:
    with Proxy(net, Rules()) as proxy:
        assert proxy.connect("a.test:7")[1].startswith(b"HTTP/1.1 403")
        proxy.replace(RULES)
        opened(proxy, "a.test").close()


def test_a_line_without_an_end_is_the_end(net: Network) -> None:
    with Proxy(net, RULES) as proxy:
        with pytest.raises(ConnectionError):
            for _ in range(200):
                proxy.control.sendall(bytes(1 << 20))
        assert proxy.process.wait(DEADLINE_S) == 0


def test_a_replacement_of_thousands_of_rules(proxy: Proxy) -> None:
    many = tuple([name_rule(f"n{number}.test", f"names.{number}") for number in range(5_000)])
    assert proxy.ask(encode_replace(Rules(many))) == {"ok": True}
    assert proxy.connect("n4999.test:443")[1].startswith(b"HTTP/1.1 502")
