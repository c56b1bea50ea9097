"""Bridges, subnets and nftables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from shlex import quote
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.facts.common import EntriesFact
from mxc_ops.prep.rules.bridge import FORWARDS_IPV6

_UNREADABLE = "unreadable"


class Bridge(FactBase[dict[str, Any] | None]):
    """A network device: ``{"kind", "up", "alias", "addresses", "ports", "ipv6", "advertised"}``; None: none.

    `kind` is as ``ip link add type`` has it, "" for hardware, ``unreadable`` where iproute2 is missing.
    `addresses` have their prefix lengths; those of the link alone, in IPv6, are left out. `ports` are the
    devices that are attached to it. `ipv6`: the host speaks it there, `advertised`: and believes routers.
    """

    @override
    def command(self, bridge: str) -> str:
        name = quote(bridge)
        return (
            f'if found=$(ip -j -d address show dev {name} 2>/dev/null); then echo "$found";'
            f" ip -j link show master {name};"
            f" cd /proc/sys/net/ipv6/conf/{name} 2>/dev/null && cat disable_ipv6 accept_ra || true;"
            f" elif test -e /sys/class/net/{name}; then echo {_UNREADABLE}; fi"
        )

    @staticmethod
    @override
    def default() -> dict[str, Any] | None:
        return None

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        if output[0] == _UNREADABLE:
            return {
                "kind": _UNREADABLE,
                "up": False,
                "alias": "",
                "addresses": [],
                "ports": [],
                "ipv6": False,
                "advertised": False,
            }
        device, ports = _json(output[0])[0], _json(output[1])
        return {
            "kind": device.get("linkinfo", {}).get("info_kind", ""),
            "up": "UP" in device["flags"],
            "alias": device.get("ifalias", ""),
            "addresses": [
                f"{entry['local']}/{entry['prefixlen']}"
                for entry in device["addr_info"]
                if "local" in entry and (entry["family"], entry.get("scope")) != ("inet6", "link")
            ],
            "ports": [port["ifname"] for port in ports],
            "ipv6": output[2:3] == ["0"],
            "advertised": output[3:] not in ([], ["0"]),
        }


def _json(text: str) -> list[dict[str, Any]]:
    """What ``ip -j`` prints, without the empty objects that older ones print for what they leave out."""
    found: list[dict[str, Any]] = json.loads(text or "[]")
    return [entry for entry in found if entry]


class Subnets(EntriesFact):
    """IPv4 networks that the host is in or has routes to, as ``{"subnet", "device"}``; no default routes.

    Of routes only those that lie in `around`, or that it lies in. Without iproute2, all of the main table.
    """

    @override
    def command(self, around: str) -> str:
        routes = "ip -j -4 route show table all to"
        return (
            "if ip -j -4 address show 2>/dev/null; then"
            f" {routes} root {quote(around)}; {routes} match {quote(around)}; else cat /proc/net/route; fi"
        )

    @override
    def process(self, output: list[str]) -> list[dict[str, str]]:
        lines = [line for line in output if line]
        if lines and not lines[0].startswith("["):
            pairs = _of_proc(lines[1:])
        else:
            pairs = (pair for line in lines for entry in _json(line) for pair in _of_ip(entry))
        return [
            {"subnet": str(subnet), "device": device}
            for subnet, device in dict.fromkeys(pairs)
            if subnet.prefixlen > 0
        ]


def _of_ip(entry: dict[str, Any]) -> Iterator[tuple[IPv4Network, str]]:
    """One device with its addresses, or one route; routes that lead nowhere are none."""
    for address in entry.get("addr_info", ()):
        if "local" in address:
            yield IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False), entry["ifname"]
    target = entry.get("dst", "default")
    if target != "default" and entry.get("type", "unicast") == "unicast":
        hops: list[dict[str, str]] = entry.get("nexthops") or [entry]
        yield IPv4Network(target), hops[0].get("dev", "")


def _of_proc(lines: list[str]) -> Iterator[tuple[IPv4Network, str]]:
    """Lines of /proc/net/route: numbers are hexadecimal, in the processor's order of bytes (x86, ARM)."""
    for line in lines:
        device, target, _, _, _, _, _, mask = line.split()[:8]
        yield IPv4Network(f"{_address(target)}/{_address(mask)}"), device


def _address(text: str) -> IPv4Address:
    return IPv4Address(bytes.fromhex(text)[::-1])


