"""Which names may be reached: the rules, and what counts as a name at all. Pure.

The first rule that matches name, port and method decides. A denied name is denied for every port and method:
the narrower reading would leave a way open. Addresses are no names, in no spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from ipaddress import ip_address
from operator import itemgetter

from backends.egress.rules import Rules
from backends.frozen import frozen
from backends.network.policy import Inspection, NameRule

__all__ = ["DEFAULT_RULE", "Decision", "NameTable", "Verdict", "canonical", "is_pattern"]

DEFAULT_RULE = "names.default"
_LONGEST = 253
_HTTP_PORT = 80
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""What makes inet_aton(3) read a name as an address, wherever it is its last label (WHATWG URL, 3.5)."""


class Verdict(Enum):
    ALLOWED = "allowed"
    DENIED = "denied"


@frozen
class Decision:
    """`rule` decided; `reason` is a code, empty where it allowed. `addresses` are networks that are not
    public and allowed all the same."""

    verdict: Verdict
    rule: str
    reason: str = ""
    inspection: Inspection = Inspection.TLS
    addresses: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOWED


def canonical(text: str) -> str | None:
    """The one spelling of a host's name that rules are compared with; None: it is no acceptable name.

    Lower case, without the dot at its end, in ASCII (an internationalised name as A-labels: RFC 5890
    2.3.2.1), letters, digits, hyphens and underscores (RFC 1123 2.1; underscores are in use), and no address
    (``127.1``, ``0x7f.1`` and ``2130706433`` are ones).
    """
    if not text.isascii() or len(text) > _LONGEST + 1:
        return None
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return None if _NUMBER.fullmatch(labels[-1]) else name


def is_pattern(text: str) -> bool:
    """Whether `text` is a name, ``*.`` and a name, or ``*``: whether there is anything that it matches."""
    return text == "*" or canonical(text.removeprefix("*.")) is not None


class NameTable:
    """The rules about names, found by name and not one after the other: a sandbox may ask very often."""

    def __init__(self, rules: Rules) -> None:
        self._allowed = _by_pattern(rules.names)
        self._denied = _by_pattern(rules.denied_names)

    def decide(self, text: str, port: int | None, method: str | None = None) -> Decision:
        """Whether the host called `text` may be reached at `port`.

        Parameters
        ----------
        port: None: is there any port at which it may (which is what a look-up is decided by)?
        method: of a plain HTTP request; None: not known yet, or none of our business.
        """
        name = canonical(text)
        if name is None:
            return _denied("address_literal" if _is_address(text) else "name_malformed")
        for rule in _matching(self._denied, name):
            return Decision(Verdict.DENIED, rule.name, "name_denied")
        missed = _denied("name_not_allowed")
        for rule in self.rules_of(name):
            if not _has_port(rule, port):
                missed = missed if missed.rule != DEFAULT_RULE else _missed(rule, "port_not_allowed")
            elif method is not None and rule.methods and method not in rule.methods:
                missed = _missed(rule, "method_not_allowed")
            else:
                return Decision(Verdict.ALLOWED, rule.name, "", _inspection(rule, port), rule.addresses)
        return missed

    def rules_of(self, name: str) -> list[NameRule]:
        """The rules that allow the canonical `name` something, in their order."""
        return _matching(self._allowed, name)


_ByPattern = dict[str, list[tuple[int, NameRule]]]


def _by_pattern(rules: Iterable[NameRule]) -> _ByPattern:
    found: _ByPattern = {}
    for place, rule in enumerate(rules):
        found.setdefault(rule.pattern.lower().removesuffix("."), []).append((place, rule))
    return found


def _matching(table: _ByPattern, name: str) -> list[NameRule]:
    """Those for the name itself, for every name below one of its parents, and for every name."""
    labels = name.split(".")
    patterns = [name, *("*." + ".".join(labels[start:]) for start in range(1, len(labels))), "*"]
    found = [entry for pattern in patterns for entry in table.get(pattern, ())]
    return [rule for _, rule in sorted(found, key=itemgetter(0))]


def _denied(reason: str) -> Decision:
    return Decision(Verdict.DENIED, DEFAULT_RULE, reason)


def _missed(rule: NameRule, reason: str) -> Decision:
    return Decision(Verdict.DENIED, rule.name, reason)


def _has_port(rule: NameRule, port: int | None) -> bool:
    return port is None or any(first <= port <= last for first, last in rule.ports)


def _inspection(rule: NameRule, port: int | None) -> Inspection:
    """A rule that limits methods is not left unread: nothing would hold the limit then."""
    if rule.inspection is Inspection.NONE and rule.methods:
        return Inspection.HTTP
    if rule.inspection is not None:
        return rule.inspection
    return Inspection.HTTP if port == _HTTP_PORT else Inspection.TLS


def _is_address(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        last = text.lower().removesuffix(".").rpartition(".")[2]
        return bool(_NUMBER.fullmatch(last))
    return True
