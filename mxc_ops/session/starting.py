"""Starting a supervisor, and hearing from it whether the sandbox runs (effectful)."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

from backends.errors import LaunchFailed, Problem
from backends.sessions import Copied
from backends.told_errors import told_error
from mxc_ops.session.nursery import nursery
from mxc_ops.session.supervisor_protocol import Assignment, LeaseTerms

__all__ = ["start_supervisor"]

_START_S = 120.0
_HANDED_OVER = (
    *("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"),
    *("PATH", "TMPDIR", "SUDO_UID", "SUDO_GID"),
)


def start_supervisor(
    containment: str,
    document: str,
    folder: str,
    alive: int,
    events: int,
    copied: Copied | None = None,
    lease: LeaseTerms | None = None,
) -> int:
    """Its process id, once the sandbox runs.

    Parameters
    ----------
    document: the config to start, for that containment.
    folder: the sandbox's run folder.
    alive: the locked descriptor; the supervisor holds a duplicate of it from now on.
    events: the file of what its network decides; it stays the caller's.
    copied: what the sandbox is a copy of; its descriptors stay the caller's.
    lease: when the supervisor is to end the sandbox by itself.

    Raises what starting the sandbox raised, `LaunchFailed` when nothing is heard.
    """
    report, theirs = os.pipe2(os.O_CLOEXEC)
    told = -1
    try:
        known = {name: os.environ[name] for name in _HANDED_OVER if name in os.environ}
        assignment = Assignment(document, folder, alive, theirs, events, copied, lease, known)
        told = os.memfd_create("assignment", os.MFD_CLOEXEC)
        with open(told, "wb", closefd=False) as file:
            file.write(assignment.encode())
        _fork(containment, [told, *assignment.descriptors])
        os.close(theirs)
        theirs = -1
        return _running(_heard(report))
    finally:
        for descriptor in (report, theirs, told):
            if descriptor >= 0:
                os.close(descriptor)


def _fork(containment: str, descriptors: list[int]) -> None:
    kept = None
    for last in (False, True):
        try:
            kept = nursery(containment, instead_of=kept)
            kept.start(containment, descriptors)
        except OSError as error:
            if last:
                message = f"no supervisor could be started: {error.strerror or error}"
                raise LaunchFailed(Problem("supervisor_lost", "", message), retryable=True) from error
        else:
            return


def _heard(report: int) -> bytes:
    """The one line, or what there is of it when the supervisor has gone."""
    deadline = time.monotonic() + _START_S
    heard = b""
    poller = select.poll()
    poller.register(report, select.POLLIN)
    while not heard.endswith(b"\n"):
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            break
        piece = os.read(report, 65536)
        if not piece:
            break
        heard += piece
    return heard


def _running(heard: bytes) -> int:
    try:
        message: dict[str, Any] = json.loads(heard)
    except ValueError:
        why = "the sandbox's supervisor ended, or said nothing in time, before the sandbox ran"
        raise LaunchFailed(Problem("supervisor_lost", "", why), retryable=True) from None
    if "running" in message:
        return int(message["running"])
    raise told_error(message["error"])
