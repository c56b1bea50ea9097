"""Two network namespaces of our own, a host and everything beyond it, with servers there. No real network.

::

    sandboxes ─ mxcbr0 ─ HOST ──── veth ──── BEYOND (192.0.0.0/16, 198.18.0.0/15, 2001:db8::/44, …, servers)
                         203.0.113.2         203.0.113.1

Every address beyond answers. Names carry our process id: several beds may be there at once, and what a killed
process left behind is removed by the next.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import CHECKOUT
from tests.network.link import Link

__all__ = [
    "BRIDGE_ADDRESSES",
    "HOST_ADDRESSES",
    "Bed",
    "network_bed",
]

HOST_ADDRESSES = ("203.0.113.2", "2001:db8:113::2")
BRIDGE_ADDRESSES = ("10.187.0.1", "fdb5:6d78:62::1")
_LINK = (("203.0.113.2/24", "203.0.113.1/24"), ("2001:db8:113::2/64", "2001:db8:113::1/64"))
_BRIDGES = ("10.187.0.1/22", "fdb5:6d78:62::1/64")
BEYOND = (
    *("192.0.0.0/16", "198.51.100.0/24", "198.18.0.0/15", "169.254.169.254/32", "10.9.0.0/16"),
    *("93.184.216.0/24", "2001:db8::/44", "2606:2800:220::/48", "fd00:9::/64"),
)
_BRIDGE = "mxcbr0"
_NAT = """
table inet mxc-test {
    chain out {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "wan" masquerade
    }
}
"""
_CERTIFIED = (
    "example.test",
    "*.example.test",
    "*.deep.example.test",
    "other.test",
    "public.test",
    "second.test",
)
_OURS = re.compile(r"mxcbed(\d+)-")


class Bed:
    """`host` and `beyond` are names of network namespaces (ip-netns(8)), `certificate` is PEM.

    `on_host` and `out_there` are the servers of the two: `tests.network.servers`.
    """

    def __init__(self, name: str) -> None:
        self.host, self.beyond = f"{name}-host", f"{name}-beyond"
        self._folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self._folder.chmod(0o755)
        self._links: list[Link] = []
        self.certificate = ""

    @property
    def resolv_conf(self) -> Path:
        """What the host asks: see `inside_host`."""
        return self._folder / "resolv.conf"

    def build(self) -> None:
        for namespace in (self.host, self.beyond):
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip(*f"-n {self.host} link add wan type veth peer name wan netns {self.beyond}".split())
        for on_host, out_there in _LINK:
            self._address(self.host, "wan", on_host)
            self._address(self.beyond, "wan", out_there)
        for namespace in (self.host, self.beyond):
            _ip("-n", namespace, "link", "set", "wan", "up")
        _ip("-n", self.host, "link", "add", _BRIDGE, "type", "bridge")
        for address in _BRIDGES:
            self._address(self.host, _BRIDGE, address)
        _ip("-n", self.host, "link", "set", _BRIDGE, "up")
        self._routes()
        for switch in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            self.run(["sysctl", "-qw", switch])
        self.run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"])
        self.run(["nft", "-f", "-"], input=_NAT)
        self.resolv_conf.write_text("nameserver 192.0.2.53\nnameserver 2001:db8:2::53\n")
        serve = [sys.executable, "-m", "tests.network.servers"]
        beyond = ["ip", "netns", "exec", self.beyond, *serve, "beyond", self._certify()]
        self.out_there = self.link(beyond, cwd=CHECKOUT)
        self.on_host = self.link(self.inside_host([*serve, "host", ""]), cwd=CHECKOUT)

    def _address(self, namespace: str, link: str, address: str) -> None:
        _ip("-n", namespace, "addr", "add", address, "dev", link, *(("nodad",) if ":" in address else ()))

    def _routes(self) -> None:
        """Beyond, whole networks are local (ip-route(8)), and a way leads to the sandboxes' own."""
        for (on_host, out_there), bridge in zip(_LINK, _BRIDGES, strict=True):
            gateway, host = out_there.partition("/")[0], on_host.partition("/")[0]
            _ip("-n", self.host, "route", "add", "default", "via", gateway)
            network = bridge.replace("1/", "0/") if "." in bridge else bridge.replace("::1/", "::/")
            _ip("-n", self.beyond, "route", "add", network, "via", host)
        for network in BEYOND:
            _ip("-n", self.beyond, "route", "add", "local", network, "dev", "lo")

    def _certify(self) -> str:
        """One self-signed certificate with its key, for all names that are served."""
        names = ",".join(f"DNS:{name}" for name in _CERTIFIED)
        words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=bed"
        both = self._folder / "both.pem"
        files = ("-keyout", str(self._folder / "key.pem"), "-out", str(self._folder / "certificate.pem"))
        subprocess.run(
            [*words.split(), "-addext", f"subjectAltName={names}", *files], check=True, capture_output=True
        )
        self.certificate = (self._folder / "certificate.pem").read_text()
        both.write_text((self._folder / "key.pem").read_text() + self.certificate)
        return str(both)

    def link(self, argv: list[str], **process: Any) -> Link:
        """Start a helper that ends with the bed."""
        made = Link(argv, **process)
        self._links.append(made)
        return made

    def inside_host(self, argv: list[str]) -> list[str]:
        """The command that runs `argv` on the host, which asks our nameserver: its mounts are its own."""
        bind = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["ip", "netns", "exec", self.host, "sh", "-c", bind, str(self.resolv_conf), *argv]

    def run(self, argv: list[str], *, input: str | None = None) -> str:
        """A program on the host."""
        whole = ["ip", "netns", "exec", self.host, *argv]
        return subprocess.run(whole, check=True, input=input, capture_output=True, text=True).stdout

    def neighbours(self) -> list[str]:
        """Addresses of sandboxes that the host's bridge has heard of."""
        told = self.run(["ip", "neigh", "show", "dev", _BRIDGE])
        lines = [line.split() for line in told.splitlines()]
        return [words[0] for words in lines if "lladdr" in words and not words[0].startswith("fe80:")]

    def forget_neighbours(self) -> None:
        self.run(["ip", "neigh", "flush", "dev", _BRIDGE])

    def drop(self) -> None:
        for link in reversed(self._links):
            link.close()
        for namespace in (self.host, self.beyond):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def network_bed() -> Generator[Bed]:
    _remove_leftovers()
    bed = Bed(f"mxcbed{os.getpid()}")
    try:
        bed.build()
        yield bed
    finally:
        bed.drop()


def _remove_leftovers() -> None:
    """Of processes that are gone; one with our own id was not us."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    for namespace in [line.split()[0] for line in listed.splitlines()]:
        if _is_left(namespace):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
    for folder in Path(tempfile.gettempdir()).iterdir():
        if _is_left(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(name: str) -> bool:
    found = _OURS.match(name)
    return bool(found) and (int(found[1]) == os.getpid() or not Path("/proc", found[1]).exists())


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)
