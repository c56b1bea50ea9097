"""Many sandboxes at once: from threads, from tasks, across forks, and when whoever asked goes away."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mxc_ops import Outcome, Policy, Process, Result, Sandbox, arun, run
from tests.e2e.commands import children, wait_until

pytestmark = pytest.mark.backend("bubblewrap")

SANDBOX = Sandbox(Policy(timeout_s=120))


@pytest.fixture
def many(soak: bool) -> int:
    return 100 if soak else 20


def test_many_threads_at_once_each_get_their_own_output(many: int):
    with ThreadPoolExecutor(many) as pool:
        runs = [pool.submit(SANDBOX.run, "cat; echo err >&2", input=b"%d" % n) for n in range(many)]
        results = [run.result() for run in runs]
    assert [result.stdout for result in results] == [b"%d" % n for n in range(many)]


def test_many_tasks_at_once_each_get_their_own_output(many: int):
    async def all_of_them() -> list[Result]:
        return await asyncio.gather(*(SANDBOX.arun("cat; sleep 0.2", input=b"%d" % n) for n in range(many)))

    results = asyncio.run(all_of_them())
    assert [result.stdout for result in results] == [b"%d" % n for n in range(many)]


def test_tasks_start_no_thread_per_run():
    async def count_threads() -> int:
        runs = [asyncio.create_task(SANDBOX.arun("sleep 0.5")) for _ in range(20)]
        await asyncio.sleep(0.4)
        during = threading.active_count()
        await asyncio.gather(*runs)
        return during

    before = threading.active_count()
    executor_threads = min(32, (os.cpu_count() or 1) + 4)
    assert asyncio.run(count_threads()) <= before + executor_threads


def test_a_sandbox_outlives_the_thread_that_started_it():
    started: list[Process] = []
    thread = threading.Thread(target=lambda: started.append(SANDBOX.spawn("sleep 0.3; echo still here")))
    thread.start()
    thread.join()
    [process] = started
    assert process.wait().stdout == b"still here\n"


def test_a_fork_in_between_neither_holds_the_run_open_nor_ends_it():
    process = Sandbox(Policy()).spawn("cat; sleep 0.3; echo done")
    child = os.fork()
    if child == 0:  # the child has copies of everything, and lives longer than the run
        del process
        time.sleep(60)
        os._exit(0)
    try:
        assert process.wait().stdout == b"done\n"
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it was not waited for"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_kill_works_while_a_fork_holds_copies_of_our_descriptors():
    process = Sandbox(Policy()).spawn("sleep 60")
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        process.kill()
        assert process.wait().outcome is Outcome.KILLED
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it was not waited for"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_forked_child_runs_sandboxes_of_its_own():
    SANDBOX.run("true")
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(theirs, "wb") as answer:
            answer.write(SANDBOX.run("echo from the child").stdout)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        assert answer.read() == b"from the child\n"
    os.waitpid(child, 0)


def test_captured_streams_timeouts_and_callbacks_work_the_same_on_a_loop():
    data = os.urandom(2 * 1024 * 1024)
    seen: list[bytes] = []
    copied = asyncio.run(arun(Policy(), ["tee", "/dev/stderr"], input=data, on_stderr=seen.append))
    assert copied.stdout == b"".join(seen) == data
    capped = asyncio.run(arun(Policy(), "head -c 300000 /dev/zero", max_output_bytes=100_000))
    assert (len(capped.stdout), capped.stdout_dropped_bytes) == (100_000, 200_000)
    late = asyncio.run(arun(Policy(timeout_s=0.3, grace_s=0.2), "trap '' TERM; while :; do sleep 1; done"))
    assert (late.outcome, late.exit_code) == (Outcome.TIMED_OUT, 124)


def test_the_loop_keeps_turning_while_sandboxes_start_and_run():
    async def count_turns() -> int:
        turns = 0
        runs = asyncio.gather(*(SANDBOX.arun("sleep 0.3") for _ in range(5)))
        while not runs.done():
            await asyncio.sleep(0.01)
            turns += 1
        await runs
        return turns

    assert asyncio.run(count_turns()) >= 10


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.005, 0.01, 0.3])
def test_cancelling_ends_the_sandbox_first_whenever_it_comes(delay_s: float):
    async def cancel() -> None:
        task = asyncio.create_task(SANDBOX.arun("sleep 60"))
        await asyncio.sleep(delay_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == before

    before = children()
    asyncio.run(cancel())


def test_cancelling_twice_still_waits_for_the_sandbox_to_be_gone():
    async def cancel() -> None:
        task = asyncio.create_task(SANDBOX.arun("sleep 60"))
        await asyncio.sleep(0.2)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == before

    before = children()
    asyncio.run(cancel())


def test_a_timeout_of_asyncio_ends_the_sandbox():
    async def wait() -> None:
        async with asyncio.timeout(0.2):
            await SANDBOX.arun("sleep 60")

    before = children()
    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    assert children() == before


def test_what_a_callback_raises_on_a_loop_ends_the_sandbox_and_reaches_the_caller():
    def refuse(chunk: bytes) -> None:
        raise LookupError(chunk.decode())

    before = children()
    with pytest.raises(LookupError, match="first"):
        asyncio.run(arun(Policy(), "echo first; sleep 60", on_stdout=refuse))
    assert children() == before


def test_an_interrupt_at_any_moment_of_a_run_leaves_no_process(soak: bool):
    before = children()
    SANDBOX.run("true")
    for moment in range(100 if soak else 25):
        # Python swallows an interrupt that falls into a finalizer: none of the last moment may run in this.
        gc.collect()
        timer = threading.Timer(moment * 0.0003, os.kill, [os.getpid(), signal.SIGINT])
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            SANDBOX.run("sleep 60")
        timer.join()
        # Interrupted while being started, a sandbox comes up, finds its caller's ends closed, and ends.
        wait_until(lambda: children() <= before, f"a process is left: {children()}")


def test_threads_and_tasks_leave_no_descriptor_behind(many: int):
    run(Policy(), "true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ThreadPoolExecutor(8) as pool:
        for started in [pool.submit(SANDBOX.run, "true") for _ in range(many)]:
            started.result()

    async def tasks() -> None:
        await asyncio.gather(*(SANDBOX.arun("true") for _ in range(many)))

    asyncio.run(tasks())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
