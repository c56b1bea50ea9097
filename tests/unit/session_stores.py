"""Stores of sandboxes to be tested with, below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.frozen import replace
from mxc_ops.session.entry import Entry
from mxc_ops.session.places import Place, Places
from mxc_ops.session.record import Record, new_record
from mxc_ops.session.store import Store
from mxc_ops.session.transition import Transition

DOCUMENT: Mapping[str, Any] = {"version": "1.1.0-alpha", "process": {"commandLine": "true"}}
PARTS = ("mxc-ops", "sessions")


def places(folder: Path | str) -> Places:
    return Places(Place(f"{folder}/state", PARTS), Place(f"{folder}/run", PARTS))


def store_below(folder: Path | str, boot_id: str = "") -> Store:
    """A store in the `places` below the folder, whose run place is there already, as it is on a host."""
    Path(folder, "run").mkdir(exist_ok=True)
    return Store(places(folder), boot_id=boot_id)


def record(name: str = "", *, containment: str = "bubblewrap", tail: str = "") -> Record:
    made = new_record(containment, DOCUMENT, "sha256:00", name=name)
    return replace(made, id=f"{made.id.partition(':')[0]}:{tail}") if tail else made


def save(entry: Entry, phase: str = "start", **changes: Any) -> None:
    """One transition that changes the record."""
    with Transition(entry, phase, wait_s=1) as moving:
        moving.save(replace(moving.record, **changes))


def remove(entry: Entry) -> None:
    with Transition(entry, "deprovision", wait_s=1) as moving:
        moving.remove()
