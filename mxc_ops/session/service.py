"""The phases of a sandbox's life, from its record to its supervisor and back (effectful; blocking).

Every phase is one transition under the sandbox's lock. What is killed in the middle of one leaves a record
that says how far it came, and the next phase takes it from there.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from backends.errors import LifecycleError, MxcError
from backends.frozen import replace
from backends.sessions import Copied, Settled
from mxc_ops.policy.host_loopback import apart_from_ports
from mxc_ops.policy_builder import Policy
from mxc_ops.session.changing_network import change_network
from mxc_ops.session.control import Control
from mxc_ops.session.endings import REBOOTED, how_it_ended
from mxc_ops.session.entry import Entry
from mxc_ops.session.errors import stale_id
from mxc_ops.session.event_log import open_events
from mxc_ops.session.forking import Forked, taken_copy
from mxc_ops.session.ids import PREFIXES
from mxc_ops.session.network_changes import NetworkChanges
from mxc_ops.session.nursery import begin
from mxc_ops.session.places import closing
from mxc_ops.session.record import Lease, State, Unreadable, expired, new_record
from mxc_ops.session.settling import settle
from mxc_ops.session.snapshots import (
    Snapshot,
    drop_unfinished,
    has_unfinished,
    keep,
    kept,
    remove,
    snapshots,
)
from mxc_ops.session.starting import start_supervisor
from mxc_ops.session.states import Shown, admit
from mxc_ops.session.stopping import Stopped, stop, what_is_lost
from mxc_ops.session.store import Store
from mxc_ops.session.supervisor_protocol import LeaseTerms
from mxc_ops.session.sweep import Swept, sweep
from mxc_ops.session.transition import Transition
from mxc_ops.sources import as_request

__all__ = ["Sessions"]

_PLACEHOLDER = "true"
_AT_ONCE = 4
_AT_WORK = frozenset({"busy", "stale_id", "already_started"})


class Sessions:
    """The sandboxes of whoever we are. Any number of processes may use the same ones at once."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()

    def provision(self, policy: Policy, *, name: str = "", lease: Lease | None = None) -> Entry:
        """Keep a sandbox with this policy, for good.

        Nothing runs yet; but the policy is one that this host can hold now. Raises what `run` raises before a
        command starts, `LifecycleError` (``unsupported_phase``) for a containment without sessions.
        """
        from mxc_ops.one_shot import prepare
        from mxc_ops.session.errors import unsupported_phase

        request = policy.request(_PLACEHOLDER)
        if request.containment not in PREFIXES:
            raise unsupported_phase("provision", request.containment)
        prepare(apart_from_ports(request), kept=True).close()
        document = policy.as_config(_PLACEHOLDER)
        as_request(json.dumps(document).encode())  # which is how each start takes it
        record = new_record(request.containment, document, str(request.document_hash), name=name, lease=lease)
        return self.store.create(record)

    def start(self, text: str, snapshot: str = "") -> Entry:
        """Start it anew, or where it was when a snapshot of it was taken.

        Raises ``already_started``, ``not_provisioned``, ``stale_id``, and what launching a run raises. One
        that is older than its lease allows is stale, too.
        """
        entry = self.store.open(text)
        begin(entry.record.containment)
        if not snapshot:
            return self._start(entry, None)
        with kept(entry, snapshot) as copied:
            return self._start(entry, copied)

    def snapshot(self, text: str, name: str = "") -> Snapshot:
        """Keep what copies of a sandbox that runs can start from, now and later; see `snapshots.keep`.

        Raises ``not_started``, ``stale_id``, and `LaunchFailed` for what cannot be copied.
        """
        entry = self.store.open(text)
        with Transition(entry, "snapshot") as moving:
            moving.admit()
            with taken_copy(self.store.open(entry.id)) as copied:
                return keep(entry, name, copied)

    def remove_snapshot(self, text: str, name: str) -> None:
        """Raises ``stale_id`` when there is none of that name."""
        entry = self.store.open(text)
        with Transition(entry, "snapshot"):
            remove(entry, name)

    def fork(self, text: str, count: int, snapshot: str = "") -> Forked:
        """So many copies of a sandbox that runs, or of a snapshot of it, each running with an id of its own.

        All of them, or none; what each has of its original is part of the answer. Raises ``not_started``,
        ``stale_id``, and `LaunchFailed` for what cannot be copied.
        """
        original = self.store.open(text)
        if not snapshot:
            admit("exec", original.shown, original.id)
        record = original.record
        begin(record.containment)
        made: list[Entry] = []
        taken = kept(original, snapshot) if snapshot else taken_copy(original)
        try:
            with taken as copied, ThreadPoolExecutor(max_workers=min(count, _AT_ONCE)) as pool:
                record = self.store.open(original.id).record  # what was closed meanwhile is closed to copies
                for _ in range(count):
                    new = new_record(
                        record.containment, record.document, record.document_hash, lease=record.lease,
                        origin=record.id,
                    )  # fmt: skip
                    made.append(self.store.create(new))

                def go_on(entry: Entry) -> Entry:
                    return self._start(entry, copied)

                return Forked(tuple(pool.map(go_on, made)), copied.scope)
        except BaseException:
            for entry in made:
                with suppress(MxcError):
                    self.deprovision(entry.id, discard=True)
            raise

    def _start(self, entry: Entry, copied: Copied | None) -> Entry:
        terms = LeaseTerms.of(entry)
        with Transition(entry, "start") as moving:
            moving.admit()
            if expired(moving.record, moving.last_used, time.time()) == "absolute":
                raise _lease_over(entry.id)
            self._reclaim(moving)
            folder = moving.make_run_folder()
            starts = moving.record.starts + 1
            moving.save(replace(moving.record, state=State.STARTING, starts=starts))
            alive = entry.hold_alive(starts)
            try:
                document = json.dumps(moving.record.document)
                containment = entry.record.containment
                with entry.folder() as place, closing(open_events(place)) as events:
                    pid = start_supervisor(containment, document, folder, alive, events, copied, terms)
            except BaseException:
                os.close(alive)
                alive = -1
                settle(moving)
                raise
            finally:
                if alive >= 0:
                    os.close(alive)
            record = replace(moving.record, state=State.RUNNING, supervisor_pid=pid)
            moving.save(record)
        return self.store.open(entry.id)

    def change_network(self, text: str, changes: NetworkChanges) -> Entry:
        """Let its network be another one from now on, for all of its starts: see `NetworkChanges`.

        Raises what `changing_network.change_network` raises, and ``stale_id``.
        """
        entry = self.store.open(text)
        with Transition(entry, "network") as moving:
            change_network(entry, moving, changes)
        return self.store.open(entry.id)

    def stop(self, text: str, *, discard: bool = False) -> Stopped:
        """End what runs in it; where it has copies of the host's files, they are brought back first.

        Parameters
        ----------
        discard: copies are not brought back.

        Raises ``already_stopped``, ``stale_id``, ``not_provisioned``; `CopyBackFailed`, then it is not
        stopped.
        """
        entry = self.store.open(text)
        with Transition(entry, "stop") as moving:
            moving.admit()
            settled = stop(entry, moving, discard=discard)
        return Stopped(self.store.open(entry.id), settled)

    def deprovision(self, text: str, *, discard: bool = False) -> Settled:
        """Stop it, where it runs, and remove it.

        Raises ``stale_id``, ``not_provisioned``; `CopyBackFailed`, then it is neither stopped nor removed.
        """
        entry = self.store.open(text)
        with Transition(entry, "deprovision") as moving:
            settled = Settled()
            if moving.shown is not Shown.PROVISIONED:
                settled = stop(entry, moving, discard=discard)
            moving.remove()
        return settled

    def entries(self) -> list[Entry | Unreadable]:
        return self.store.entries()

    def inspect(self, text: str) -> dict[str, Any]:
        """Everything that is known of a sandbox; JSON-safe."""
        entry = self.store.open(text)
        record = entry.record
        journal = entry.journal()
        lease = record.lease or Lease()
        told: dict[str, Any] = {
            **entry.as_dict(),
            "starts": record.starts,
            "origin": record.origin,
            "documentHash": record.document_hash,
            "document": dict(record.document),
            "lease": {"idleSeconds": lease.idle_s, "absoluteSeconds": lease.absolute_s},
            "ended": how_it_ended(record.state, entry.shown, journal),
            "journal": journal,
            "snapshots": [one.as_dict() for one in snapshots(entry)],
        }
        if entry.shown is Shown.RUNNING:
            with suppress(MxcError, OSError), Control(record.run_folder) as control:
                told["supervisor"] = dict(control.ask("describe"))
        return told

    def gc(self, *, force: bool = False) -> Swept:
        """Put right what killed processes left: sandboxes that are stale are provisioned again.

        Those that are older than their lease allows are removed; what was being copied back is ended.
        """
        from backends.launched.orphans import end_orphans
        from backends.linux.cgroups import sweep_groups
        from backends.vm.copying_back import recovered_warnings
        from backends.wslc.shared.place import sweep as sweep_machines

        warnings = recovered_warnings()
        removed = end_orphans()
        kept: list[tuple[str, str]] = []
        for entry in self.store.entries():
            if not isinstance(entry, Entry):
                continue
            try:
                self._put_right(entry, removed)
            except MxcError as error:
                if error.problems[0].code not in _AT_WORK:
                    kept.append((entry.path, f"could not be put right: {error}"))
        swept = sweep(self.store.home, force=force)
        removed += (*sweep_groups(), *sweep_machines(), *swept.removed)
        return Swept(tuple(removed), (*kept, *swept.kept), warnings)

    def _put_right(self, entry: Entry, removed: list[str]) -> None:
        """`removed` gets the paths that were."""
        over = expired(entry.record, entry.last_used, time.time()) == "absolute"
        unfinished = has_unfinished(entry)
        if not (over or unfinished or entry.needs_reclaim):
            return
        with Transition(entry, "gc", wait_s=0.0) as moving:
            if unfinished:
                removed += drop_unfinished(entry)
            if not over:
                self._reclaim(moving)
                return
            if moving.shown is not Shown.PROVISIONED:
                stop(entry, moving, discard=False)
            moving.remove()
            removed.append(entry.path)

    def _reclaim(self, moving: Transition) -> None:
        """What ended without being ended: its processes are gone with its supervisor, its folder is not."""
        if moving.record.state is not State.PROVISIONED and moving.shown in (Shown.STALE, Shown.PROVISIONED):
            ended = REBOOTED if moving.shown is Shown.PROVISIONED else ""
            settle(moving, what_is_lost(moving.record), ended=ended)


def _lease_over(identifier: str) -> LifecycleError:
    why = "its lease is over, it is older than that allows"
    return stale_id(identifier, why, fix=f"mxc-ops session deprovision {identifier}")
