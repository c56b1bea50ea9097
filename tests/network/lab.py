"""Sandboxes of one flavour on the bed's host, and what their probes came to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.network.bed import Bed
from tests.network.flavours import Flavour, probes_input
from tests.network.link import Link

__all__ = ["Lab", "Ran"]

_LONG_S, _SHORT_S = 15.0, 1.0


class Lab:
    """One flavour of sandbox on the bed's host.

    `at_host` runs them (see `in_namespace`).
    """

    def __init__(self, bed: Bed, flavour: Flavour, at_host: Link) -> None:
        self.bed, self.flavour, self.at_host = bed, flavour, at_host

    def document(self, sections: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return self.flavour.document(sections, **options)

    def run(self, document: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> Ran:
        """Try all probes in one sandbox; those with ``reached`` false are not waited for as long."""
        return self.start(document, probes)()

    def start(self, document: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> Callable[[], Ran]:
        """Begin to; what is answered waits for the end."""
        waited = [{"wait": _LONG_S if probe.get("reached", True) else _SHORT_S, **probe} for probe in probes]
        future = self.at_host.send("run", document=document, input=probes_input(waited))
        return lambda: Ran(future.result(120), len(waited))

    def rules(self, document: Mapping[str, Any]) -> str:
        """The rules that the sandbox is planned to have, for messages."""
        network = self.at_host.ask("plan", document=document)["network"]
        return network["rules"] if network else "no network"


class Ran:
    """The result of a run, and what came of its probes."""

    def __init__(self, result: dict[str, Any], count: int) -> None:
        self.result = result
        lines = [json.loads(line) for line in result["stdout"]["data"].splitlines()]
        found = {line["probe"]: line for line in lines}
        assert len(found) == count, (result["exitCode"], result["stderr"]["data"], lines)
        self.probes = [found[number] for number in range(count)]

    @property
    def events(self) -> list[dict[str, Any]]:
        network: dict[str, Any] | None = self.result["network"]
        return network["events"] if network else []

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Rule → packets, bytes."""
        return {one["rule"]: (one["packets"], one["bytes"]) for one in self.result["network"]["rules"]}
