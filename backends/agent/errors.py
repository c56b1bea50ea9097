"""What talking to a guest can end in; the engine says what it means for the run.

::

    GuestError
    ├── GuestLost       the connection has ended: the guest died, hung up or broke the protocol
    ├── GuestSilent     no answer within the deadline; the connection is still there
    └── GuestRefused    the agent answered that it could not: at which step, and why
"""

from __future__ import annotations

import os

from backends.inside.agent_protocol import GuestFailed, Step

__all__ = ["GuestError", "GuestLost", "GuestRefused", "GuestSilent"]


class GuestError(Exception):
    """Base of the tree."""


class GuestLost(GuestError):
    """`reason`: what ended the connection, one sentence without its first words; safe to print."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the connection to the guest has ended: {reason}")


class GuestSilent(GuestError):
    """`awaited` did not come within `deadline_s` seconds."""

    def __init__(self, awaited: str, deadline_s: float) -> None:
        self.awaited = awaited
        self.deadline_s = deadline_s
        super().__init__(f"the guest did not answer {awaited} within {deadline_s:g} s")


class GuestRefused(GuestError):
    """The agent could not do what `request` asked for.

    `step` is where it was, `errno` the kernel's number (0: none), `subject` what it is about, as the guest
    wrote it: only `str(error)` is safe to print.
    """

    def __init__(self, request: str, failed: GuestFailed) -> None:
        self.request = request
        self.step: Step = failed.step
        self.errno = failed.errno
        self.subject = failed.subject
        why = f": {os.strerror(failed.errno)}" if failed.errno else ""
        about = f" ({failed.subject!a})" if failed.subject else ""
        super().__init__(f"{request} failed in the guest at {failed.step.name}{why}{about}")
