"""The effectful step: a clone is taken, furnished, and the command started in it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl

from backends.base import Handles, Streams
from backends.ended import Ended
from backends.errors import LaunchFailed, Problem
from backends.linux.duplicates import Duplicates
from backends.qemu.loop_running import LoopRunning
from backends.qemu.loop_thread import submit
from backends.qemu.timings import Timings
from backends.vm.furnished import FurnishedMachine
from backends.vm.one_run import Furnished, OneRun
from backends.vm.plan import VmPlan

__all__ = ["launch"]

_FIRST_FREE = 3
_ABANDONED_DEADLINE_S = 20.0


def launch(
    plan: VmPlan,
    handles: Handles,
    streams: Streams,
    secrets: tuple[tuple[str, str], ...],
    furnished: Callable[[VmPlan, Handles, Timings], Furnished] = FurnishedMachine,
) -> LoopRunning:
    """Return when the command runs, in what `furnished` makes.

    The first run of an image on a host makes its template first, which takes some seconds. Raises
    `LaunchFailed`, `PolicyRefused` and `BackendUnavailable`; interrupted, it leaves nothing behind.
    """
    try:
        run, gone, told = _make(plan, handles, streams, secrets, furnished)
    except OSError as error:
        raise _host_refused(error) from error
    started: Future[None] = Future()
    end: Future[Ended] = submit(_whole(run, started, told))
    try:
        started.result()
    except BaseException:
        with suppress(TimeoutError):
            submit(run.abandon()).result(_ABANDONED_DEADLINE_S)
        os.close(gone)
        raise
    return LoopRunning(run, end, gone)


async def _whole(run: OneRun, started: Future[None], gone: int) -> Ended:
    try:
        run.task = asyncio.current_task()
        return await _steps(run, started)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if not started.done():
            started.set_exception(error)
        raise
    finally:
        run.close()
        asyncio.get_running_loop().call_soon(_tell, gone)


async def _steps(run: OneRun, started: Future[None]) -> Ended:
    try:
        await run.start()
        started.set_result(None)
        return await run.finish()
    except OSError as error:  # descriptors and memory are taken in many places
        raise _host_refused(error) from error


def _tell(gone: int) -> None:
    """`gone` is a copy of our own: whoever waited may have given up, and closed theirs, long ago."""
    os.eventfd_write(gone, 1)
    os.close(gone)


def _make(
    plan: VmPlan,
    handles: Handles,
    streams: Streams,
    secrets: tuple[tuple[str, str], ...],
    furnished: Callable[[VmPlan, Handles, Timings], Furnished],
) -> tuple[OneRun, int, int]:
    """The run, with copies of all that is the caller's, and both ends of what tells of its end."""
    with ExitStack() as undo:

        def keep(fd: int) -> int:
            undo.callback(os.close, fd)
            return fd

        grants = (*plan.files.read_only, *plan.files.writable)
        objects = Duplicates(handles, (grant.slot for grant in grants))
        undo.callback(objects.close)
        stdin, stdout, stderr = (
            keep(fcntl(fd, F_DUPFD_CLOEXEC, _FIRST_FREE))
            for fd in (streams.stdin, streams.stdout, streams.stderr)
        )
        gone = keep(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        told = keep(fcntl(gone, F_DUPFD_CLOEXEC, _FIRST_FREE))
        own = Streams(stdin, stdout, stderr, tty=streams.tty)
        undo.pop_all()
        return OneRun(plan, objects, own, secrets, furnished), gone, told


def _host_refused(error: OSError) -> LaunchFailed:
    fix = "ulimit -n $(ulimit -Hn)" if error.errno == errno.EMFILE else ""
    message = f"the host did not give what a virtual machine takes: {error}"
    return LaunchFailed(Problem("host_refused", "", message, fix=fix))
