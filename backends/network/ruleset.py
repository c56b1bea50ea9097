"""A network policy as one nftables ruleset: which chain judges what, and what each rule is called. Pure.

One file for ``nft -f`` is one transaction. It needs Linux 5.10 (reject at hook prerouting) and nft 1.0.

Rules that replace others are a table of their own, which is loaded asleep (nft(8): flags dormant); a second
transaction wakes it and deletes the one before. In one transaction it cannot be: kernels fill sets of ranges
only after the rules that name them are in use, and until then what is denied would pass, for good once it is
marked, and what is allowed would be reset. For the moment in which both tables hold, what leaves must have
the marks of both, so nothing does.

Order (spec: policy-semantics.md §3.1): the host's addresses, deny, allow, the proxy for what is redirected,
the default. Established connections come first, but only those that these very rules accepted (see
`verdicts`): connections outlive rules, in conntrack, with the mark of the rules that accepted them. So after
a replacement with another `generation` every connection is judged again, at its next packet in either
direction. Were answers dropped until the sandbox sends again, a download would hang: its client has nothing
to acknowledge. So answers are judged too, by the connection's original destination, which they share. A
connection that is still allowed goes on, and counts for the rule that allows it now. One that is not is
refused: the sandbox is told, TCP by a reset, and the peer is not. One that runs to the proxy stays with it
unless it is denied or the rules redirect nothing; one that runs past it and would now be redirected ends.

Loopback (`LocalLayout`) is the sandbox's own, by destination: 127.0.0.0/8, ::1 and its own addresses.

Decisions, which are counters as well: every rule's and every mapping's name, and

===================  ==========================================================================
egress.host          what belongs to the host itself, or to the gateway where nothing listens
egress.mapped        IPv6 packets to IPv4-mapped addresses
egress.redirect      led to the filtering proxy; refused: it ran past the proxy before
egress.default       no rule matched
egress.spoofed       from an address that is not the sandbox's own
ingress.default      opened from outside
invalid              of no connection, or a fragment; counted only
===================  ==========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from backends.frozen import frozen
from backends.network import local_chains, routed_chains
from backends.network.egress import DEFAULT, HOST, MAPPED, SPOOFED, egress, host_sets, match_all
from backends.network.exact_sets import ExactSet
from backends.network.layout import Layout, LocalLayout, RoutedLayout
from backends.network.policy import NetworkPolicy
from backends.network.redirection import REDIRECT, redirected
from backends.network.verdicts import (
    INGRESS,
    LOG_GROUP,
    Ledger,
    accepting,
    redirecting,
    refuse,
    refusing,
    screen,
)

__all__ = ["LOG_GROUP", "Ruleset", "is_ours", "ruleset", "waking"]

_TABLE = "mxc"
_INVALID = "invalid"
_GENERATIONS = 1 << 16
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
# The dot keeps them apart from the chains of our own, and both from nft's keywords.
_NAME = re.compile(r"[a-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+")
_LONGEST_NAME = 100


@frozen
class Ruleset:
    """What is for ``nft -f``. `counters` are all there are, those that have a mark first, in its order."""

    table: str
    head: str
    exact: tuple[ExactSet, ...]
    chains: str
    counters: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return self._file(filled=True)

    @property
    def asleep(self) -> str:
        """All of it, to be woken by `waking`."""
        return self._file("\tflags dormant\n", filled=True)

    @property
    def unfilled(self) -> str:
        """With `exact` empty, for where nothing runs yet that could pass by them."""
        return self._file(filled=False)

    def _file(self, flags: str = "", *, filled: bool) -> str:
        sets = (f"\t{one.declared(filled=filled)}\n" for one in self.exact)
        return "".join([f"table inet {self.table} {{\n", flags, self.head, *sets, self.chains])


def waking(table: str, others: Iterable[str]) -> str:
    """For ``nft -f``: a table that was loaded asleep holds from now on, and the others are gone."""
    return "".join([*(f"delete table inet {one}\n" for one in others), f"table inet {table} {{\n}}\n"])


def is_ours(table: str) -> bool:
    """Whether a table of a sandbox's namespace is a ruleset."""
    return table.partition(".")[0] == _TABLE


