"""Network namespaces for tests: made in a forked process, joined by veth, and used through sockets.

A socket stays in the namespace it was made in. So one process holds both ends of a connection, by turns, and
a test is a plain sequence of calls. Without root a user namespace comes first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from backends.network.counters import counters_request, rule_counts
from backends.network.ruleset import Ruleset, waking

__all__ = [
    "PATIENCE_S",
    "UDP",
    "Namespace",
    "address",
    "arrives",
    "connect",
    "counted",
    "every_address",
    "isolated",
    "listen",
    "load",
    "machine",
    "needs_namespaces",
    "outside",
    "refusal",
    "run",
    "serve",
]

_T = TypeVar("_T")
_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_NFT = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
_IP = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
PATIENCE_S = 5.0
UDP = socket.SOCK_DGRAM
needs_namespaces = pytest.mark.skipif(not (_NFT and _IP), reason="needs apt-get install nftables iproute2")
_NETFILTER = 12
_DONE = b"\3\0"
_libc = ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def isolated(body: Callable[[], _T], *, user_namespace: bool = os.geteuid() != 0) -> _T:
    """Run `body` in a process with a network namespace of its own; what it returns or raises comes back."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _enter(user_namespace)
            answer: tuple[bool, Any] = (True, body())
        except BaseException as error:
            answer = (False, f"{type(error).__name__}: {error}")
        with os.fdopen(writing, "wb") as stream:
            stream.write(pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    done, result = pickle.loads(data)
    if not done:
        pytest.fail(result)
    return result


def _enter(user_namespace: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _unshare(_NEWNET | (_NEWUSER if user_namespace else 0))
    if user_namespace:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    run("ip", "link", "set", "lo", "up")


def run(program: str, *words: str, stdin: str = "") -> str:
    """Run `nft` or `ip` where the process is now."""
    path = {"nft": _NFT, "ip": _IP}[program]
    done = subprocess.run([str(path), *words], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} {' '.join(words)}: {done.stderr[:2000]}")
    return done.stdout


def load(rules: Ruleset | str) -> None:
    """Load a ruleset where the process is now; one that is more than its text replaces what is there."""
    if isinstance(rules, str):
        run("nft", "-f", "-", stdin=rules)
        return
    others = tables()
    for text in (rules.asleep, waking(rules.table, others)):
        run("nft", "-f", "-", stdin=text)
    assert tables() == [rules.table]


def tables() -> list[str]:
    return [line.split()[-1] for line in run("nft", "list", "tables").splitlines()]


def counted() -> dict[str, tuple[int, int]]:
    """Packets and bytes of every rule that has counted any."""
    answers = b""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as kernel:
        (table,) = tables()
        kernel.send(counters_request(table))
        while not (datagram := kernel.recv(1 << 16)).startswith(_DONE, 4):
            answers += datagram
    return {one.name: (one.packets, one.bytes) for one in rule_counts(answers) if one.packets}


class Namespace:
    """Another network namespace, to be in `with` it; its loopback is up."""

    def __init__(self) -> None:
        with self._elsewhere():
            _unshare(_NEWNET)
            self._file = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            run("ip", "link", "set", "lo", "up")
            self._holder = subprocess.Popen(
                [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
            )

    def join(self, here: str, there: str) -> None:
        """A cable: interface `here`, where the process is now, to interface `there` of this namespace."""
        pid = str(self._holder.pid)
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", pid)

    @contextmanager
    def _elsewhere(self) -> Generator[None]:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            yield
        finally:
            _setns(before)
            os.close(before)

    @contextmanager
    def inside(self) -> Generator[None]:
        with self._elsewhere():
            _setns(self._file)
            yield

    def close(self) -> None:
        self._holder.communicate(b"\n")


def _setns(file: int) -> None:
    if _libc.setns(file, _NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def address(interface: str, *addresses: str) -> None:
    """Give an interface, where the process is now, its addresses, at once usable, and start it."""
    run("ip", "link", "set", interface, "addrgenmode", "none")
    for one in addresses:
        run("ip", "address", "add", one, "dev", interface, *(["nodad"] if ":" in one else []))
    run("ip", "link", "set", interface, "up")


def every_address() -> None:
    """Make every address that no interface has one of the namespace where the process is now."""
    for family, network in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        run("ip", family, "route", "add", "local", network, "dev", "lo", "table", "main")


def listen(where: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket bound to the address `where` of the namespace where the process is now."""
    found = socket.socket(_family(where), kind)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if found.family == socket.AF_INET6:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    found.bind((where, port))
    if kind == socket.SOCK_STREAM:
        found.listen(64)
    found.settimeout(PATIENCE_S)
    return found


def connect(
    where: str, port: int, kind: int = socket.SOCK_STREAM, patience_s: float = PATIENCE_S
) -> socket.socket:
    """A socket connected to there. Raises `OSError` where that is refused, or has no answer in time."""
    found = socket.socket(_family(where), kind)
    found.settimeout(patience_s)
    try:
        found.connect((where, port))
    except OSError:
        found.close()
        raise
    return found


def arrives(sender: socket.socket, receiver: socket.socket, patience_s: float = PATIENCE_S) -> bool:
    """Whether bytes sent by one of a connection's two sockets reach the other in time."""
    token = os.urandom(8)
    receiver.settimeout(patience_s)
    try:
        sender.send(token)
        return receiver.recv(4096).endswith(token)
    except OSError:
        return False


def _family(where: str) -> int:
    return socket.AF_INET6 if ":" in where else socket.AF_INET


@dataclass(frozen=True)
class Server:
    """Listening at one port of every address out there."""

    by_family: dict[bool, socket.socket]

    def accept(self, where: str) -> socket.socket:
        return self.by_family[":" in where].accept()[0]


def serve(port: int) -> Server:
    return Server({":" in one: listen(one, port) for one in ("0.0.0.0", "::")})


@contextmanager
def outside() -> Generator[Namespace]:
    """All other addresses, at the end of the interface ``uplink``."""
    there = Namespace()
    there.join("uplink", "far")
    address("uplink", "192.0.2.15/24", "fd00::15/64")
    run("ip", "route", "add", "default", "via", "192.0.2.1")
    run("ip", "-6", "route", "add", "default", "via", "fd00::1")
    with there.inside():
        address("far", "192.0.2.1/24", "fd00::1/64")
        every_address()
    try:
        yield there
    finally:
        there.close()


@contextmanager
def machine() -> Generator[Namespace]:
    """A machine's network behind the interface ``tap0``; this namespace forwards."""
    guest = Namespace()
    guest.join("tap0", "eth0")
    address("tap0", "10.0.2.2/24", "fd02::2/64")
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        (Path("/proc/sys/net") / name).write_text("1")
    with guest.inside():
        address("eth0", "10.0.2.15/24", "10.0.2.16/24", "fd02::15/64")
        run("ip", "route", "add", "default", "via", "10.0.2.2")
        run("ip", "-6", "route", "add", "default", "via", "fd02::2")
    try:
        yield guest
    finally:
        guest.close()


def refusal(where: str, port: int, kind: int = socket.SOCK_STREAM, patience_s: float = PATIENCE_S) -> str:
    """How a connection is refused; empty: it is not."""
    try:
        with connect(where, port, kind, patience_s) as found:
            if kind == UDP:
                found.send(b"?")
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else "silence"
    return ""
