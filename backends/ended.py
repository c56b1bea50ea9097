"""How a run ended, and what there is to tell of it: data only."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from backends.frozen import frozen

if TYPE_CHECKING:
    from backends.network.outcome import NetworkOutcome

__all__ = ["Conflict", "Ended", "LimitOutcome", "Outcome", "Usage"]


@frozen
class LimitOutcome:
    """How one limit was held: `name` as the document spells it, `scope` "sandbox", "process" or "file".

    `hit` is None where the mechanism does not tell.
    """

    name: str
    value: float
    mechanism: str
    scope: str
    hit: bool | None = None


@frozen
class Usage:
    """What the run used. CPU times in ms over all waited-for processes, `max_rss_kib` of the largest one."""

    wall_ms: float = 0.0
    user_ms: float = 0.0
    system_ms: float = 0.0
    max_rss_kib: int = 0


@frozen
class Conflict:
    """What the sandbox changed in a read-write grant, and the host had changed too, or denies: `path` is the
    host's, untouched, `kept_as` holds the sandbox's version beside it; "" where that has no content of its
    own: it was removed, or given other permissions."""

    path: str
    kept_as: str
    pointer: str


class Outcome(Enum):
    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMED_OUT = "timed out"
    KILLED = "killed"  # by us, on the caller's wish


@frozen
class Ended:
    """How the workload ended. `exit_code` is the workload's own, or 128 + signal.

    `timings`: (what happened, ms since the start), in order. `conflicts` come only where files are copied.
    """

    outcome: Outcome
    exit_code: int
    signal: int | None
    usage: Usage
    limits: tuple[LimitOutcome, ...] = ()
    timings: tuple[tuple[str, float], ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    warnings: tuple[str, ...] = ()
    network: NetworkOutcome | None = None
