"""What a network in the legacy form (0.4 … 0.9-dev) cannot have: every refusal, and what to warn of. Pure.

The form itself is said in the newest one by `mxc_ops.config.legacy_network`, which drops what it cannot say;
nothing of that is dropped silently when the document is to be run. Rules: policy-semantics.md §2 and §3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backends.errors import Problem
from mxc_ops.policy.network_values import (
    pattern_fault,
    pattern_of,
    proxy_address,
    proxy_fault,
    read_network,
    shown,
    suggested_pattern,
)

__all__ = ["legacy_problems", "legacy_warnings"]

_LISTS = ("allowedHosts", "blockedHosts")
_NAMED_INSTEAD = {
    "allowedHosts": '"mxcOps": {"network": {"names": [{"name": "*.example.test"}]}}',
    "blockedHosts": '"mxcOps": {"network": {"deniedNames": [{"name": "*.example.test"}]}}',
}


def legacy_problems(network: Mapping[str, Any], containment: str) -> Iterator[Problem]:
    """Everything in `network`, as the user wrote it, that cannot be enforced as it stands.

    Parameters
    ----------
    containment: one that mxc-ops runs; bubblewrap alone knows no proxy beside a packet filter.
    """
    for field in _LISTS:
        for index, text in enumerate(network.get(field) or ()):
            if (fault := _entry_fault(field, text)) is not None:
                message, fix = fault
                yield Problem(
                    "invalid_host",
                    f"/network/{field}/{index}",
                    message,
                    expected="an address, a network or a host's name",
                    fix=fix,
                )
    proxy: Mapping[str, Any] | None = network.get("proxy")
    if proxy is not None:
        yield from _proxy_problems(proxy)
        yield from _beside_proxy(network, containment)
    elif network.get("defaultPolicy") != "allow":
        yield from _untellable(network)


def legacy_warnings(network: Mapping[str, Any]) -> tuple[str, ...]:
    """What becomes of a default of allow beside a blocked name."""
    place = _blocked_name(network)
    if place is None or network.get("defaultPolicy") != "allow":
        return ()
    return (
        f"{place}: a blocked name cannot be told by its address, so direct traffic is closed: all other names"
        " are reached through the filtering proxy alone",
    )


# --- host lists ------------------------------------------------------------------------------------


def _entry_fault(field: str, text: str) -> tuple[str, str] | None:
    """(what is wrong, fix). Host bits widen what is blocked, and never what is allowed."""
    found = read_network(text)
    if not isinstance(found, Problem):
        return None
    if found.fix:  # a network with host bits set
        return None if field == "blockedHosts" else (found.message, found.fix)
    if "*" not in text and pattern_of(text) is not None:
        return None
    meant = suggested_pattern(text)
    fix = f'write "{meant}"' if meant else "remove it, or write an address or a host's name"
    if "*" in text:
        fix = f"say it in our own field, which knows such names: {_NAMED_INSTEAD[field]}"
    return f"{shown(text)}: {pattern_fault(text) or 'names are exact here'}", fix


def _untellable(network: Mapping[str, Any]) -> Iterator[Problem]:
    """A blocked name among allowed addresses: where it lies in them, direct traffic would reach it."""
    place = _blocked_name(network)
    addresses = [
        index
        for index, text in enumerate(network.get("allowedHosts") or ())
        if not isinstance(read_network(text), Problem)
    ]
    if place is not None and addresses:
        yield Problem(
            "blocked_name_among_addresses",
            place,
            "a blocked name cannot be told by its address, and addresses are allowed"
            f" (/network/allowedHosts/{addresses[0]})",
            fix="block its address, or remove it: what is not in network.allowedHosts is blocked anyway",
        )


def _blocked_name(network: Mapping[str, Any]) -> str | None:
    """Where the first blocked name stands."""
    for index, text in enumerate(network.get("blockedHosts") or ()):
        if isinstance(read_network(text), Problem) and pattern_of(text) is not None:
            return f"/network/blockedHosts/{index}"
    return None


# --- proxy -----------------------------------------------------------------------------------------


def _proxy_problems(proxy: Mapping[str, Any]) -> Iterator[Problem]:
    if proxy.get("builtinTestServer"):
        yield Problem(
            "testing_only_proxy",
            "/network/proxy/builtinTestServer",
            "upstream's test proxy is for its own tests, and part of no sandbox here",
            fix='remove network.proxy; the filtering proxy has "mxcOps": {"network": {"names": [{"name":'
            ' "example.test"}]}}',
        )
    url: str | None = proxy.get("url")
    if url is None or proxy.get("localhost") is not None:
        return
    place = "/network/proxy/url"
    address = proxy_address(url)
    if isinstance(address, str):
        yield Problem("invalid_value", place, address, expected="http://127.0.0.1:PORT")
        return
    code, message, fix = proxy_fault(address)
    if code:
        yield Problem(code, place, message, expected="http://127.0.0.1:PORT", fix=fix)


def _beside_proxy(network: Mapping[str, Any], containment: str) -> Iterator[Problem]:
    """A proxy is the only way out; who writes of another one as well means something else."""
    fields = [name for name in _LISTS if network.get(name)]
    if network.get("defaultPolicy") == "allow":
        fields.append("defaultPolicy")
    if containment == "bubblewrap" and network.get("enforcementMode") in ("firewall", "both"):
        fields.append("enforcementMode")
    for field in fields:
        yield Problem(
            "conflicting_fields",
            f"/network/{field}",
            f"beside network.proxy nothing else is reachable, and network.{field} says otherwise",
            expected="one way out",
            fix=f"remove network.{field}, or network.proxy",
        )
