"""What a preparation found, would do and did: the answer of `host.prepare_host`, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

SCHEMA_VERSION = 1


class ItemState(Enum):
    AS_WANTED = "as wanted"
    WOULD_CHANGE = "would change"
    CHANGED = "changed"
    FAILED = "failed"
    REFUSED = "refused"
    NOT_SETTLED = "not settled"  # it was changed without an error, and is still not as wanted


class HostState(Enum):
    """The outcome for one host; `exit_code` is the command's. Higher codes are not worse, only different."""

    READY = "ready"
    FAILED = "failed"
    CHANGES_PENDING = "changes pending"
    NEEDS_PRIVILEGE = "needs privilege"
    UNSUPPORTED = "unsupported distribution"
    UNREACHABLE = "unreachable"

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self]


_EXIT_CODES = {
    HostState.READY: 0,
    HostState.FAILED: 1,
    HostState.UNREACHABLE: 1,
    HostState.CHANGES_PENDING: 3,
    HostState.NEEDS_PRIVILEGE: 4,
    HostState.UNSUPPORTED: 5,
}


@dataclass
class ItemReport:
    """One item: `before` what was, `after` what is wanted; `message` and `fix` when it went wrong."""

    identifier: str
    kind: str
    why: str
    before: str
    after: str
    state: ItemState
    message: str = ""
    fix: str = ""
    privilege: str = "root"


@dataclass
class HostReport:
    """One host. `problem` and `fix` speak of the host as a whole; `elevation` is root, sudo or none."""

    name: str
    distribution: str = ""
    elevation: str = ""
    state: HostState = HostState.READY
    problem: str = ""
    fix: str = ""
    items: dict[str, ItemReport] = field(default_factory=dict[str, ItemReport])

    def in_state(self, *states: ItemState) -> list[ItemReport]:
        return [item for item in self.items.values() if item.state in states]


@dataclass
class Report:
    """All hosts, in the order in which they were named."""

    hosts: dict[str, HostReport] = field(default_factory=dict[str, HostReport])

    @property
    def exit_code(self) -> int:
        """0 all ready; 1 failed; 3 changes pending; 4 root's rights missing; 5 distribution not supported.

        Of several hosts with different troubles, a failure comes first, then the highest code.
        """
        codes = {host.state.exit_code for host in self.hosts.values()}
        return 1 if 1 in codes else max(codes, default=0)

    @property
    def changes_pending(self) -> bool:
        return any(True for _ in self.pending())

    def pending(self) -> Iterator[tuple[HostReport, ItemReport]]:
        for host in self.hosts.values():
            for item in host.in_state(ItemState.WOULD_CHANGE):
                yield host, item

    def as_dict(self) -> dict[str, Any]:
        """For JSON: enums by value, items as a list."""
        hosts = [
            {
                **{name: value for name, value in asdict(host).items() if name not in ("items", "state")},
                "state": host.state.value,
                "items": [{**asdict(item), "state": item.state.value} for item in host.items.values()],
            }
            for host in self.hosts.values()
        ]
        return {"schemaVersion": SCHEMA_VERSION, "exitCode": self.exit_code, "hosts": hosts}
