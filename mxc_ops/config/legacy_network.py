"""The network section of the 0.4 … 0.9-dev line, said in the directional form (0.8 and later).

Rules: config-schema.md §7 (mapping), policy-semantics.md §2 and §3.3. What the directional form cannot say is
dropped so that the result permits less, never more, and is reported as a loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mxc_ops.config.losses import Severity, Upgrade
from mxc_ops.policy.network_values import address_of, is_loopback, pattern_of

__all__ = ["to_directional"]

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_NAMES = "names have no place in directional rules, which take addresses only; use a filtering proxy"
_UNREADABLE = "it is neither an address nor a host's name"
_OURS = frozenset({None, "process", "bubblewrap", "lxc", "microvm", "vm"})


class _Host(NamedTuple):
    """One entry of a host list; `cidr` is None for a name, or for an address with host bits set; `name` is
    None for what is no host's name, and where names cannot be carried over."""

    pointer: str
    text: str
    cidr: str | None
    name: str | None


def to_directional(up: Upgrade) -> None:
    """Replace `network`, which is in the legacy form: addresses become rules, the proxy
    `runtimeConfig.networkProxy`, and names, for containments that mxc-ops runs, `mxcOps.network`."""
    network: dict[str, Any] = up.body["network"]
    directional: dict[str, Any] = {}
    up.body["network"] = directional
    if "enforcementMode" in network:
        reason = "enforcement is implied by the directional form"
        up.lose("/network/enforcementMode", network["enforcementMode"], reason, Severity.DROPPED_DEFAULT)
    _move_local_network(up, network, directional)
    if "proxy" in network:
        directional["egress"] = {"default": "deny"}
        up.moved("/network/egress/default", "/network/proxy")
        _move_proxy(up, network)
    elif network.keys() & {"defaultPolicy", "allowedHosts", "blockedHosts"}:
        directional["egress"] = _egress(up, network)


def _move_local_network(up: Upgrade, network: dict[str, Any], directional: dict[str, Any]) -> None:
    if not network.get("allowLocalNetwork"):
        return
    opened = _opened_by_mappings(up.body) or {"default"}
    if up.body.get("containment") == "isolation_session":
        # There the section is an acknowledgment that must be complete (config-schema.md §8).
        opened = {"default", "hostLoopback"}
    directional["ingress"] = dict.fromkeys(sorted(opened), "allow")
    for field in opened:
        up.moved(f"/network/ingress/{field}", "/network/allowLocalNetwork")
    if "hostLoopback" not in opened:
        reason = "the host's loopback is decided separately (network.ingress.hostLoopback) and stays denied"
        up.lose("/network/allowLocalNetwork", True, reason)


def _opened_by_mappings(body: dict[str, Any]) -> set[str]:
    """What of `ingress` the ports need that the document maps: there is no other word for it in this form."""
    opened: set[str] = set()
    for mapping in body.get("mxcOps", {}).get("portMappings", ()):
        address = address_of(mapping.get("hostAddress", "127.0.0.1"))
        opened.add("hostLoopback" if address is not None and is_loopback(address) else "default")
    return opened


# --- egress without a proxy -----------------------------------------------------------------------


def _egress(up: Upgrade, network: dict[str, Any]) -> dict[str, Any]:
    carries = up.body.get("phase") in {None, "provision"} and up.body.get("containment") in _OURS
    allowed = _hosts(network, "allowedHosts", carries=carries)
    blocked = _hosts(network, "blockedHosts", carries=carries)
    open_by_default = network.get("defaultPolicy") == "allow"
    if any(host.cidr is None for host in blocked):
        readable = all(host.cidr or host.name for host in blocked)
        through_proxy = open_by_default or any(host.name for host in allowed) or _own_names(up.body)
        deny = _names_denied if readable and through_proxy else _closed_egress
        return deny(up, allowed, blocked, open_by_default=open_by_default)
    if "defaultPolicy" in network:
        up.moved("/network/egress/default", "/network/defaultPolicy")
    egress: dict[str, Any] = {"default": "allow" if open_by_default else "deny"}
    if open_by_default:
        for host in allowed:
            reason = "under an outbound default of allow it has no effect"
            up.lose(host.pointer, host.text, reason, Severity.DROPPED_DEFAULT)
    else:
        _put_rules(up, egress, "allow", allowed)
        _carry(up, "names", allowed)
        for host in allowed:
            if host.cidr is None and host.name is None:
                up.lose(
                    host.pointer, host.text, f"{_UNREADABLE if carries else _NAMES}; it stays unreachable"
                )
    _put_rules(up, egress, "deny", blocked)
    return egress


