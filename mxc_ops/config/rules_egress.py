"""One rule of where a sandbox may connect to, wherever it is written: config-schema.md §3.5."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from backends.errors import Problem
from mxc_ops.config import wording
from mxc_ops.policy.network_values import is_plain_network, read_network

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network


def check_rule(rule: dict[str, Any], pointer: str) -> Iterator[Problem]:
    """What is wrong with a well-shaped rule of `egress.allow`, `egress.deny` or a ceiling."""
    for index, peer in enumerate(rule.get("to") or ()):
        yield from _check_peer(peer, f"{pointer}/to/{index}")
    for index, port in enumerate(rule.get("ports") or ()):
        yield from check_port_range(port, f"{pointer}/ports/{index}")


def _check_peer(peer: dict[str, Any], pointer: str) -> Iterator[Problem]:
    if not peer.get("except") and is_plain_network(peer["cidr"]):
        return
    network = read_network(peer["cidr"])
    if isinstance(network, Problem):
        yield _at(network, f"{pointer}/cidr")
    for index, text in enumerate(peer.get("except") or ()):
        here = f"{pointer}/except/{index}"
        carved = read_network(text)
        if isinstance(carved, Problem):
            yield _at(carved, here)
        elif not isinstance(network, Problem) and not _contains(network, carved):
            yield Problem(
                "invalid_value",
                here,
                f"{wording.shown(text)} lies outside {wording.shown(peer['cidr'])}",
                expected="a range inside cidr",
            )


def _contains(outer: Network, inner: Network) -> bool:
    return (
        outer.version == inner.version
        and int(outer.network_address) <= int(inner.network_address)
        and int(outer.broadcast_address) >= int(inner.broadcast_address)
    )


def _at(problem: Problem, pointer: str) -> Problem:
    return Problem(problem.code, pointer, problem.message, expected=problem.expected, fix=problem.fix)


def check_port_range(port: dict[str, Any], pointer: str) -> Iterator[Problem]:
    """What is wrong with a well-shaped entry of `ports`."""
    first, last = port.get("port"), port.get("endPort")
    if port.get("protocol") == "icmp" and (first is not None or last is not None):
        yield Problem(
            "conflicting_fields", pointer, "protocol 'icmp' has no ports", fix="remove 'port' and 'endPort'"
        )
    elif last is not None and first is None:
        yield Problem("missing_field", f"{pointer}/port", "'endPort' needs 'port'")
    elif last is not None and first is not None and last < first:
        yield Problem(
            "out_of_range",
            f"{pointer}/endPort",
            f"endPort {last} is below port {first}",
            expected=f"at least {first}",
        )
