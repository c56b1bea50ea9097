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

_UNREADABLE = "unreadable"


class Bridge(FactBase[dict[str, Any] | None]):
    """A network device: ``{"kind", "up", "alias", "addresses", "ports", "ipv6"}``; None where there is none.

    `kind` is as ``ip link add type`` has it, "" for hardware, ``unreadable`` where iproute2 is missing.
    `addresses` are IPv4, with their prefix lengths; `ports` are the devices that are attached to it.
    """

    @override
    def command(self, bridge: str) -> str:
        name = quote(bridge)
        return (
            f'if found=$(ip -j -d address show dev {name} 2>/dev/null); then echo "$found";'
            f" ip -j link show master {name};"
            f" cat /proc/sys/net/ipv6/conf/{name}/disable_ipv6 2>/dev/null || true;"
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
            }
        device, ports = _json(output[0])[0], _json(output[1])
        return {
            "kind": device.get("linkinfo", {}).get("info_kind", ""),
            "up": "UP" in device["flags"],
            "alias": device.get("ifalias", ""),
            "addresses": [
                f"{entry['local']}/{entry['prefixlen']}"
                for entry in device["addr_info"]
                if entry.get("family") == "inet"
            ],
            "ports": [port["ifname"] for port in ports],
            "ipv6": output[2:] == ["0"],
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
