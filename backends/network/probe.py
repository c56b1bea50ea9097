"""Whether sandboxes can have a network here, tried out: one is opened as a run opens it, and closed again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection
from contextlib import suppress
from importlib.util import find_spec

from backends.errors import BackendUnavailable, LaunchFailed
from backends.frozen import replace
from backends.inside.store import LAUNCHER, find_program
from backends.linux.other_user import probe_as
from backends.needs import Health, Probe, fault_of
from backends.network.facts import BRIDGE, NetworkFacts, observe_network
from backends.network.needs import FEATURE, TABLE
from backends.network.opening import open_network
from backends.network.plan import plan_network
from backends.network.policy import NameRule, NetworkPolicy, Peer, Ports, Protocol, Rule

__all__ = ["network_probes"]

_UNPRIVILEGED_UID = 61234
_DEADLINE_S = 20
_UNTRIED = (
    "the filtering proxy was not tried: Python's package dnspython, which mxc-ops brings along, is not here"
)
_PING_GROUPS = "/proc/sys/net/ipv4/ping_group_range"
_WHY = "a sandbox with a network is made so"
_WHY_TABLE = "what leaves the bridge goes under the host's address, and none of it is for the host itself"
# Of each kind that a policy is made of; nobody is ever asked for the addresses and names (RFC 5737, 2606).
_PACKETS = NetworkPolicy(
    deny=(Rule("egress.deny.0", "", (Peer("192.0.2.0/24", ("192.0.2.128/25",)), Peer("2001:db8::/32"))),),
    allow=(
        Rule("egress.allow.0", "", (Peer("198.51.100.0/24"),), (Ports(Protocol.TCP, 443, 443),)),
        Rule("egress.allow.1", "", (Peer("203.0.113.0/24"),), (Ports(Protocol.ICMP),)),
    ),
)
_NAMES = (NameRule("names.0", "", "*.example"),)


def network_probes(backend: str, features: Collection[str], *, routed: bool = False) -> list[Probe]:
    """Open a network as the caller; when that is root, as a user without rights too.

    Parameters
    ----------
    backend: who asks: what the probes are called after, and what is prepared to mend them.
    features: those that were asked for: without the network among them, a host that was not prepared for one
        is no fault.
    routed: whether its sandboxes are machines.
    """
    found = [_tried(backend, "caller", features, routed=routed, serves=FEATURE in features)]
    if os.geteuid() != 0:
        return found
    other = probe_as(
        _UNPRIVILEGED_UID, lambda: _tried(backend, "unprivileged", features, routed=routed, serves=False)
    )
    if other is None:
        identifier = f"{backend}.network.unprivileged"
        other = _fault(identifier, "the attempt ended without an answer", _prepare(backend), features)
    found.append(other)
    nft = observe_network(uplink=False, root=True).nft
    if nft and os.path.exists(f"/sys/class/net/{BRIDGE}"):
        found.append(_table(nft, f"{backend}.network.table", _prepare(backend), features))
    return found


def _tried(backend: str, who: str, features: Collection[str], *, routed: bool, serves: bool) -> Probe:
    """As whoever we are.

    Parameters
    ----------
    serves: whether the filtering proxy is tried as well, whose process must be able to read our files.
    """
    identifier, fix = f"{backend}.network.{who}", _prepare(backend)
    root = os.geteuid() == 0
    facts = observe_network(uplink=True, root=root)
    missing = _missing(facts, root=root)
    if missing and FEATURE not in features:
        return Probe(identifier, Health.OK, f"not prepared for: {missing}", _WHY, fix, "root")
    if missing:
        return _fault(identifier, missing, fix, features)
    launcher = find_program(LAUNCHER)
    if launcher is None:
        return _fault(identifier, "not tried: our launcher is not built from these sources", fix, features)
    can_serve = find_spec("dns") is not None
    try:
        way_out = _opened(facts, launcher, root=root, routed=routed, serves=serves and can_serve)
    except (BackendUnavailable, LaunchFailed) as error:
        told = error.fix if isinstance(error, BackendUnavailable) and error.fix else fix
        problem = error.problems[0]
        if problem.code == "host_has_no_network" and FEATURE not in features:
            return Probe(identifier, Health.OK, f"not tried: {problem.message}", _WHY, told)
        return _fault(identifier, problem.message, told, features)
    silent = "" if root else _silence()
    if silent and FEATURE in features:
        return _fault(identifier, f"{way_out}; {silent}", fix, features)
    if serves and not can_serve:
        seen = f"{way_out}; {_UNTRIED}"
        return Probe(identifier, Health.WARNING, seen, _WHY, privilege="whoever installs mxc-ops here")
    return Probe(identifier, Health.OK, "; ".join(filter(None, (way_out, silent))), _WHY)


def _missing(facts: NetworkFacts, *, root: bool) -> str:
    """What prep would have brought; "" when it is all there."""
    helped = facts.bridge if root else facts.pasta or facts.slirp
    lacking = {"nft": not facts.nft, (f"bridge {BRIDGE}" if root else "pasta"): not helped}
    return " and ".join(f"no {what}" for what, is_so in lacking.items() if is_so)


def _opened(facts: NetworkFacts, launcher: str, *, root: bool, routed: bool, serves: bool) -> str:
    """How the network led out that was opened. Raises `BackendUnavailable` and `LaunchFailed`."""
    policy = replace(_PACKETS, names=_NAMES) if serves else _PACKETS
    plan = plan_network(policy, facts, root=root, routed=routed)
    network = open_network(plan, launcher)
    try:
        network.replace(policy)
    finally:
        network.end()
    held = "the rules were loaded, and replaced" + (", also the filtering proxy's" if serves else "")
    families = " and ".join(f"IPv{family}" for family in plan.carries)
    return f"as uid {os.geteuid()}, {held}; {families} {plan.way_out}"


def _silence() -> str:
    """Why echo requests of our own group get no answer; "" when they may."""
    with suppress(OSError, ValueError), open(_PING_GROUPS, encoding="ascii") as file:
        first, last = map(int, file.read().split())
        if first <= os.getegid() <= last:
            return ""
    return f"echo requests are not sent: net.ipv4.ping_group_range leaves out group {os.getegid()}"


def _table(nft: str, identifier: str, fix: str, features: Collection[str]) -> Probe:
    """Of what only packets from outside would tell: the host's own rules for the bridge."""
    listed = _said(nft, "list", "table", "inet", TABLE)
    lacking = [
        what
        for what, rule in (
            ("translates nothing that leaves", "masquerade"),
            ("lets sandboxes reach the host by", f'iifname "{BRIDGE}" drop'),
        )
        if rule not in listed
    ]
    if lacking:
        seen = f"table inet {TABLE} of nftables {' and '.join(lacking)} {BRIDGE}"
        return Probe(identifier, fault_of(FEATURE, features), seen, _WHY_TABLE, fix, "root")
    seen = f"table inet {TABLE} translates what leaves {BRIDGE}, and keeps it from the host"
    return Probe(identifier, Health.OK, seen, _WHY_TABLE)


def _said(*command: str) -> str:
    """What a program prints on standard output; "" when it cannot be run, fails or takes too long."""
    try:
        done = subprocess.run(
            command, env={}, capture_output=True, text=True, timeout=_DEADLINE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _fault(identifier: str, seen: str, fix: str, features: Collection[str]) -> Probe:
    privilege = "root" if "prep host" in fix else "none"
    return Probe(identifier, fault_of(FEATURE, features), seen, _WHY, fix, privilege)


def _prepare(backend: str) -> str:
    return f"mxc-ops prep host --backend {backend} --feature {FEATURE} --yes"
