"""Why a sandbox that is said to run cannot be reached (blocking)."""

from __future__ import annotations

import time

from backends.errors import MxcError
from mxc_ops.session.entry import Entry
from mxc_ops.session.errors import not_started
from mxc_ops.session.states import admit
from mxc_ops.session.store import Store

__all__ = ["why_unreachable"]

_ENDS_S = 2.0
_MOMENT_S = 0.005


def why_unreachable(entry: Entry) -> MxcError:
    """What to raise when none of its sockets answers: ``stale_id`` once its supervisor is known to be gone.

    Of a supervisor that was killed, the sockets go first, and what tells that it lives a moment later.
    """
    store = Store(entry.home.places, boot_id=entry.home.boot_id)
    until = time.monotonic() + _ENDS_S
    while time.monotonic() < until:
        try:
            now = store.open(entry.id)
            admit("exec", now.shown, now.id)
        except MxcError as error:
            return error
        if now.record.starts != entry.record.starts:
            break
        time.sleep(_MOMENT_S)
    return not_started(entry.id)
