"""`network`: a sandbox's network as authors of agents write it in Python, and as flags say it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from backends.errors import ConfigError, PolicyRefused, Problem
from backends.network.policy import (
    Ceiling,
    NameRule,
    NetworkPolicy,
    PortMapping,
    ProxyEndpoint,
    Rule,
)
from mxc_ops.policy.network import endpoint
from mxc_ops.policy.network_checks import contradictions, effective
from mxc_ops.policy.network_text import destination, is_name, published, reached
from mxc_ops.policy.port_mappings import mapping_faults, read_mapping

__all__ = ["network"]


def network(
    *,
    default: str = "deny",
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    publish: Sequence[str] = (),
    reach_host: Sequence[str] = (),
    proxy: str | None = None,
    may_allow: Sequence[str] = (),
) -> NetworkPolicy:
    """What a sandbox's network may do, for ``Policy(network=…)``::

        network(
            allow=["example.test:443", "*.example.test", "192.0.2.0/24", "[2001:db8::1]:53/udp"],
            deny=["192.0.2.7"],
            publish=["8080:80"],
            reach_host=["5432"],
        )

    Parameters
    ----------
    default: ``deny``, or ``allow`` for all direct traffic that `deny` does not name.
    allow, deny: destinations, ``HOST-OR-CIDR[:PORT[-PORT]][/tcp|/udp|/icmp]``; denials go first. An address
        without a port means all of it. Names go through the filtering proxy: a name that is allowed means
        ports 80 and 443 unless it has its own, one that is denied every port; ``*.example.test`` is any name
        below, ``*`` every name.
    publish: ports of the sandbox that the host gets, ``[HOSTADDR:]HOST:SANDBOX[/udp]``; HOSTADDR is
        127.0.0.1, or the address of the host that others may come to.
    reach_host: ports of the host's loopback that the sandbox gets on its own, ``PORT[:SANDBOXPORT][/udp]``.
    proxy: the address of your own proxy on the host's loopback; then nothing else is reachable.
    may_allow: what may be allowed later, in a sandbox that is kept; as `allow`.

    Raises `ConfigError` with every text that is none of these, `PolicyRefused` for what contradicts itself.
    """
    collected = _Collected()
    if default not in ("deny", "allow"):
        message = f"{default!r} is not known"
        collected.problems.append(
            Problem("invalid_value", "network.default", message, expected="deny or allow")
        )
    allowed, names = collected.destinations(allow, "allow", "egress.allow", "names")
    denied, denied_names = collected.destinations(deny, "deny", "egress.deny", "deniedNames")
    later, later_names = collected.destinations(may_allow, "may_allow", "ceiling.egress", "ceiling.names")
    mappings = collected.mappings(publish, reach_host)
    own = collected.proxy(proxy)
    if collected.problems:
        raise ConfigError(collected.problems)
    policy = NetworkPolicy(
        default == "allow",
        denied,
        allowed,
        names,
        denied_names,
        mappings,
        own,
        Ceiling(later, later_names),
    )
    if found := [*collected.refusals, *contradictions(policy)]:
        raise PolicyRefused(found)
    return effective(policy)


class _Collected:
    """What is wrong with the arguments, all of it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.refusals: list[Problem] = []

    def destinations(
        self, texts: Any, argument: str, rules_name: str, names_name: str
    ) -> tuple[tuple[Rule, ...], tuple[NameRule, ...]]:
        rules: list[Rule] = []
        names: list[NameRule] = []
        for pointer, text in self._texts(texts, argument):
            kind, held = (names_name, names) if is_name(text) else (rules_name, rules)
            try:
                rule = destination(text, f"{kind}.{len(held)}", pointer, denied=argument == "deny")
            except ConfigError as error:
                self.problems.extend(error.problems)
                continue
            if isinstance(rule, Rule):
                rules.append(rule)
            else:
                names.append(rule)
        return tuple(rules), tuple(names)

    def mappings(self, publish: Any, reach_host: Any) -> tuple[PortMapping, ...]:
        read: tuple[tuple[str, Any, Callable[[str, str], dict[str, Any]]], ...] = (
            ("publish", publish, published),
            ("reach_host", reach_host, reached),
        )
        entries: list[dict[str, Any]] = []
        pointers: list[str] = []
        for argument, texts, parse in read:
            for pointer, text in self._texts(texts, argument):
                try:
                    entries.append(parse(text, pointer))
                except ConfigError as error:
                    self.problems.extend(error.problems)
                else:
                    pointers.append(pointer)
        longest = "reach_host" if len(reach_host) > len(publish) else "publish"
        faults = list(mapping_faults(entries, f"network.{longest}", pointers))
        self.problems.extend(faults)
        if faults:
            return ()
        return tuple(
            read_mapping(entry, f"portMappings.{index}", pointer)
            for index, (entry, pointer) in enumerate(zip(entries, pointers, strict=True))
        )

    def proxy(self, url: Any) -> ProxyEndpoint | None:
        pointer = "network.proxy"
        if url is None:
            return None
        if not isinstance(url, str):
            self.problems.append(Problem("invalid_value", pointer, f"{type(url).__name__} instead of text"))
            return None
        found = endpoint(url, pointer)
        if isinstance(found, ProxyEndpoint):
            return found
        (self.problems if found.code == "invalid_value" else self.refusals).append(found)
        return None

    def _texts(self, texts: Any, argument: str) -> list[tuple[str, str]]:
        """(pointer, text) of each that is a text."""
        if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
            message = "one text, not a list" if isinstance(texts, str | bytes) else "not a list"
            self.problems.append(
                Problem("invalid_value", f"network.{argument}", message, expected="a list of texts")
            )
            return []
        kept: list[tuple[str, str]] = []
        for index, text in enumerate(cast("Sequence[Any]", texts)):
            pointer = f"network.{argument}[{index}]"
            if isinstance(text, str):
                kept.append((pointer, text))
            else:
                message = f"{type(text).__name__} instead of text"
                self.problems.append(Problem("invalid_value", pointer, message))
        return kept
