"""What there is to tell of a sandbox's network: every decision, by the rules and by the proxy. Pure.

One decision is one JSON object, whoever made it; ``source`` tells who (docs/network.md lists the fields).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from backends.frozen import frozen
from backends.network.counters import RuleCount, rule_counts
from backends.network.nflog import Decision, decisions
from backends.network.steps import logged

__all__ = ["NetworkOutcome", "concluded", "events_of_proxy", "events_of_rules", "proxy_lost"]


@frozen
class NetworkOutcome:
    """`events`, of each source in order; `counts`: what each rule decided on, whether there is an event or
    not: events come at a limited rate."""

    events: tuple[Mapping[str, Any], ...] = ()
    counts: tuple[RuleCount, ...] = ()

    @property
    def denials(self) -> tuple[Mapping[str, Any], ...]:
        """What was denied, each destination and rule once, with how often it was seen."""
        seen: dict[tuple[Any, ...], dict[str, Any]] = {}
        for event in self.events:
            if event.get("verdict") != "denied":
                continue
            told = {name: event[name] for name in _IDENTIFYING if name in event}
            one = seen.setdefault(tuple(told.items()), {**told, "count": 0})
            one["count"] += 1
        return tuple(seen.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        counts = [{"rule": one.name, "packets": one.packets, "bytes": one.bytes} for one in self.counts]
        return {"events": [dict(event) for event in self.events], "rules": counts}


_IDENTIFYING = ("source", "protocol", "name", "address", "port", "rule", "reason", "method")


def concluded(counters: bytes, records: bytes, proxied: bytes) -> NetworkOutcome:
    """The whole of a run.

    Parameters
    ----------
    counters: the kernel's answers about them; `records`: of the gate; `proxied`: lines of the proxy.
    """
    events = (*events_of_rules(records), *events_of_proxy(proxied))
    return NetworkOutcome(events, rule_counts(counters))


def events_of_rules(records: bytes) -> Iterator[dict[str, Any]]:
    """The decisions of the rules in what a gate has passed on."""
    for one in logged(records):
        for decision in decisions(one.messages):
            yield _event(decision, one.at_ns)


def _event(decision: Decision, at_ns: int) -> dict[str, Any]:
    event: dict[str, Any] = {
        "ts": _stamp(datetime.fromtimestamp(at_ns / 1e9, UTC)),
        "source": "rules",
        "verdict": "allowed" if decision.allowed else "denied",
        "protocol": decision.protocol,
        "address": decision.destination,
        "port": decision.destination_port,
        "rule": decision.rule,
    }
    return {name: value for name, value in event.items() if value not in (None, "")}


def proxy_lost() -> bytes:
    """The line of a proxy that had ended before its sandbox: what went through it was closed from then on."""
    told = {"ts": _stamp(datetime.now(UTC)), "source": "proxy", "verdict": "failed", "reason": "proxy_lost"}
    return f"\n{json.dumps(told)}\n".encode()


def _stamp(at: datetime) -> str:
    return f"{at.isoformat(timespec='milliseconds')[:23]}Z"


def events_of_proxy(lines: bytes) -> Iterator[dict[str, Any]]:
    """Those of whole lines; what is none is passed over."""
    for line in lines.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event
