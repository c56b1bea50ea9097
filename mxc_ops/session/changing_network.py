"""Another network for a kept sandbox: in the rules, in the record, in the journal (effectful, blocking).

In an order in which what runs is never wider than what is recorded, whenever this is killed: first what is
closed, then the record, then what is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from backends.errors import MxcError
from mxc_ops.session.control import SUPERVISOR_LOST, Control
from mxc_ops.session.entry import Entry
from mxc_ops.session.network_changes import NetworkChanges, changed_documents
from mxc_ops.session.reaching import why_unreachable
from mxc_ops.session.states import Shown
from mxc_ops.session.transition import Transition
from mxc_ops.sources import as_request

__all__ = ["change_network"]


def change_network(entry: Entry, moving: Transition, changes: NetworkChanges) -> None:
    """Hold the changed policy from now on, in what runs of the sandbox, and for its later starts.

    Raises what `changed_documents` raises, and `LaunchFailed` where what runs cannot be changed: then nothing
    is opened; what was to be closed may be closed. Where nobody answers (`SUPERVISOR_LOST`), what was to be
    opened may be open, and is recorded then.
    """
    before = moving.record.document
    changed = changed_documents(before, changes)
    if moving.shown is not Shown.RUNNING:
        _record(moving, changed.whole, changes.as_dict())
        return
    try:
        with Control(moving.record.run_folder) as control:
            _close(control, before, changed.tightened)
            _record(moving, changed.whole, changes.as_dict())
            _open(control, moving, changed.tightened, changed.whole)
    except OSError as error:
        raise why_unreachable(entry) from error


def _close(control: Control, before: Mapping[str, Any], tightened: Mapping[str, Any]) -> None:
    if tightened == before:
        return
    try:
        control.ask("network", document=tightened)
    except BaseException:
        with suppress(MxcError, OSError):
            control.ask("network", document=before)
        raise


def _open(
    control: Control, moving: Transition, tightened: Mapping[str, Any], whole: Mapping[str, Any]
) -> None:
    if whole == tightened:
        return
    taken_back = "taken back: what was to be opened"
    try:
        control.ask("network", document=whole)
    except BaseException as error:
        if isinstance(error, MxcError) and error.problems[0].code != SUPERVISOR_LOST:
            _record(moving, tightened, taken_back)
            raise
        # It may have been done all the same, and only not told: what runs is not to be wider than the record.
        with suppress(MxcError, OSError), Control(moving.record.run_folder) as again:
            again.ask("network", document=tightened)
            _record(moving, tightened, taken_back)
        raise


def _record(moving: Transition, document: Mapping[str, Any], what: object) -> None:
    request = as_request(json.dumps(document).encode())
    moving.amend(document, str(request.document_hash), {"network": what})
