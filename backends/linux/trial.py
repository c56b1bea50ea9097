"""Programs run to see what this host lets them do: under a deadline, with nothing of them left after it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence

from backends.frozen import frozen

__all__ = ["Outcome", "attempt"]

_READ_BYTES = 64 * 1024
_SHOWN_LETTERS = 300


@frozen
class Outcome:
    """How a program ended.

    Parameters
    ----------
    status: its exit status, minus the signal that ended it, or None when the deadline was over.
    text: what it wrote to standard output and error.
    """

    status: int | None
    text: str
    took_ms: int = 0

    @property
    def why(self) -> str:
        """For people: why it failed, in its own last words."""
        if self.status is None:
            return "it did not end in time"
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1][:_SHOWN_LETTERS] if lines else f"it ended with {self.status}"


def attempt(
    argv: Sequence[str],
    *,
    deadline_s: float,
    uid: int | None = None,
    stdin: str = "",
    keep: Sequence[int] = (),
) -> Outcome:
    """Run a program with an empty environment; no process of its group is left when this returns.

    Parameters
    ----------
    argv: absolute path of the program, then its arguments.
    deadline_s: seconds after which it is ended.
    uid: run as this uid and gid, without further groups; by default as ourselves.
    stdin: text for its standard input.
    keep: descriptors that it gets under the same numbers.
    """
    other = None if uid is None or uid == os.geteuid() else uid
    given, printed = os.memfd_create("mxc-ops-stdin"), os.memfd_create("mxc-ops-output")
    started = time.monotonic()
    try:
        os.pwrite(given, stdin.encode(), 0)
        child = subprocess.Popen(
            argv,
            stdin=given,
            stdout=printed,
            stderr=printed,
            cwd="/",
            env={},
            user=other,
            group=other,
            extra_groups=None if other is None else (),
            pass_fds=keep,
            start_new_session=True,
        )
        status = _end_of(child, deadline_s)
        text = os.pread(printed, _READ_BYTES, 0).decode(errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        status, text = 127, str(error)
    finally:
        os.close(given)
        os.close(printed)
    return Outcome(status, text, round((time.monotonic() - started) * 1000))


def _end_of(child: subprocess.Popen[bytes], deadline_s: float) -> int | None:
    pidfd = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = bool(poll.poll(deadline_s * 1000))
    finally:
        # Not reaped yet, so the group's number is still its own.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        os.close(pidfd)
    return child.returncode if ended else None
