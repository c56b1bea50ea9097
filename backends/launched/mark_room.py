"""Whether an agent that we start can mark what it starts (``backends/inside/agent_mark.c``)."""

from __future__ import annotations

import resource

from backends.errors import LaunchFailed, Problem

__all__ = ["require_mark_room"]

_LEAST = 2 << 16  # the agent's own rule
_LIMITS = {"locks": 10, "rttime": resource.RLIMIT_RTTIME}  # Python has no name for RLIMIT_LOCKS


def require_mark_room() -> None:
    """Raises `LaunchFailed` where our hard limits, which it inherits, leave too few marks."""
    for name, number in _LIMITS.items():
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY and hard < _LEAST:
            raise LaunchFailed(
                Problem(
                    "limit_too_low",
                    "",
                    f"the hard limit of {name} is {hard}: it leaves too few marks to tell by them which of a"
                    " sandbox's commands started what",
                    expected=f"{_LEAST} or more",
                    fix=f"sudo prlimit --pid $$ --{name}=unlimited",
                )
            )
