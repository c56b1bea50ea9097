"""What a supervisor is started with. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends.frozen import frozen
from mxc_ops.session.places import Place
from mxc_ops.session.record import seconds

if TYPE_CHECKING:
    from mxc_ops.session.entry import Entry

__all__ = ["LEASE_PHASES", "SUSPENDED", "Assignment", "LeaseTerms"]

SUSPENDED = "suspended"
"""A file in the folder of sockets while everything in the sandbox stands still."""

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
    for one JSON line: ``{"running": pid}`` or ``{"error": …}``. A copy of another sandbox has the numbers of
    `copied_fds`, by name, and what was `copied_said` (see `backends.sessions.Copied`). `environment` is what
    of the starter's says whose rights count and where somebody's own files are.
    """

    document: str
    folder: str
    alive: int
    report: int
    copied_fds: Mapping[str, int] | None = None
    copied_said: Mapping[str, Any] | None = None
    lease: LeaseTerms | None = None
    environment: Mapping[str, str] | None = None

    def encode(self) -> bytes:
        fields = ("document", "folder", "alive", "report", "copied_fds", "copied_said", "environment")
        told = {name: getattr(self, name) for name in fields}
        return json.dumps({**told, "lease": None if self.lease is None else self.lease.as_dict()}).encode()

    @classmethod
    def decode(cls, text: bytes) -> Assignment:
        told = json.loads(text)
        lease = told.pop("lease")
        return cls(**told, lease=None if lease is None else LeaseTerms.from_dict(lease))
