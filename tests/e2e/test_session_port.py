"""Ports of the host's loopback that lead into sandboxes."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.errors import LaunchFailed, MxcError, PolicyRefused
from mxc_ops import Policy, Session, run
from tests.e2e.commands import Commands
from tests.e2e.sessions import until
from tests.images import image

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="containers are started by root alone")
DEADLINE_S = 60
KINDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]
# A line in asks for so many bytes out; "all" counts what comes until the end; "flood" writes for ever.
SERVER = r"""
use IO::Socket::INET; $SIG{CHLD} = "IGNORE"; $SIG{PIPE} = "DEFAULT"; my ($sum, $part) = (0);
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 64, ReuseAddr => 1);
while (my $client = $server->accept) {
    next if fork; close $server;
    my $line = ""; while (substr($line, -1) ne "\n" && sysread($client, $part, 1)) { $line .= $part }
    chomp $line;
    if ($line eq "all") { while (my $got = sysread($client, $part, 65536)) { $sum += $got } print $client "$sum\n" }
    elsif ($line eq "flood") { while (syswrite($client, "x" x 65536)) {} }
    else { print $client "y" x $line }
    exit 0;
}
"""  # noqa: E501
COUNT = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'IO::Socket' | wc -l"


@pytest.fixture(scope="module", params=KINDS)
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    if request.param != "bubblewrap":
        image("base")
    with Session.open(Policy(containment=request.param, host_loopback=True)) as opened:
        opened.detach(["perl", "-e", SERVER, "8080"])
        yield opened


@pytest.fixture
def port(session: Session) -> Iterator[int]:
    opened = session.port(8080)
    until(lambda: asked(opened, b"1\n") == b"y")
    yield opened
    session.close_port(opened)


def asked(port: int, sent: bytes) -> bytes:
    """What comes back until the end; b"" also for a connection that is refused inside."""
    try:
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(1 << 20), b""))
    except ConnectionError:
        return b""


def refused(kind: type[MxcError], call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.problems[0].code, caught.value.problems[0].path


@as_root
def test_bytes_go_both_ways_and_each_end_is_told_of_the_others(port: int) -> None:
    assert asked(port, b"3000000\n") == b"y" * 3_000_000
    assert asked(port, b"all\n" + b"x" * 3_000_000) == b"3000000\n"
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
        client.sendall(b"5\n")  # and its own side stays open: the server's end alone ends it
        assert b"".join(iter(lambda: client.recv(100), b"")) == b"yyyyy"
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(asked, [port] * 32, [b"%d\n" % size for size in range(1, 33)]))
    assert [len(answer) for answer in answers] == list(range(1, 33))


@as_root
def test_who_reads_nothing_holds_up_nobody_else_and_is_gone_when_they_go(session: Session, port: int) -> None:
    idle = session.exec(COUNT).stdout
    lazy = [socket.create_connection(("127.0.0.1", port), DEADLINE_S) for _ in range(4)]
    try:
        for client in lazy:
            client.sendall(b"flood\n")
        until(lambda: int(session.exec(COUNT).stdout) >= int(idle) + 4)
        assert asked(port, b"1000000\n") == b"y" * 1_000_000
        assert session.exec("echo others").stdout == b"others\n"
    finally:
        for client in lazy:
            client.close()
    until(lambda: session.exec(COUNT).stdout == idle)


@as_root
def test_opened_listed_and_closed(session: Session) -> None:
    first = session.port(8080)
    second = session.port(9)
    listed = [(port["host"], port["inside"]) for port in session.ports()]
    assert listed == [(first, 8080), (second, 9)]
    assert asked(second, b"") == b"", "nobody listens there"
    assert "refused" in session.ports()[1]["lastFailure"]
    assert refused(LaunchFailed, lambda: session.port(8080, first)) == ("port_taken", "HOST_PORT")
    client = socket.create_connection(("127.0.0.1", first), DEADLINE_S)
    client.sendall(b"flood\n")
    assert client.recv(1)
    session.close_port(first)
    with client:
        try:
            while client.recv(1 << 20):
                pass
        except ConnectionError:
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first), DEADLINE_S)
    session.close_port(second)
    assert session.ports() == []
    assert refused(LaunchFailed, lambda: session.close_port(first)) == ("no_such_port", "HOST_PORT")


@as_root
def test_only_the_hosts_loopback_listens_and_nothing_of_it_is_reached_from_inside(session: Session) -> None:
    opened = session.port(8080)
    addresses = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()]
    mine = [address for address in addresses if address.endswith(f":{opened:04X}")]
    assert mine == [f"0100007F:{opened:04X}"]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        line = f'IO::Socket::INET->new("127.0.0.1:{listening.getsockname()[1]}") or exit 7'
        assert session.exec(["perl", "-MIO::Socket::INET", "-e", line]).exit_code == 7
    session.close_port(opened)


@as_root
@pytest.mark.backend("bubblewrap")
def test_only_where_the_policy_allows_it() -> None:
    allowed = "/network/ingress/hostLoopback"
    with Session.open(Policy(containment="bubblewrap")) as closed:
        assert refused(PolicyRefused, lambda: closed.port(80)) == ("port_not_allowed", allowed)
        assert closed.ports() == []
    with Session.open(Policy(containment="bubblewrap", host_loopback=True, seccomp="strict")) as strict:
        assert refused(PolicyRefused, lambda: strict.port(80)) == ("port_not_possible", "/mxcOps/seccomp")
    refusal = refused(PolicyRefused, lambda: run(Policy(host_loopback=True), "true"))
    assert refusal == ("allow_without_mapping", "host_loopback"), "a run has nobody to open a port"


@as_root
@pytest.mark.backend("bubblewrap")
def test_ports_go_with_what_ran() -> None:
    with Session.open(Policy(containment="bubblewrap", host_loopback=True)) as session:
        opened = session.port(8080)
        session.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", opened), DEADLINE_S)
        session.start()
        assert session.ports() == []


@pytest.mark.backend("bubblewrap")
def test_on_the_command_line(caller: Commands) -> None:
    def ops(*words: str, code: int = 0) -> str:
        done = caller.run("mxc-ops", "session", *words)
        assert done.returncode == code, done.stderr
        return done.stdout or done.stderr

    config = caller.folder / "config.json"
    document = {
        "version": "1.0.0",
        "containment": "bubblewrap",
        "process": {"commandLine": "true"},
        "network": {"ingress": {"hostLoopback": "allow"}},
    }
    config.write_text(json.dumps(document))
    by_config = ops("provision", str(config)).strip()
    by_flag = ops("provision", "--backend", "bubblewrap", "--host-loopback").strip()
    closed = ops("provision", "--backend", "bubblewrap").strip()
    try:
        ops("start", by_config, by_flag, closed)
        for one in (by_config, by_flag):
            ops("exec", one, "--detach", "--", "perl", "-e", SERVER, "8080")
            address, port = ops("port", one, "0:8080").strip().split(":")
            assert address == "127.0.0.1"
            until(lambda port=port: asked(int(port), b"3\n") == b"yyy")
            listed = json.loads(ops("port", one, "--json"))["ports"]
            assert [(found["host"], found["inside"]) for found in listed] == [(int(port), 8080)]
            assert f"127.0.0.1:{port}" in ops("port", one)
            ops("port", one, "--close", port)
            assert json.loads(ops("port", one, "--json"))["ports"] == []
        assert "network/ingress/hostLoopback" in ops("port", closed, "0:80", code=1)
        for wrong in ("80", "x:80", "0:0", "0:70000"):
            ops("port", by_flag, wrong, code=64)
    finally:
        ops("deprovision", by_config, by_flag, closed)