def _names_denied(
    up: Upgrade, allowed: list[_Host], blocked: list[_Host], *, open_by_default: bool
) -> dict[str, Any]:
    """A blocked name may have any address: the filtering proxy alone can tell, so all goes through that."""
    egress: dict[str, Any] = {"default": "deny"}
    if open_by_default:
        up.lose(
            "/network/defaultPolicy",
            "allow",
            "direct traffic is denied, because a blocked name cannot be told by its address; names are"
            " reached through the filtering proxy",
        )
        _add_name(up, "names", "*", "/network/defaultPolicy")
    else:
        _carry(up, "names", allowed)
    for host in allowed:
        if open_by_default:
            reason = "under an outbound default of allow it has no effect"
            up.lose(host.pointer, host.text, reason, Severity.DROPPED_DEFAULT)
        elif host.cidr is not None:
            up.lose(host.pointer, host.text, "dropped, because a blocked name may have this address")
        elif host.name is None:
            up.lose(host.pointer, host.text, f"{_UNREADABLE}; it stays unreachable")
    _put_rules(up, egress, "deny", blocked)
    _carry(up, "deniedNames", blocked)
    return egress


def _closed_egress(
    up: Upgrade, allowed: list[_Host], blocked: list[_Host], *, open_by_default: bool
) -> dict[str, Any]:
    """A blocked name may have any address: only denying all outbound traffic keeps it unreachable."""
    opened = open_by_default or bool(allowed)
    if open_by_default:
        up.lose(
            "/network/defaultPolicy",
            "allow",
            "all outbound traffic is denied, because a blocked name cannot be told by its address",
        )
    for host in allowed:
        effect = "it has no effect under an outbound default of allow"
        reason = effect if open_by_default else "dropped, because a blocked name may have this address"
        up.lose(
            host.pointer, host.text, reason, Severity.DROPPED_DEFAULT if open_by_default else Severity.LOSSY
        )
    for host in blocked:
        severity = Severity.LOSSY if opened and host.cidr is None else Severity.DROPPED_DEFAULT
        reason = (
            f"{_NAMES}; all is denied instead" if severity is Severity.LOSSY else "implied: all is denied"
        )
        up.lose(host.pointer, host.text, reason, severity)
    if own := _own_names(up.body):
        del up.body["mxcOps"]["network"]
        up.lose("/mxcOps/network", own, "dropped, because a blocked host could be one of these names")
    return {"default": "deny"}


def _own_names(body: dict[str, Any]) -> dict[str, Any]:
    """What the document itself says of names, which goes through the filtering proxy too."""
    return body.get("mxcOps", {}).get("network", {})


def _put_rules(up: Upgrade, egress: dict[str, Any], kind: str, hosts: list[_Host]) -> None:
    for index, host in enumerate(host for host in hosts if host.cidr is not None):
        egress.setdefault(kind, []).append({"to": [{"cidr": host.cidr}]})
        up.moved(f"/network/egress/{kind}/{index}", host.pointer)


def _carry(up: Upgrade, field: str, hosts: list[_Host]) -> None:
    for host in hosts:
        if host.name is not None:
            _add_name(up, field, host.name, host.pointer)


def _add_name(up: Upgrade, field: str, name: str, pointer: str) -> None:
    """In this form a name stands for every port; among `names` that has to be said."""
    extension: dict[str, Any] = up.body.setdefault("mxcOps", {})
    entries: list[Any] = extension.setdefault("network", {}).setdefault(field, [])
    up.moved(f"/mxcOps/network/{field}/{len(entries)}", pointer)
    ports: dict[str, Any] = {"ports": [{"port": 1, "endPort": 65535}]} if field == "names" else {}
    entries.append({"name": name, **ports})


