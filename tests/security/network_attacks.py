"""For attacks on networks: what runs in sandboxes, who watches links, and a namespace that nothing guards.

Run by itself it is the watcher: ``python -m tests.security.network_attacks`` in a network namespace.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import CHECKOUT, User
from tests.network.bed import Bed
from tests.network.flavours import WEB_PROBES, probes_input
from tests.network.link import READY, Link
from tests.security.host import wait_until

__all__ = [
    "ATTACKS",
    "Front",
    "Seen",
    "StandIn",
    "Watch",
    "attack_source",
    "front",
    "new_token",
    "stand_in",
    "watched",
    "with_ctypes",
]

_START = "\nmain()\n"
_OF_OURS = re.compile(r"^from (__future__|tests\.\S+) import (\([^)]*\)|.*)\n", re.MULTILINE)
_EVERY_PROTOCOL = 3
_RECEIVE_FORCE, _PACKET_STATISTICS, _SOL_PACKET = 33, 6, 263
_ROOM = 256 << 20


def attack_source(*names: str) -> str:
    """The probes of the bed and these modules beside us, as one program."""
    added = [Path(__file__).with_name(f"{name}.py").read_text() for name in names]
    return "\n".join([WEB_PROBES.removesuffix(_START), *(_OF_OURS.sub("", text) for text in added), _START])


ATTACKS = attack_source("network_inside", "network_traffic")


def with_ctypes(python: Path) -> None:
    """Give the copy of an interpreter (see `tests.network.flavours`) what `ctypes` needs besides."""
    for module in python.glob("lib/python3.*/lib-dynload/_ctypes.*.so"):
        told = subprocess.run(["ldd", module], check=True, capture_output=True, text=True).stdout
        for line in told.splitlines():
            name, _, path = line.strip().partition(" => ")
            if path and name.startswith("libffi"):
                shutil.copy(path.split()[0], python / "lib" / name)


def new_token() -> str:
    """What no other packet has in it."""
    return f"token-{os.urandom(8).hex()}"


@dataclass(frozen=True)
class Seen:
    """A packet on a link. Addresses are "" where it is none of IP."""

    link: str
    protocol: int
    source: str
    destination: str


class Watch:
    """Sees every packet of one namespace, on all its links, from its beginning on."""

    def __init__(self, namespace: str) -> None:
        argv = ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.security.network_attacks"]
        self._link = Link(argv, cwd=CHECKOUT)

    def carrying(self, token: str) -> list[Seen]:
        """Packets with the token in them, however they are wrapped."""
        return [Seen(*one) for one in self._link.ask("carrying", token=token)]

    def to_or_from(self, *addresses: str) -> list[Seen]:
        """Packets with one of these at either end."""
        return [Seen(*one) for one in self._link.ask("between", addresses=addresses)]

    def forget(self) -> None:
        """All packets until now."""
        self._link.ask("forget")

    def close(self) -> None:
        self._link.close()


@contextmanager
def watched(bed: Bed) -> Generator[tuple[Watch, Watch]]:
    """The bed's host, and what is beyond it."""
    host, beyond = Watch(bed.host), Watch(bed.beyond)
    try:
        yield host, beyond
    finally:
        host.close()
        beyond.close()


