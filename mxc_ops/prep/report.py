"""What a preparation, a verification or an undo found, would do and did: for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mxc_ops.prep.messages import Task

__all__ = ["SCHEMA_VERSION", "HostReport", "HostState", "ItemReport", "ItemState", "Report"]

SCHEMA_VERSION = 2
EXIT_USAGE = 64


class ItemState(Enum):
    AS_WANTED = "as wanted"
    WOULD_CHANGE = "would change"
    CHANGED = "changed"
    FAILED = "failed"
    REFUSED = "refused"
    NOT_SETTLED = "not settled"  # it was changed without an error, and is still not as wanted
    NOTHING_LEFT = "nothing to undo"  # somebody has undone it already
    WOULD_UNDO = "would undo"
    UNDONE = "undone"
    # of verify; see undoing.Verdict
    AS_RECORDED = "as recorded"
    DRIFTED = "drifted"
    MISSING = "missing"
    UNFINISHED = "unfinished"
    UNKNOWN = "unknown"
    NEEDS_PRIVILEGE = "needs privilege"  # whether anything is to be done cannot be told without root's rights


class HostState(Enum):
    """The outcome for one host; `exit_code` is the command's. Higher codes are not worse, only different."""

    READY = "ready"
    READY_WITH_WARNINGS = "ready with warnings"
    AS_RECORDED = "as recorded"
    UNDONE = "undone"
    NOTHING_TO_DO = "nothing to do here"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    STOPPED = "stopped"
    CHANGES_PENDING = "changes pending"
    NEEDS_PRIVILEGE = "needs privilege"
    UNSUPPORTED = "unsupported"
    NEEDS_RESTART = "needs a restart"
    DRIFTED = "drifted"
    HELD = "held by another preparation"

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self]


_EXIT_CODES = {
    HostState.READY: 0,
    HostState.READY_WITH_WARNINGS: 2,
    HostState.AS_RECORDED: 0,
    HostState.UNDONE: 0,
    HostState.NOTHING_TO_DO: 0,
    HostState.FAILED: 1,
    HostState.UNREACHABLE: 1,
    HostState.STOPPED: 1,
    HostState.CHANGES_PENDING: 3,
    HostState.NEEDS_PRIVILEGE: 4,
    HostState.UNSUPPORTED: 5,
    HostState.NEEDS_RESTART: 6,
    HostState.DRIFTED: 7,
    HostState.HELD: 8,
}


@dataclass
class ItemReport:
    """One item: `before` what was, `after` what is wanted; `message` and `fix` when it went wrong.

    `privilege`: who may change it, ``root`` or ``administrator``.
    `notice`: what the reader of the plan must know; `files`: what would change in text files, as
    `decision.FileChange`; `restart`: it takes effect at the next start only.
    """

    identifier: str
    kind: str
    why: str
    privilege: str
    before: str
    after: str
    state: ItemState
    message: str = ""
    fix: str = ""
    notice: str = ""
    restart: bool = False
    files: list[dict[str, str | None]] = field(default_factory=list[dict[str, str | None]])


@dataclass
class HostReport:
    """One host. `problem` and `fix` speak of the host as a whole; `elevation` see `items.HostFacts`.

    `probes` are what was tried out, see `backends.needs.Probe`. `verdict` is set by what befell the host as a
    whole; without one, the state follows from the items.
    """

    name: str
    distribution: str = ""
    elevation: str = ""
    problem: str = ""
    fix: str = ""
    verdict: HostState | None = None
    restart: str = ""
    items: dict[str, ItemReport] = field(default_factory=dict[str, ItemReport])
    probes: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    log: str = ""

    @property
    def broken(self) -> list[dict[str, str]]:
        """The probes that failed."""
        return self.probes_of("failed")

    def probes_of(self, health: str) -> list[dict[str, str]]:
        """The probes of one `backends.needs.Health`, by its value."""
        return [probe for probe in self.probes if probe["health"] == health]

    def in_state(self, *states: ItemState) -> list[ItemReport]:
        return [item for item in self.items.values() if item.state in states]

    @property
    def state(self) -> HostState:
        if self.verdict is not None:
            return self.verdict
        if self.in_state(ItemState.FAILED, ItemState.REFUSED, ItemState.NOT_SETTLED):
            return HostState.FAILED
        if self.broken:
            return HostState.FAILED
        if self.in_state(ItemState.WOULD_CHANGE, ItemState.WOULD_UNDO):
            return HostState.CHANGES_PENDING
        if self.in_state(ItemState.DRIFTED, ItemState.MISSING, ItemState.UNFINISHED, ItemState.UNKNOWN):
            return HostState.DRIFTED
        if self.in_state(ItemState.NEEDS_PRIVILEGE):
            return HostState.NEEDS_PRIVILEGE
        if self.restart:
            return HostState.NEEDS_RESTART
        if self.in_state(ItemState.AS_RECORDED):
            return HostState.AS_RECORDED
        return HostState.UNDONE if self.in_state(ItemState.UNDONE) else HostState.READY


@dataclass
class Report:
    """All hosts, in the order in which they were named.

    `problem`: why there are none, or why none is changed; `usage`: the command line names something that
    nowhere is.
    """

    task: Task = Task.PREPARE
    hosts: dict[str, HostReport] = field(default_factory=dict[str, HostReport])
    problem: str = ""
    fix: str = ""
    usage: bool = False

    @property
    def exit_code(self) -> int:
        """0 ready, as recorded, undone, nothing to do; 1 failed or unreachable; 2 examined, ready with
        warnings; 3 changes pending; 4 root's rights missing; 5 not supported; 6 restart needed; 7 drifted; 8
        held by another preparation.

        Of several hosts with different troubles, a failure comes first, then the highest code.
        """
        if self.usage:
            return EXIT_USAGE
        codes = {host.state.exit_code for host in self.hosts.values()}
        return 1 if self.problem or 1 in codes else max(codes, default=0)

    @property
    def changes_pending(self) -> bool:
        return any(True for _ in self.pending())

    def pending(self) -> Iterator[tuple[HostReport, ItemReport]]:
        for host in self.hosts.values():
            for item in host.in_state(ItemState.WOULD_CHANGE, ItemState.WOULD_UNDO):
                yield host, item

    def as_dict(self) -> dict[str, Any]:
        """For JSON: enums by value, items as a list."""
        return {
            "schemaVersion": SCHEMA_VERSION,
            "task": self.task.value,
            "exitCode": self.exit_code,
            "problem": self.problem,
            "fix": self.fix,
            "hosts": [_host_document(host) for host in self.hosts.values()],
        }


def _host_document(host: HostReport) -> dict[str, Any]:
    document = {name: value for name, value in vars(host).items() if name != "verdict"}
    items = [{**vars(item), "state": item.state.value} for item in host.items.values()]
    return {**document, "state": host.state.value, "exitCode": host.state.exit_code, "items": items}