class Table(FactBase[str | None]):
    """One table of nftables as nft(8) lists it, without counts; "" where there is none.

    None where that cannot be told: without nft, or without the right to ask.
    """

    @override
    def command(self, table: str) -> str:
        return (
            "if nft list tables >/dev/null 2>&1;"
            f" then nft -s list table inet {quote(table)} 2>/dev/null || true; else echo {_UNREADABLE}; fi"
        )

    @staticmethod
    @override
    def default() -> str | None:
        return ""

    @override
    def process(self, output: list[str]) -> str | None:
        return None if output == [_UNREADABLE] else "\n".join(output)


class Ipv6Forwarded(FactBase[bool]):
    """Whether the host has IPv6, and forwards it."""

    @override
    def command(self) -> str:
        return f"if {FORWARDS_IPV6}; then echo yes; fi"

    @staticmethod
    @override
    def default() -> bool:
        return False

    @override
    def process(self, output: list[str]) -> bool:
        return output == ["yes"]


class Ipv6Routes(FactBase[dict[str, Any]]):
    """How the host comes by its ways out in IPv6: ``{"leads", "advertised"}``.

    `leads`: there is a default route. `advertised`: device → its accept_ra, of those at which the host has
    something from router advertisements that it does not take for sure when it forwards.
    """

    @override
    def command(self) -> str:
        return (
            # Of a protocol that was asked for, ip(8) does not tell it again.
            "for of in default 'proto ra' 'proto kernel'; do"
            ' ip -j -6 route show table all $of 2>/dev/null | sed "s/^/$of /"; echo; done;'
            " grep -s . /proc/sys/net/ipv6/conf/*/accept_ra || true"
        )

    @staticmethod
    @override
    def default() -> dict[str, Any]:
        return {"leads": False, "advertised": {}}

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        accepted = {
            path.split("/")[-2]: value
            for path, colon, value in (line.rpartition(":") for line in output)
            if colon and path.startswith("/proc/")
        }
        default, by_router, to_neighbours = (
            _listed(output, of) for of in ("default", "proto ra", "proto kernel")
        )
        # Those to neighbours that end by themselves came with an address that was made from a prefix.
        advertised = [*by_router, *(entry for entry in to_neighbours if "expires" in entry)]
        devices = dict.fromkeys(device for entry in advertised for device in _devices(entry))
        return {
            "leads": any(entry.get("type", "unicast") == "unicast" for entry in default),
            "advertised": {
                device: accepted.get(device, "")
                for device in devices
                if accepted.get(device) != _WHATEVER_HAPPENS
            },
        }


_WHATEVER_HAPPENS = "2"
"""As accept_ra: advertisements are taken by a host that forwards, too (Linux: ip-sysctl)."""


def _listed(output: list[str], of: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix(f"{of} ") for line in output if line.startswith(f"{of} [")]
    return [entry for line in lines for entry in _json(line)]


def _devices(route: dict[str, Any]) -> Iterator[str]:
    hops: list[dict[str, str]] = route.get("nexthops") or [route]
    yield from (hop["dev"] for hop in hops if "dev" in hop)


class ForwardChains(EntriesFact):
    """Chains that judge what the host forwards: ``{"family", "table", "chain", "policy"}``.

    Also that of the iptables from before nftables, as family ``legacy``, where the kernel has its table.
    """

    @override
    def command(self) -> str:
        return (
            "nft -j list chains 2>/dev/null || true; if grep -qsx filter /proc/net/ip_tables_names;"
            " then iptables-legacy -S FORWARD 2>/dev/null | grep '^-P' || true; fi"
        )

    @override
    def process(self, output: list[str]) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for line in output:
            if line.startswith("{"):
                objects: list[dict[str, dict[str, str]]] = json.loads(line)["nftables"]
                chains = [entry["chain"] for entry in objects if "chain" in entry]
                found += [_chain(chain) for chain in chains if chain.get("hook") == "forward"]
            elif line.startswith("-P FORWARD"):
                policy = line.split()[2].lower()
                found.append({"family": "legacy", "table": "filter", "chain": "FORWARD", "policy": policy})
        return found


def _chain(chain: dict[str, str]) -> dict[str, str]:
    return {
        "family": chain["family"],
        "table": chain["table"],
        "chain": chain["name"],
        "policy": chain.get("policy", "accept"),
    }
