"""What a sandbox's network depends on, read from the host; nothing is changed."""

from __future__ import annotations

import os
import struct
from _socket import AF_INET, SOCK_DGRAM, inet_ntoa, inet_ntop, socket
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl

from backends.errors import BackendUnavailable, Problem
from backends.frozen import frozen
from backends.network.host_networks import parse_own, read_kernel_tables

__all__ = ["BRIDGE", "Bridge", "NetworkFacts", "host_addresses", "observe_network"]

BRIDGE = "mxcbr0"
"""What prep makes for root's sandboxes to be attached to."""

_PATH_OF_ROOT = "/usr/sbin:/sbin"
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_AF_INET6 = 10
_RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


@frozen
class Bridge:
    """`address` is the bridge's own, ``10.0.0.1/24``; `address6` the same in IPv6, or ""."""

    name: str
    address: str
    address6: str = ""


@frozen
class NetworkFacts:
    """Paths are absolute, "" for what is not there.

    `forwards`, `carries`: the families (4, 6) in which the host forwards, and has a way out. `has_ipv6`: the
    kernel has it. `addresses`: see `host_addresses`. `nameservers` are its, but for those on its loopback.
    """

    nft: str = ""
    pasta: str = ""
    slirp: str = ""
    bridge: Bridge | None = None
    forwards: tuple[int, ...] = ()
    carries: tuple[int, ...] = ()
    has_ipv6: bool = True
    addresses: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()


def observe_network(*, uplink: bool, root: bool) -> NetworkFacts:
    """Look at the host.

    Parameters
    ----------
    uplink: whether packets of the sandbox are to leave; else only what rules and proxies need is looked for.
    root: whether the bridge is used, rather than a helper of a user's.

    Raises as `host_addresses` does.
    """
    has_ipv6 = _has_ipv6()
    nft = _find("nft")
    if not uplink:
        return NetworkFacts(nft=nft, has_ipv6=has_ipv6)
    return NetworkFacts(
        nft=nft,
        pasta="" if root else _find("pasta"),
        slirp="" if root else _find("slirp4netns"),
        bridge=_bridge(BRIDGE) if root else None,
        forwards=tuple(_forwarded()) if root else (),
        carries=tuple(_default_routes()),
        has_ipv6=has_ipv6,
        addresses=host_addresses(),
        nameservers=_nameservers(),
    )


def _has_ipv6() -> bool:
    """A kernel that was booted without it has its files all the same."""
    with suppress(OSError), open("/sys/module/ipv6/parameters/disable_ipv6") as file:
        return file.read().strip() == "0"
    return os.path.exists("/proc/net/if_inet6")


def _find(program: str) -> str:
    for directory in f"{os.environ.get('PATH', os.defpath)}:{_PATH_OF_ROOT}".split(":"):
        candidate = f"{directory}/{program}"
        if directory.startswith("/") and os.access(candidate, os.X_OK):
            return candidate
    return ""


def _bridge(name: str) -> Bridge | None:
    if not os.path.exists(f"/sys/class/net/{name}/bridge"):
        return None
    address6 = next(
        (f"{found}/{prefix}" for found, prefix, link in _ipv6() if link == name and not _is_local6(found)), ""
    )
    try:
        address, mask = _of_link(_SIOCGIFADDR, name), _of_link(_SIOCGIFNETMASK, name)
    except OSError:  # it has none
        return None
    prefix = bin(int.from_bytes(mask, "big")).count("1")
    return Bridge(name, f"{inet_ntoa(address)}/{prefix}", address6)


def _of_link(request: int, name: str) -> bytes:
    asking = socket(AF_INET, SOCK_DGRAM)
    try:
        return ioctl(asking.fileno(), request, struct.pack("256s", name.encode()))[20:24]
    finally:
        asking.close()


def _forwarded() -> Iterator[int]:
    for family, switch in ((4, "ipv4/ip_forward"), (6, "ipv6/conf/all/forwarding")):
        with suppress(OSError), open(f"/proc/sys/net/{switch}") as file:
            if file.read().strip() != "0":
                yield family


def _default_routes() -> Iterator[int]:
    with suppress(OSError), open("/proc/net/route") as file:
        lines = [line.split() for line in file]
        if any(len(words) > 7 and words[1] == words[7] == "00000000" for words in lines):
            yield 4
    with suppress(OSError), open("/proc/net/ipv6_route") as file:
        if any(words[1] == "00" and words[9] != "lo" for words in map(str.split, file)):
            yield 6


def host_addresses() -> tuple[str, ...]:
    """Where the host answers, also as one of many: addresses, and networks whose every address it has.

    Those of its loopback apart. Raises `BackendUnavailable` when that cannot be known: it would be open.
    """
    try:
        found = parse_own(read_kernel_tables())
    except OSError as error:
        message = f"the host's own addresses, which are closed to a sandbox, cannot be read: {error}"
        fix = "mount -t proc proc /proc"
        raise BackendUnavailable(Problem("host_addresses_unknown", "/network", message, fix=fix)) from error
    return tuple(
        str(one.network_address) if one.num_addresses == 1 else str(one)
        for one in found
        if not one.is_loopback
    )


def _ipv6() -> Iterator[tuple[str, int, str]]:
    """(address, length of its prefix, link)"""
    with suppress(OSError), open("/proc/net/if_inet6") as file:
        for line in file:
            digits, _, prefix, _, _, link = line.split()
            yield inet_ntop(_AF_INET6, bytes.fromhex(digits)), int(prefix, 16), link


def _is_local6(address: str) -> bool:
    return address.startswith("fe80:")


def _nameservers() -> tuple[str, ...]:
    for path in _RESOLVERS:
        found = tuple(_listed(path))
        if found:
            return found
    return ()


def _listed(path: str) -> Iterator[str]:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and not _is_loopback(words[1]):
                yield words[1]


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1" or "%" in address
