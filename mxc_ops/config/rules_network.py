"""Rules of the network sections, both shapes: config-schema.md §3.5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from backends.errors import Problem
from mxc_ops.config import wording
from mxc_ops.config.reading import process_container, section
from mxc_ops.config.rules_egress import check_rule
from mxc_ops.policy.network_values import proxy_address

if TYPE_CHECKING:
    from mxc_ops.config.versions import Governing

Body = Mapping[str, Any]

LEGACY_FIELDS = (
    "defaultPolicy",
    "enforcementMode",
    "allowedHosts",
    "blockedHosts",
    "allowLocalNetwork",
    "proxy",
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_RESERVED_PEER = "mxc-loopback"
_PROXY_EXAMPLE = "http://127.0.0.1:8080"


def check_network(body: Body, governing: Governing) -> Iterator[Problem]:
    """Rules inside `network`, and that only one of its two shapes is used."""
    network = section(body, "network")
    legacy = [f"/network/{name}" for name in LEGACY_FIELDS if network.get(name) is not None]
    if legacy:
        directional = _directional_fields(body)
        if directional and governing.directional:
            for pointer in legacy:
                yield Problem(
                    "conflicting_fields",
                    pointer,
                    f"cannot be mixed with {wording.listed(_dotted(each) for each in directional)}",
                    expected="one of the two network shapes",
                )
        if network.get("proxy") is not None:
            yield from _check_legacy_proxy(network["proxy"])
    if not governing.directional:
        yield from _check_too_new(body, governing)
    egress = network.get("egress")
    if egress:
        for name in ("allow", "deny"):
            for index, rule in enumerate(egress.get(name) or ()):
                yield from check_rule(rule, f"/network/egress/{name}/{index}")


def _check_too_new(body: Body, governing: Governing) -> Iterator[Problem]:
    for pointer in _directional_fields(body):
        yield Problem(
            "needs_newer_version",
            pointer,
            f"needs schema version 0.8 or later, and this is {wording.shown(governing.declared)}",
            fix="set version to '0.8.0-alpha'",
        )


def _directional_fields(body: Body) -> list[str]:
    network = section(body, "network")
    container_name, container = process_container(body)
    there = [f"/network/{name}" for name in ("egress", "ingress") if network.get(name) is not None]
    if body.get("runtimeConfig") is not None:
        there.append("/runtimeConfig")
    if container.get("network") is not None:
        there.append(f"/{container_name}/network")
    return there


def _dotted(pointer: str) -> str:
    return pointer[1:].replace("/", ".")


def _check_legacy_proxy(proxy: dict[str, Any]) -> Iterator[Problem]:
    builtin, url = proxy.get("builtinTestServer"), proxy.get("url")
    others = [name for name in ("localhost", "url") if proxy.get(name) is not None]
    if builtin is False:
        yield Problem(
            "invalid_value",
            "/network/proxy/builtinTestServer",
            "must be true when it is there",
            expected="true",
        )
    elif builtin and others:
        yield Problem(
            "conflicting_fields",
            "/network/proxy",
            f"the built-in test server excludes {wording.listed(others)}",
            fix=f"remove builtinTestServer, or {wording.listed(others)}",
        )
    elif builtin is None and not others:
        yield Problem(
            "missing_field",
            "/network/proxy",
            "the proxy is not named",
            expected="'localhost' (a port), 'url' or 'builtinTestServer'",
        )
    if url is not None:
        address = proxy_address(url)
        if isinstance(address, str):
            yield Problem("invalid_value", "/network/proxy/url", address, expected="http://HOST:PORT")


def check_runtime_proxy(body: Body, governing: Governing) -> Iterator[Problem]:
    """Rules of `runtimeConfig` and `processContainer.network`."""
    if not governing.directional and not body.get("network"):
        yield from _check_too_new(body, governing)
    proxy = section(body, "runtimeConfig").get("networkProxy")
    name, container = process_container(body)
    written = section(container, "network").get("allowedProxyPeer")
    peer = (written or "").strip()
    peer_pointer = f"/{name}/network/allowedProxyPeer"
    if governing.contract is not None and written is not None and not peer:
        yield Problem("empty_value", peer_pointer, "the peer is blank", fix="leave the field out instead")
    if peer.lower() == _RESERVED_PEER:
        yield Problem("reserved_name", peer_pointer, "the identity 'MXC-Loopback' is reserved")
    if proxy is None:
        if peer:
            yield Problem("missing_field", "/runtimeConfig/networkProxy", "allowedProxyPeer needs a proxy")
        return
    pointer = "/runtimeConfig/networkProxy"
    address = proxy_address(proxy)
    if isinstance(address, str):
        yield Problem("invalid_value", pointer, address, expected=_PROXY_EXAMPLE)
    elif address.host not in _LOOPBACK and not _may_use_remote_proxy(body, governing):
        yield Problem(
            "invalid_value",
            pointer,
            "the proxy is not on this host",
            expected="localhost, 127.0.0.1 or [::1]",
        )
    egress = section(body, "network", "egress")
    if egress.get("default") == "allow" or egress.get("allow") or egress.get("deny"):
        yield Problem(
            "conflicting_fields",
            pointer,
            "a proxy excludes direct traffic",
            expected="network.egress.default 'deny' and no allow or deny rules",
            fix="remove network.egress, or runtimeConfig.networkProxy",
        )
    if body.get("containment") in ("processcontainer", "appcontainer"):
        yield from _check_container_proxy(section(body, "network", "ingress"), bool(peer))


def _may_use_remote_proxy(body: Body, governing: Governing) -> bool:
    """The exact contracts let WSL containers use a proxy elsewhere."""
    on_wslc = body.get("containment") == "wslc" or (body.get("sandboxId") or "").startswith("wslc:")
    return governing.contract is not None and on_wslc


def _check_container_proxy(ingress: dict[str, Any], peer: bool) -> Iterator[Problem]:
    if ingress.get("default") != "allow":
        yield Problem(
            "conflicting_fields",
            "/network/ingress/default",
            "a process container with a proxy needs inbound traffic allowed",
            expected="'allow'",
        )
    wanted = "deny" if peer else "allow"
    if (ingress.get("hostLoopback") or "deny") != wanted:
        why = "an identity-scoped proxy" if peer else "a proxy without allowedProxyPeer"
        yield Problem(
            "conflicting_fields",
            "/network/ingress/hostLoopback",
            f"{why} needs hostLoopback '{wanted}'",
            expected=f"'{wanted}'",
        )