def _hosts(network: dict[str, Any], field: str, *, carries: bool = False) -> list[_Host]:
    hosts: list[_Host] = []
    for index, text in enumerate(network.get(field, [])):
        cidr = _cidr(text, widen=field == "blockedHosts")
        name = pattern_of(text) if carries and cidr is None and "*" not in text else None
        hosts.append(_Host(f"/network/{field}/{index}", text, cidr, name))
    return hosts


def _cidr(text: str, *, widen: bool) -> str | None:
    """The network that `text` writes, or None. With `widen`, host bits are cleared: more addresses match."""
    from ipaddress import ip_network

    address, slash, prefix = text.partition("/")
    # Python also reads netmasks, wildcard masks and zone ids; upstream does not.
    if "%" in address or (slash and not (prefix.isascii() and prefix.isdigit())):
        return None
    try:
        return str(ip_network(text, strict=not widen))
    except ValueError:
        return None


# --- proxy ----------------------------------------------------------------------------------------


def _move_proxy(up: Upgrade, network: dict[str, Any]) -> None:
    """In the directional form a proxy excludes direct rules: outbound traffic goes through it, or nowhere."""
    proxy: dict[str, Any] = network["proxy"]
    if network.get("defaultPolicy") == "allow":
        reason = "beside a proxy no direct traffic is possible in the directional form: it is denied"
        up.lose("/network/defaultPolicy", "allow", reason)
    for field in ("allowedHosts", "blockedHosts"):
        for host in _hosts(network, field):
            up.lose(host.pointer, host.text, "beside a proxy the directional form has no rules")
    place, endpoint, reason = _endpoint(up, proxy)
    if endpoint is not None and network.get("blockedHosts"):
        reason = "dropped, because the blocked hosts could be reached through it"
        endpoint = None
    elif endpoint is not None and network.get("allowedHosts") and network.get("defaultPolicy") != "allow":
        reason = "dropped, because other hosts than the allowed ones could be reached through it"
        endpoint = None
    if endpoint is None:
        up.lose(f"/network/proxy/{place}", proxy.get(place), reason)
    else:
        up.body.setdefault("runtimeConfig", {})["networkProxy"] = endpoint
        up.moved("/runtimeConfig/networkProxy", f"/network/proxy/{place}")
    if "localhost" in proxy and "url" in proxy:
        up.lose("/network/proxy/url", proxy["url"], "proxy.localhost wins over it", Severity.DROPPED_DEFAULT)


def _endpoint(up: Upgrade, proxy: dict[str, Any]) -> tuple[str, str | None, str]:
    """(field that counts, directional spelling or None, why None)."""
    if "localhost" in proxy:
        return "localhost", f"http://127.0.0.1:{proxy['localhost']}", ""
    if "url" in proxy:
        endpoint = _proxy_url(proxy["url"], any_host=_on_wslc(up.body))
        return "url", endpoint, "a proxy must listen on the loopback: localhost, 127.0.0.1 or [::1]"
    return "builtinTestServer", None, "upstream's test proxy is not part of the directional form"


def _on_wslc(body: dict[str, Any]) -> bool:
    """WSL containers may use a proxy elsewhere (config-schema.md §3.5)."""
    return body.get("containment") == "wslc" or str(body.get("sandboxId", "")).startswith("wslc:")


def _proxy_url(url: str, *, any_host: bool) -> str | None:
    """`url` as ``scheme://host:port``; None unless it is plainly that, on the loopback (or `any_host`)."""
    scheme, _, rest = url.partition("://")
    authority = rest.partition("/")[0]
    host, _, port = authority.rpartition("@")[2].rpartition(":")
    plain = all("!" <= character <= "~" and character not in "\\?#" for character in url)
    valid_port = port.isdigit() and 1 <= int(port) <= 65535
    if not (plain and valid_port and host and scheme.lower() in {"http", "https"}):
        return None
    if not any_host and host.lower() not in _LOOPBACK_HOSTS:
        return None
    return f"{scheme.lower()}://{authority}"