class StandIn:
    """A namespace on the bed's bridge as a sandbox has one, without rules, and with all rights in it."""

    ADDRESS, ADDRESS6 = "10.187.3.9", "fdb5:6d78:62::3:9"
    _RULES = "table inet mxc { chain out { type filter hook output priority 0; ct state new accept; }; }"

    def __init__(self, bed: Bed) -> None:
        self._held = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._held.stdout is not None
        assert self._held.stdout.readline() == READY
        name = f"bare{os.getpid()}"[:15]
        self._remove = f"ip -n {bed.host} link del {name}".split(" ")
        inside = f"nsenter --net=/proc/{self._held.pid}/ns/net"
        for command in (
            f"ip -n {bed.host} link add {name} type veth peer name uplink netns {self._held.pid}",
            f"ip -n {bed.host} link set {name} master mxcbr0 up",
            f"{inside} ip link set lo up",
            f"{inside} sysctl -qw net.ipv4.ping_group_range=0\t2147483647",
            f"{inside} ip link set uplink up",
            f"{inside} ip addr add {self.ADDRESS}/22 dev uplink",
            f"{inside} ip addr add {self.ADDRESS6}/64 dev uplink nodad",
            f"{inside} ip route add default via 10.187.0.1",
            f"{inside} ip route add default via fdb5:6d78:62::1",
        ):
            subprocess.run(command.split(" "), check=True)
        self._inside = inside.split()
        subprocess.run([*self._inside, "nft", self._RULES], check=True)
        asking = {"kind": "udp", "to": "2001:db8:2::7", "port": 8000, "wait": 1}
        wait_until(lambda: self.run([asking])[0]["reached"], "the link does not come up")

    def execute(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._inside, *argv], capture_output=True, text=True, timeout=60, check=False)

    def run(self, probes: Sequence[Mapping[str, Any]], source: str = ATTACKS) -> list[dict[str, Any]]:
        """The same attacks there, one after the other."""
        told: list[dict[str, Any]] = []
        for probe in probes:
            one = probes_input([{"wait": 3, **probe}])
            argv = [*self._inside, "/usr/bin/python3", "-c", source]
            done = subprocess.run(argv, input=one, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            told.append(json.loads(done.stdout))
        return told

    def close(self) -> None:
        # The kernel takes its time with a link of a namespace that ended, and the next one has the same name.
        subprocess.run(self._remove, check=True)
        self._held.communicate()


@contextmanager
def stand_in(bed: Bed) -> Generator[StandIn]:
    made = StandIn(bed)
    try:
        yield made
    finally:
        made.close()


_WHO = "import os\ndef main(given):\n    return os.getpid()\n"


class Front:
    """Who starts sandboxes on the bed's host, one process for a test: see `tests.network.in_namespace`."""

    def __init__(self, bed: Bed, user: User | None, before: Sequence[str], within: str) -> None:
        """`before`: shell commands in its mount namespace, as root; `within`: what they are started by."""
        source = Path(CHECKOUT, "tests", "network", "in_namespace.py").read_text()
        if user is None:
            argv, options = [sys.executable, "-c", source], {"cwd": CHECKOUT}
        else:
            drop = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
            argv = [*drop, user.python, "-c", source]
            options = {"cwd": user.home, "env": dict(user.environment)}
        prepared = " && ".join([*before, 'exec "$@"'])
        self.link = Link(bed.inside_host([*within.split(), "sh", "-c", prepared, "sh", *argv]), **options)
        self.pid: int = self.link.ask("script", source=_WHO, function="main", given=None)


@contextmanager
def front(bed: Bed, user: User | None, before: Sequence[str] = (), within: str = "") -> Generator[Front]:
    """One, for as long as the block."""
    made = Front(bed, user, before, within)
    try:
        yield made
    finally:
        made.link.close()


# --- the watcher -----------------------------------------------------------------------------------


class _Watcher:
    def __init__(self) -> None:
        self._packets: list[tuple[Seen, bytes]] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERY_PROTOCOL))
        self._socket.setsockopt(socket.SOL_SOCKET, _RECEIVE_FORCE, _ROOM)
        self._socket.setblocking(False)

    def serve(self) -> None:
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        buffer = b""
        while True:
            ready, _, _ = select.select([self._socket, 0], [], [])
            self._take()
            if 0 not in ready:
                continue
            got = os.read(0, 1 << 16)
            if not got:
                return
            *lines, buffer = (buffer + got).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                value = [vars(one) for one in self._found(asked)]
                told = {"id": asked["id"], "value": [list(one.values()) for one in value]}
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()

    def _take(self) -> None:
        while True:
            try:
                data, (link, kind, *_) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                break
            self._packets.append((_seen(link, kind, data), data))
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        assert struct.unpack("II", statistics)[1] == 0, "the watcher has missed some"

    def _found(self, asked: Mapping[str, Any]) -> list[Seen]:
        if asked["op"] == "forget":
            self._packets.clear()
        if asked["op"] == "carrying":
            return [seen for seen, data in self._packets if asked["token"].encode() in data]
        wanted = set(asked.get("addresses", ()))
        return [seen for seen, _ in self._packets if {seen.source, seen.destination} & wanted]


def _seen(link: str, kind: int, data: bytes) -> Seen:
    if kind == 0x0800 and len(data) >= 20:
        source, destination = (socket.inet_ntop(socket.AF_INET, data[at : at + 4]) for at in (12, 16))
        return Seen(link, data[9], source, destination)
    if kind == 0x86DD and len(data) >= 40:
        source, destination = (socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (8, 24))
        return Seen(link, data[6], source, destination)
    return Seen(link, kind, "", "")


if __name__ == "__main__":
    _Watcher().serve()
