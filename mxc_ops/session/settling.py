"""A sandbox whose end is over: nothing of its run is kept, and it may be started again (effectful)."""

from __future__ import annotations

from backends.frozen import replace
from mxc_ops.session.record import State
from mxc_ops.session.transition import Transition

__all__ = ["settle"]


def settle(moving: Transition) -> None:
    """Provisioned again. Raises what `Transition.save` raises."""
    moving.remove_run_folder()
    moving.save(replace(moving.record, state=State.PROVISIONED, supervisor_pid=0, run_folder=""))
