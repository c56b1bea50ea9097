"""What may be changed while the proxy runs. Pure data."""

from __future__ import annotations

from backends.frozen import frozen
from backends.network.policy import NameRule, Rule

__all__ = ["Rules"]


@frozen
class Rules:
    """`denied_names` win over `names`, and `deny` holds for every address that a name leads to."""

    names: tuple[NameRule, ...] = ()
    denied_names: tuple[NameRule, ...] = ()
    deny: tuple[Rule, ...] = ()
