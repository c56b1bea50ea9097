"""One preparation at a time on a host: a command there holds a lock for as long as we keep its input open.

When this process dies, however it dies, the input ends and the host is free again.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyinfra annotates hosts incompletely.

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent.event import Event
from pyinfra.api.command import StringCommand

from mxc_ops.prep.engine.session import Session
from mxc_ops.prep.operations.common import HostFailure, access
from mxc_ops.prep.shells import HELD_BY_ANOTHER

__all__ = ["HeldByAnother", "holding"]

_ASK_AGAIN_S = 0.05
_GRACE_S = 30
_HELD_S = 60  # longer than it takes to notice that a host has fallen silent
_ANSWER_S = 1
_UNIQUE = " #"


class HeldByAnother(Exception):
    """Another preparation holds the host; the message says who."""


class _OpenInput(list[str]):
    """Standard input that ends only when `released` is set: pyinfra writes what it iterates over."""

    def __init__(self, first: list[str], released: Event) -> None:
        super().__init__(first)
        self._released = released

    def __bool__(self) -> bool:
        return True  # pyinfra closes the input of a command that it is given nothing for

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        # The input of a command on this host goes through a buffer, and sudo waits for its first line.
        yield " " * io.DEFAULT_BUFFER_SIZE
        self._released.wait()


@contextmanager
def holding(session: Session, holder: str, wait_s: int) -> Generator[None]:
    """Hold the host.

    Parameters
    ----------
    holder: what another preparation is told.
    wait_s: seconds to wait for the other one.

    Raises `HeldByAnother`, or `HostFailure` when the host cannot be held at all.
    """
    rights, host = session.access, session.host
    # Two containers may have one name for their host, and one number for the process.
    held_with = f"{holder}{_UNIQUE}{secrets.token_hex(8)}"
    released = Event()
    command = rights.elevated(rights.shell.hold(held_with, wait_s))

    def hold() -> Any:
        access.set(rights)
        return host.run_shell_command(
            StringCommand(command), _stdin=_OpenInput(rights.stdin or [], released), _success_exit_codes=[0]
        )

    held: Any = gevent.spawn(hold)
    patience_s = max(1, wait_s)  # the host's, for each of two locks

    def once_more() -> Any:
        limit_s = 2 * patience_s + _GRACE_S
        return host.run_shell_command(StringCommand(command), _stdin=rights.stdin, _timeout=limit_s)

    begun = time.monotonic()
    slowest_s = 0.0
    try:
        with gevent.Timeout(2 * patience_s + _HELD_S, HostFailure("the host does not let itself be held")):
            while True:
                asked = time.monotonic()
                holders = _holders(session)
                if held_with in holders:
                    break
                if held.ready():
                    raise _refusal(held, once_more)
                now = time.monotonic()
                slowest_s = max(slowest_s, now - asked)
                # Only the end of its input lets us see that the command has ended; to begin, it needs about
                # as long as a question does.
                if now - begun > patience_s * (1 if holders else 2) + _ANSWER_S + 2 * slowest_s:
                    released.set()
                gevent.sleep(_ASK_AGAIN_S)
        yield
    finally:
        released.set()
        held.join(timeout=_GRACE_S)


def _holders(session: Session) -> list[str]:
    rights = session.access
    _, output = session.host.run_shell_command(
        StringCommand(rights.elevated(rights.shell.holder())), _stdin=rights.stdin, _timeout=_GRACE_S
    )
    return output.stdout_lines


def _refusal(held: Any, once_more: Callable[[], Any]) -> Exception:
    """Why the greenlet that should hold the host has ended."""
    broken = isinstance(held.exception, BrokenPipeError)
    if held.exception is not None and not broken:
        return held.exception
    # A command on this host that ends before it has read its input takes what it said with it.
    _, output = once_more() if broken else held.value
    if output.stdout_lines:
        told = output.stdout_lines[0].partition(_UNIQUE)[0]
        return HeldByAnother(f"another preparation is at work: {told}")
    return HostFailure(" | ".join(output.stderr_lines[-3:]) or f"it cannot be held (exit {HELD_BY_ANOTHER})")
