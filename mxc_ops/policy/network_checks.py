"""What parts of a network policy exclude each other, and what a policy asks of a backend. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from backends.errors import Problem
from backends.features import Asked, Feature
from backends.frozen import replace
from backends.network.policy import NO_NETWORK, Ceiling, NetworkPolicy, Ports, Rule
from mxc_ops.policy.host_loopback import feature_of

__all__ = ["asked_of", "contradictions", "effective", "network_warnings"]

_CODE = "conflicting_fields"
_MOST_APART = 64


def contradictions(policy: NetworkPolicy) -> Iterator[Problem]:
    """Each refusal names the entry that cannot hold, as the user wrote it.

    A proxy of the caller's own is the only way out (policy-semantics.md §3.3). Names limit what goes through
    the filtering proxy: nothing, where all other traffic may leave anyway, and packets do not tell a name.
    """
    if policy.proxy is not None:
        yield from _beside_a_proxy(policy)
    elif policy.egress_allowed and policy.denied_names:
        first = policy.denied_names[0]
        message = "a denied name cannot be told by its address, and all direct traffic is allowed"
        fix = _in_terms_of(
            first.pointer,
            'set network.egress.default to "deny", and add "mxcOps": {"network": {"names": [{"name": "*"}]}}',
            'network(allow=["*"], deny=[…]): all names but those, through the filtering proxy',
        )
        yield Problem("names_limit_nothing", first.pointer, message, fix=fix)
    elif policy.egress_allowed and policy.names:
        first = policy.names[0]
        message = "names limit nothing while all direct traffic is allowed"
        fix = _in_terms_of(
            first.pointer,
            'set network.egress.default to "deny", or remove mxcOps.network.names',
            'network(allow=[…]) without default="allow"',
        )
        yield Problem("names_limit_nothing", first.pointer, message, fix=fix)


def _beside_a_proxy(policy: NetworkPolicy) -> Iterator[Problem]:
    assert policy.proxy is not None
    direct = (*policy.allow, *policy.deny, *policy.ceiling.allow)
    for entry in (*direct[:1], *policy.names[:1], *policy.denied_names[:1], *policy.ceiling.names[:1]):
        message = "beside a proxy of your own nothing else is reachable: this has no effect"
        fix = _in_terms_of(
            entry.pointer,
            f"remove {entry.pointer}, or {policy.proxy.pointer}: names need no proxy of yours",
            "leave out proxy, or allow and deny",
        )
        yield Problem(_CODE, entry.pointer, message, expected="one way out", fix=fix)
    if policy.egress_allowed:
        fix = "remove network.egress.default, or the proxy"
        message = "a proxy excludes direct traffic"
        yield Problem(_CODE, policy.proxy.pointer, message, expected="network.egress.default 'deny'", fix=fix)


def _in_terms_of(pointer: str, document: str, call: str) -> str:
    return document if pointer.startswith("/") else call


def effective(policy: NetworkPolicy) -> NetworkPolicy:
    """The same policy; `NO_NETWORK` where denials have nothing to be taken from, now or later.

    Of very many rules, those with the same ports are one, by the name of the first: what each of them costs
    is then too much to know which one it was.
    """
    nothing = (
        not (policy.egress_allowed or policy.allow or policy.names or policy.mappings)
        and policy.proxy is None
        and policy.ceiling == Ceiling()
    )
    if nothing:
        return NO_NETWORK
    allow, deny = _as_few(policy.allow), _as_few(policy.deny)
    return (
        policy if allow is policy.allow and deny is policy.deny else replace(policy, allow=allow, deny=deny)
    )


def _as_few(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The same rules: whichever of them matches, what becomes of it is the same."""
    if len(rules) <= _MOST_APART:
        return rules
    by_ports: dict[tuple[Ports, ...], list[Rule]] = {}
    for rule in rules:
        by_ports.setdefault(rule.ports, []).append(rule)
    return tuple(_together(alike) for alike in by_ports.values())


def _together(alike: list[Rule]) -> Rule:
    everywhere = any(not rule.to for rule in alike)
    peers = () if everywhere else tuple(dict.fromkeys(peer for rule in alike for peer in rule.to))
    return replace(alike[0], to=peers)


def network_warnings(policy: NetworkPolicy) -> tuple[str, ...]:
    """What the user should know about a policy that holds."""
    if not (policy.denied_names and policy.allow):
        return ()
    first = policy.denied_names[0]
    return (
        f"{first.pointer}: a denied name is denied in the filtering proxy; addresses that are allowed"
        f" ({policy.allow[0].pointer}) are reached directly, whatever their names",
    )


def asked_of(policy: NetworkPolicy) -> Iterator[Asked]:
    """What a policy that is written in Python asks for, with the places of its call."""
    if policy.egress_allowed:
        yield Asked(Feature.EGRESS, "network.default", "allow")
    for entry in (*policy.allow, *policy.names, *policy.ceiling.allow, *policy.ceiling.names):
        yield Asked(Feature.EGRESS, entry.pointer, entry.name)
    if policy.proxy is not None:
        yield Asked(Feature.NETWORK_PROXY, policy.proxy.pointer, f"port {policy.proxy.port}")
    for mapping in policy.mappings:
        yield Asked(feature_of(mapping), mapping.pointer, f"port {mapping.host_port}")
