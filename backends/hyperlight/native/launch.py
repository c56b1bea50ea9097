"""The effectful step: the worker is started in its confinement, and given the program."""

from __future__ import annotations

import errno
import json
import os
from contextlib import ExitStack
from functools import cache, partial

from backends.base import Handles, Streams
from backends.errors import LaunchFailed, MxcError, Problem
from backends.frozen import replace
from backends.hyperlight.native.facts import PACKAGES
from backends.hyperlight.native.plan import NativePlan
from backends.hyperlight.native.refusals import FIX
from backends.hyperlight.native.running import NativeRunning
from backends.inside.protocol import Failed
from backends.launched.failure import explain_report
from backends.launched.launch import Arranged, Arrangement, launch
from backends.launched.running import LaunchedRunning
from backends.linux.uid_range import UidRange

__all__ = ["launch_native"]

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_DOCTOR = "mxc-ops doctor --backend hyperlight"
_MEMORY = os.MFD_CLOEXEC


def launch_native(
    plan: NativePlan,
    handles: Handles,
    streams: Streams,
    secrets: tuple[tuple[str, str], ...] = (),
) -> NativeRunning:
    """Start the planned run. What keeps the machine from being made surfaces in `wait`.

    Parameters
    ----------
    handles: not needed, for nothing of a policy's is bound; they stay the caller's.
    streams: what the program gets as 0, 1 and 2.
    secrets: environment entries whose values no plan may hold.

    Raises `LaunchFailed` when the host refuses what was planned, or the packages are not what they were, and
    `BackendUnavailable` when no uid is free.
    """
    del handles
    try:
        return _launch(plan, streams, secrets)
    except OSError as error:
        retry = error.errno in (errno.EMFILE, errno.ENFILE)
        message = f"the host did not give what a worker takes: {error}"
        raise LaunchFailed(Problem("host_refused", "", message, fix=_DOCTOR), retryable=retry) from error


def _launch(plan: NativePlan, streams: Streams, secrets: tuple[tuple[str, str], ...]) -> NativeRunning:
    with ExitStack() as ours:

        def keep(fd: int) -> int:
            ours.callback(os.close, fd)
            return fd

        places = _Places([keep(_opened(place.path)) for place in plan.packages.places])
        run = keep(os.memfd_create("run", _MEMORY))
        with open(run, "wb", closefd=False) as file:
            file.write(_description(plan, secrets))
        os.lseek(run, 0, os.SEEK_SET)
        # Memory files: printing to one never waits for us, and never fails, which would make a panic.
        with ExitStack() as unless_started:
            report = os.memfd_create("report", _MEMORY)
            unless_started.callback(os.close, report)
            words = os.memfd_create("words", _MEMORY)
            unless_started.callback(os.close, words)
            running = _start(plan, places, streams, (run, report, words))
            unless_started.pop_all()
        return NativeRunning(running, report, words)


def _start(
    plan: NativePlan, places: Handles, streams: Streams, give: tuple[int, int, int]
) -> LaunchedRunning:
    argv = (*plan.argv, _text("worker.py"), *map(str, give))
    worker, identity = replace(plan, argv=argv), plan.identity
    uids = (UidRange(identity.uid, identity.count),) if identity.kind == "range" else ()
    arrange, why = partial(_arrange, plan), partial(_explain, plan)
    return launch(worker, places, streams, (), arrange, why, uids=uids, give=give, group=plan.group)


class _Places:
    """Descriptors of what the worker reads, as `backends.base.Handles`."""

    def __init__(self, fds: list[int]) -> None:
        self._fds = fds

    def fileno(self, slot: int) -> int:
        return self._fds[slot]

    def close(self) -> None:
        """They are closed by who opened them."""


def _opened(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def _description(plan: NativePlan, secrets: tuple[tuple[str, str], ...]) -> bytes:
    """What the worker is told (see `worker.main`)."""
    guest = f"{_text('in_guest.py')}\nrun_program(call_tool)\n"
    run = {
        "packages": PACKAGES,
        "module": plan.packages.module,
        "heap": f"{plan.size.heap}Mi",
        "stack": f"{plan.size.stack}Mi",
        "guest": guest,
        "source": plan.source,
        "argv": plan.program_argv,
        "environment": dict((*plan.program_environment, *secrets)),
    }
    return json.dumps(run).encode()


@cache
def _text(name: str) -> str:
    with open(f"{_FOLDER}/{name}", encoding="utf-8") as file:
        return file.read()


def _arrange(plan: NativePlan, there: Arranged) -> Arrangement:
    tokens = {grant.token: place for grant, place in zip(plan.grants, there.grants, strict=True)}
    options = [tokens.get(option, option) for option in plan.options]
    words = "\0".join((*options, "")).encode("utf-8", "surrogateescape")
    return Arrangement((plan.helper.path, "--args", str(there.child_only.memfd(words)), "--", *there.inside))


def _explain(plan: NativePlan, failed: Failed | None, status: int | None, said: str) -> MxcError:
    if failed is not None:
        return explain_report(plan, failed, said, _DOCTOR)
    why = said or f"bubblewrap ended with status {status} and said nothing"
    message = f"the worker of Hyperlight's packages could not be confined: {why}"
    return LaunchFailed(Problem("setup_bubblewrap", plan.helper.path, message, fix=f"{FIX}, or: {_DOCTOR}"))
