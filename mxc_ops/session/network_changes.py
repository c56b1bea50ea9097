"""What an owner changes of a kept sandbox's network, and the document that says it afterwards (pure).

It may always be tightened. What is opened must lie within `mxcOps.network.ceiling`, as the sandbox was
provisioned with it: that itself never changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen, replace
from backends.network.policy import NameRule, NetworkPolicy, Rule
from mxc_ops.policy.ceiling import opened_within
from mxc_ops.policy.network import read_policy
from mxc_ops.policy.network_document import extension_parts, network_section
from mxc_ops.policy.network_text import destination

__all__ = ["ChangedDocuments", "NetworkChanges", "changed_documents"]


@frozen
class NetworkChanges:
    """Destinations as `mxc_ops.policy.network_text` has them: to be allowed from now on, to be denied from
    now on, and no longer to be allowed (as they were written)."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    revoke: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, list[str]]:
        """JSON-safe; without what is empty."""
        told = {"allow": list(self.allow), "deny": list(self.deny), "revoke": list(self.revoke)}
        return {name: texts for name, texts in told.items() if texts}


@frozen
class ChangedDocuments:
    """Canonical documents: with all that closes something, and with what opens something besides."""

    tightened: Mapping[str, Any]
    whole: Mapping[str, Any]


def changed_documents(document: Mapping[str, Any], changes: NetworkChanges) -> ChangedDocuments:
    """The canonical document with the changes.

    Raises `ConfigError` for what is no destination, `PolicyRefused` for what the ceiling does not let be
    opened, for what is to be revoked and was never allowed, and for what does not go together.
    """
    policy = read_policy(document)
    allow = [(text, opened_within(rule, policy.ceiling)) for text, rule in _read(changes.allow, "--allow")]
    problems = [_beyond(text, policy) for text, rule in allow if rule is None]
    revoke = _read(changes.revoke, "--revoke")
    problems += [_not_there(text) for text, rule in revoke if not _is_there(rule, policy)]
    if problems:
        raise PolicyRefused(problems)
    deny = [rule for _, rule in _read(changes.deny, "--deny", denied=True)]
    tightened = replace(
        policy,
        allow=_without(policy.allow, revoke),
        names=_without(policy.names, revoke),
        deny=(*policy.deny, *(rule for rule in deny if isinstance(rule, Rule))),
        denied_names=(*policy.denied_names, *(rule for rule in deny if isinstance(rule, NameRule))),
    )
    opened = [rule for _, rule in allow if rule is not None and not _is_there(rule, tightened)]
    whole = replace(
        tightened,
        allow=(*tightened.allow, *(rule for rule in opened if isinstance(rule, Rule))),
        names=(*tightened.names, *(rule for rule in opened if isinstance(rule, NameRule))),
    )
    written = ChangedDocuments(_written(document, tightened), _written(document, whole))
    for each in (written.tightened, written.whole):
        read_policy(each)  # which raises what does not go together
    return written


def _read(texts: Sequence[str], flag: str, *, denied: bool = False) -> list[tuple[str, Rule | NameRule]]:
    return [(text, destination(text, "new", flag, denied=denied)) for text in texts]


def _what(rule: Rule | NameRule) -> tuple[Any, ...]:
    """The destination alone, as it is written on one line."""
    return (rule.to, rule.ports) if isinstance(rule, Rule) else (rule.pattern, rule.ports)


def _is_there(rule: Rule | NameRule, policy: NetworkPolicy) -> bool:
    there: tuple[Rule | NameRule, ...] = (*policy.allow, *policy.names)
    return any(_what(rule) == _what(one) for one in there)


def _without(rules: tuple[Any, ...], revoked: Sequence[tuple[str, Rule | NameRule]]) -> tuple[Any, ...]:
    gone = [_what(rule) for _, rule in revoked]
    return tuple(rule for rule in rules if _what(rule) not in gone)


def _written(document: Mapping[str, Any], policy: NetworkPolicy) -> dict[str, Any]:
    ingress = document.get("network", {}).get("ingress", {})
    section = network_section(policy, host_loopback=ingress.get("hostLoopback") == "allow")
    others = {name: part for name, part in document.get("mxcOps", {}).items() if name not in _OURS}
    return {**document, "network": section, "mxcOps": {**others, **extension_parts(policy)}}


_OURS = ("network", "portMappings")


def _beyond(text: str, policy: NetworkPolicy) -> Problem:
    has = policy.ceiling.allow or policy.ceiling.names
    why = "lies beyond mxcOps.network.ceiling" if has else "would open more, and no ceiling was provisioned"
    fix = "provision a sandbox whose mxcOps.network.ceiling has it; a ceiling cannot be changed later"
    return Problem("beyond_ceiling", "--allow", f"{text!a} {why}", fix=fix)


def _not_there(text: str) -> Problem:
    return Problem(
        "not_allowed_before",
        "--revoke",
        f"{text!a} is not one of the sandbox's allowed destinations",
        fix="mxc-ops session network ID lists them; --deny closes what is part of a larger one",
    )