def ruleset(policy: NetworkPolicy, layout: Layout, *, generation: int = 0) -> Ruleset:
    """The rules that hold `policy` in a namespace of `layout`; the same text for the same input.

    Parameters
    ----------
    generation: another one than that of the rules which are replaced, modulo 2^16; the table has its name.

    Raises `PolicyRefused` as `egress.match_all` does, and `ValueError` for names, interfaces and addresses
    of a layout that no nft knows.
    """
    _check_interfaces(layout)
    matched = match_all(policy)
    proxy = _proxy(layout)
    redirects = redirected(layout, proxy)
    generation %= _GENERATIONS
    ledger = _ledger(policy, layout, generation, redirects=bool(redirects))
    refused = _refused(policy, layout)
    counters = (*ledger.accepting, *refused, _INVALID)
    _check_names(counters)
    mark = ledger.mark(REDIRECT) if redirects else None
    chains = [screen(ledger), refuse(), egress(layout, matched, redirects), *_ends(ledger, refused)]
    if isinstance(layout, LocalLayout):
        chains += local_chains.base_chains(layout, ledger, mark)
    else:
        chains += routed_chains.inner_chains(layout, policy)
        chains += routed_chains.base_chains(layout, ledger, mark)
    declared = [*(f"counter {name} {{ }}" for name in counters), *ledger.accounts()]
    declared += [*host_sets(layout), *matched.sets]
    head = "".join([f"\t{line}\n" for line in declared])
    table = f"{_TABLE}.{generation}" if generation else _TABLE
    return Ruleset(table, head, matched.exact, "".join([*chains, "}\n"]), counters)


def _proxy(layout: Layout) -> dict[int, str]:
    return local_chains.LOOPBACK if isinstance(layout, LocalLayout) else routed_chains.proxy_addresses(layout)


def _ledger(policy: NetworkPolicy, layout: Layout, generation: int, *, redirects: bool) -> Ledger:
    leaving = [rule.name for rule in policy.allow]
    if policy.egress_allowed:
        leaving.append(DEFAULT)
    staying = [REDIRECT] if redirects else []
    if isinstance(layout, RoutedLayout):
        staying += [mapping.name for mapping in routed_chains.mapped_ports(policy)]
    return Ledger(generation, tuple(leaving), tuple(staying))


def _refused(policy: NetworkPolicy, layout: Layout) -> tuple[str, ...]:
    default = () if policy.egress_allowed else (DEFAULT,)
    spoofed = (SPOOFED,) if isinstance(layout, RoutedLayout) or (layout.uplink and layout.own) else ()
    return (*(rule.name for rule in policy.deny), *default, HOST, MAPPED, *spoofed, INGRESS)


def _ends(ledger: Ledger, refused: tuple[str, ...]) -> list[str]:
    """The chain of every decision."""
    unanswered = (INGRESS, SPOOFED)
    return [
        *(
            redirecting(ledger, name) if name == REDIRECT else accepting(ledger, name)
            for name in ledger.accepting
        ),
        *(refusing(name, "drop") if name in unanswered else refusing(name) for name in refused),
    ]


def _check_interfaces(layout: Layout) -> None:
    named = (layout.uplink,) if isinstance(layout, LocalLayout) else (layout.tap, layout.uplink)
    for name in named:
        if name == "lo" or (name and not _INTERFACE.fullmatch(name)):
            raise ValueError(f"{name!r} is no interface that a sandbox can have")


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if name != _INVALID and (not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME):
            raise ValueError(f"{name!r} cannot be a rule's name")
    if len(set(names)) != len(names):
        raise ValueError("two rules have one name")
