"""What a supervisor is started with. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backends.frozen import frozen
from backends.sessions import Copied
from mxc_ops.session.places import Place
from mxc_ops.session.record import seconds

if TYPE_CHECKING:
    from mxc_ops.session.entry import Entry

__all__ = ["LEASE_PHASES", "Assignment", "LeaseTerms"]

LEASE_PHASES = {"idle": "lease-idle", "absolute": "lease-absolute"}
"""In the journal, which limit of its lease (`record.expired`) ended a sandbox."""


@frozen
class LeaseTerms:
    """Limits in seconds, 0 for none; `created_s` since the epoch. The rest says where its record is."""

    id: str
    idle_s: int
    absolute_s: int
    created_s: float
    state: Place
    run: Place
    boot_id: str

    @classmethod
    def of(cls, entry: Entry) -> LeaseTerms | None:
        """None for a sandbox without limits."""
        lease = entry.record.lease
        if lease is None or not (lease.idle_s or lease.absolute_s):
            return None
        places = entry.home.places
        created_s = seconds(entry.record.created)
        return cls(
            entry.id, lease.idle_s, lease.absolute_s, created_s, places.state, places.run, entry.home.boot_id
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        told: dict[str, Any] = {
            name: getattr(self, name) for name in ("id", "idle_s", "absolute_s", "created_s", "boot_id")
        }
        for name in ("state", "run"):
            place: Place = getattr(self, name)
            told[name] = [place.base, list(place.parts)]
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> LeaseTerms:
        state, run = (Place(base, tuple(parts)) for base, parts in (told["state"], told["run"]))
        others = {name: told[name] for name in ("id", "idle_s", "absolute_s", "created_s", "boot_id")}
        return cls(**others, state=state, run=run)


@frozen
class Assignment:
    """`document` is a config; `folder` where its sockets are to be.

    `alive` is the locked descriptor that tells that the supervisor lives, `report` where the starter waits
    for one JSON line: ``{"running": pid}`` or ``{"error": …}``. `events` is the file of what its network
    decides. `copied` is what the sandbox is a copy of.
    `environment` is what of the starter's says whose rights count and where somebody's own files are.
    """

    document: str
    folder: str
    alive: int
    report: int
    events: int
    copied: Copied | None = None
    lease: LeaseTerms | None = None
    environment: Mapping[str, str] | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """In the order in which `decode` takes them."""
        return (
            self.alive,
            self.report,
            self.events,
            *(() if self.copied is None else self.copied.fds.values()),
        )

    def encode(self) -> bytes:
        """All but the descriptors."""
        told: dict[str, Any] = {name: getattr(self, name) for name in ("document", "folder", "environment")}
        if self.copied is not None:
            told["copied"] = {"names": list(self.copied.fds), "said": self.copied.said}
        if self.lease is not None:
            told["lease"] = self.lease.as_dict()
        return json.dumps(told).encode()

    @classmethod
    def decode(cls, text: bytes, descriptors: Sequence[int]) -> Assignment:
        told = json.loads(text)
        alive, report, events, *others = descriptors
        copied = lease = None
        if "copied" in told:
            copied = Copied(dict(zip(told["copied"]["names"], others, strict=True)), told["copied"]["said"])
        if "lease" in told:
            lease = LeaseTerms.from_dict(told["lease"])
        return cls(
            *(told["document"], told["folder"], alive, report, events, copied, lease),
            environment=told["environment"],
        )
