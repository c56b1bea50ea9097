"""The lease of a sandbox that runs: its supervisor ends it when it is not used, or too old (asyncio).

That is a transition like any other, under the sandbox's lock, and noted in its journal under a phase of its
own: ``lease-idle`` or ``lease-absolute``. When it was used last is the time of the file that tells that it is
alive, which whoever uses it touches, and its supervisor when a use ends.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from backends.errors import MxcError
from backends.frozen import replace
from backends.qemu.off_loop import on_thread
from mxc_ops.session.places import Places
from mxc_ops.session.record import State
from mxc_ops.session.states import Shown
from mxc_ops.session.store import Store
from mxc_ops.session.supervisor_protocol import LEASE_PHASES, LeaseTerms
from mxc_ops.session.transition import Transition

__all__ = ["LeaseWatch"]

_LONGEST_PAUSE_S = 60.0
"""A pause counts only what the host was awake for, and clocks may be set: so look again now and then."""
_BUSY_PAUSE_S = 0.5


class LeaseWatch:
    """Belongs to the loop of a sandbox's supervisor.

    Parameters
    ----------
    alive: the locked descriptor that tells that the sandbox lives, whose time is that of the last use.
    in_use: whether somebody uses it right now.
    """

    def __init__(self, terms: LeaseTerms, alive: int, in_use: Callable[[], bool]) -> None:
        self._terms = terms
        self._alive = alive
        self._in_use = in_use
        self.used()

    def used(self) -> None:
        """It was used until now."""
        os.utime(self._alive)

    async def over(self) -> Transition:
        """Once a limit is reached: the transition that ends the sandbox, which is stopping by then.

        Nobody else can change the sandbox until the transition is left, or this process ends.
        """
        while True:
            limit = self._reached()
            if limit:
                moving = await on_thread(lambda limit=limit: self._begin(limit), drop=_leave)
                if moving is not None:
                    return moving
            await asyncio.sleep(_BUSY_PAUSE_S if limit else self._pause())

    def _reached(self) -> str:
        """``absolute``, ``idle``, or "" while there is time."""
        now, terms = time.time(), self._terms
        if terms.absolute_s and now - terms.created_s > terms.absolute_s:
            return "absolute"
        if self._in_use():
            self.used()
        elif terms.idle_s and now - os.fstat(self._alive).st_mtime > terms.idle_s:
            return "idle"
        return ""

    def _pause(self) -> float:
        now, terms = time.time(), self._terms
        pause = _LONGEST_PAUSE_S
        if terms.absolute_s:
            pause = min(pause, terms.created_s + terms.absolute_s - now)
        if terms.idle_s:
            pause = min(pause, os.fstat(self._alive).st_mtime + terms.idle_s - now)
        return max(pause, 0.0) + 0.001

    def _begin(self, limit: str) -> Transition | None:
        """None when somebody else is changing the sandbox, or has used it just now."""
        terms = self._terms
        moving = None
        try:
            entry = Store(Places(terms.state, terms.run), boot_id=terms.boot_id).open(terms.id)
            moving = Transition(entry, LEASE_PHASES[limit], wait_s=0.0).__enter__()
            if moving.shown is Shown.RUNNING and self._reached() == limit:
                moving.save(replace(moving.record, state=State.STOPPING))
                return moving
        except MxcError:
            pass  # it is tried again
        _leave(moving)
        return None


def _leave(moving: Transition | None) -> None:
    if moving is not None:
        moving.__exit__(None, None, None)
