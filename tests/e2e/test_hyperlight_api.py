"""`Hyperlight`: code of agents in real machines that stay between runs."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backends.qemu.loop_thread import submit
from mxc_ops import (
    AsyncHyperlight,
    CodeFailed,
    CodeResult,
    ConfigError,
    Hyperlight,
    LaunchFailed,
    LifecycleError,
    Limits,
    MxcError,
    Outcome,
    Policy,
    PolicyRefused,
    WarmPool,
)
from tests.conftest import User
from tests.e2e.commands import children, wait_until
from tests.vm_engine import descendants, is_gone, is_qemu

pytestmark = [pytest.mark.backend("microvm"), pytest.mark.usefixtures("python_image")]

POOL = 2
IDENTITY = "[open(p).read() for p in ('/proc/sys/kernel/random/uuid', '/etc/machine-id', '/etc/hostname')]"


@pytest.fixture(scope="module", autouse=True)
def pool(python_image: None) -> Iterator[None]:
    """Most of these tests wait for nothing but a machine."""
    with WarmPool(Policy(containment="hyperlight"), size=POOL):
        yield


@pytest.fixture(scope="module")
def shared() -> Iterator[Hyperlight]:
    """For tests that leave it as it was."""
    with Hyperlight(timeout_s=30) as made:
        yield made


def code_of(caught: pytest.ExceptionInfo[MxcError]) -> str:
    return caught.value.problems[0].code


def add(a: int, b: int) -> int:
    return a + b


def open_descriptors() -> int:
    submit(asyncio.sleep(0)).result()
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names


def settled() -> int:
    """How many children there are once that stays as it is: pools are filled again, machines have ended."""
    seen: set[str] = set()
    while seen != (seen := children()):
        time.sleep(1)
    return len(seen)


def test_names_and_files_stay_and_tools_are_called(shared: Hyperlight) -> None:
    shared.register_tool(add)
    done = shared.run("x = tools.add(1, b=2)\nprint(call_tool('add', a=x, b=1))\nx").check()
    assert (done.stdout, done.stderr, done.exit_code, done.value) == ("4\n", "", 0, 3)
    assert [(call.name, call.error) for call in done.calls] == [("add", ""), ("add", "")]
    assert shared.run("open('here', 'w').write('kept')\nx + 1").value == 4
    assert shared.run("open('/output/here').read()").value == "kept"
    assert [name for name, _ in done.timings] == ["ready", "started", "done"]
    failed = shared.run("import os\nprint('before')\nos.listdir('/nowhere')")
    assert failed.error is not None and failed.error.type == "FileNotFoundError"
    assert (failed.stdout, failed.exit_code, failed.state_lost) == ("before\n", 1, False)
    with pytest.raises(CodeFailed, match="FileNotFoundError") as caught:
        failed.check()
    assert caught.value.result is failed


def test_output_is_streamed_as_text(shared: Hyperlight) -> None:
    pieces: list[str] = []
    done = shared.run("print('ä', end='', flush=True)\nprint('ö')", on_stdout=pieces.append)
    assert ("".join(pieces), done.stdout) == ("äö\n", "")
    cut = Hyperlight(max_output_bytes=10)
    with cut:
        done = cut.run("print('x' * 100_000)")
        assert (done.stdout, done.stdout_dropped_bytes) == ("x" * 10, 99_991)


def test_the_policy_holds_for_code_that_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "data").write_text("granted\n")
    (tmp_path / "secret").write_text("secret\n")
    policy = Policy(
        read_only=[tmp_path],
        denied=[tmp_path / "secret"],
        env={"A": "b"},
        cwd=f"/host/{tmp_path.name}",
        limits=Limits(open_files=50, pids=32),
        seccomp="strict",
    )
    code = """
import os, resource, socket, subprocess
os.getuid(), dict(os.environ), os.getcwd(), sorted(os.listdir()), open("data").read(), \\
    resource.getrlimit(resource.RLIMIT_NOFILE), subprocess.run(["grep", "-c", "NoNewPrivs:.1", \\
    "/proc/self/status"], capture_output=True, text=True).stdout
"""
    with Hyperlight(policy) as held:
        value = held.run(code).check().value
        assert value == [1000, {"A": "b"}, f"/host/{tmp_path.name}", ["data"], "granted\n", [50, 50], "1\n"]
        for forbidden in (
            "open('data', 'w')",
            "os.setuid(0)",
            "socket.create_connection(('1.1.1.1', 80), 3)",
        ):
            refused = held.run(forbidden)
            assert refused.error is not None and "Error" in refused.error.type, forbidden


def test_read_write_grants_come_back_with_the_end_and_bar_snapshots(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old\n")
    with Hyperlight(read_write=[tmp_path]) as held:
        held.run(f"open('/host/{tmp_path.name}/file', 'w').write('new\\n')").check()
        with pytest.raises(PolicyRefused) as caught:
            held.snapshot()
        assert code_of(caught) == "not_copied_back"
        assert (tmp_path / "file").read_text() == "old\n"
    assert (tmp_path / "file").read_text() == "new\n"


def test_the_output_folder_comes_back_after_each_run_and_nothing_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("outside\n")
    (inside / "mine").write_text("mine\n")
    (inside / "link").symlink_to(outside)
    with Hyperlight(output_dir=inside, output_mib=4) as held:
        done = held.run("import os\nos.makedirs('a/b')\nopen('a/b/c', 'wb').write(b'\\0' * 100_000)").check()
        assert done.output.names == ("a/b/c",) and (inside / "a/b/c").read_bytes() == bytes(100_000)
        code = """
os.symlink("/etc/passwd", "passwd"); os.symlink("..", "a/up"); os.mkfifo("pipe")
open("link", "w").write("guest"); os.chmod("link", 0o777)
"""
        done = held.run(code).check()
        assert done.output.names == ("a/b/c", "link") and done.output.skipped == ("a/up", "passwd")
        assert outside.read_text() == "outside\n" and (inside / "mine").read_text() == "mine\n"
        assert not (inside / "link").is_symlink() and (inside / "link").read_text() == "guest"
        assert sorted(path.name for path in inside.iterdir()) == ["a", "link", "mine"]
        full = held.run("open('big', 'wb').write(b'x' * 5_000_000)")
        assert full.error is not None and "No space" in full.error.message
        many = held.run("os.remove('big')\nfor n in range(11_000): os.symlink('x', f'l{n}')")
        assert many.error is None and "10000 files" in many.output.problem
        with pytest.raises(CodeFailed, match="output folder"):
            many.check()
        held.run("import glob\nfor l in glob.glob('l[0-9]*'): os.remove(l)").check()
        (inside / "dir").mkdir()
        assert "no file" in held.run("open('dir', 'w')").output.problem
        held.files["put"] = b"by the host"
        assert held.run("open('put').read()").value == "by the host"
        assert held.files["/output/a/b/c"] == bytes(100_000)
        for wrong in ("missing", "a", "passwd", "/proc/self/mem"):
            with pytest.raises(LaunchFailed):
                held.files[wrong]


def test_a_host_folder_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(ConfigError) as caught:
        Hyperlight(output_dir=tmp_path / "missing").start()
    assert code_of(caught) == "no_output_folder" and children() <= before


def test_code_that_does_not_end_is_ended_and_the_files_stay(shared: Hyperlight) -> None:
    shared.run("import subprocess\nx = 1\nopen('stays', 'w').write('yes')")
    late = shared.run("subprocess.Popen(['sleep', '1000'])\nwhile True: pass", timeout_s=0.5)
    assert (late.outcome, late.exit_code, late.state_lost) == (Outcome.TIMED_OUT, 124, True)
    again = shared.run("import os\nopen('stays').read(), os.popen('pidof sleep').read(), 'x' in globals()")
    assert (again.value, again.fresh) == (["yes", "", False], True)
    assert not shared.run("1").fresh


def test_with_a_grace_the_names_stay_when_code_gives_way() -> None:
    with Hyperlight(timeout_s=0.4, grace_s=10) as held:
        held.run("kept = 1\nimport time")
        late = held.run("time.sleep(60)")
        assert late.timed_out and not late.state_lost
        assert late.error is not None and late.error.type == "KeyboardInterrupt"
        assert held.run("kept").value == 1


@pytest.mark.parametrize(
    ("how", "outcome", "exit_code"),
    [("os._exit(3)", Outcome.EXITED, 3), ("os.kill(os.getpid(), 11)", Outcome.SIGNALLED, 139)],
)
def test_an_interpreter_that_ends_says_so(
    shared: Hyperlight, how: str, outcome: Outcome, exit_code: int
) -> None:
    ended = shared.run(f"import os\nos.write(1, b'last')\n{how}")
    assert (ended.outcome, ended.exit_code, ended.stdout) == (outcome, exit_code, "last")
    assert ended.state_lost and ended.error is not None and not ended.ok
    assert shared.run("1 + 1").value == 2


def test_memory_beyond_the_limit_ends_the_interpreter_alone() -> None:
    with Hyperlight(limits=Limits(memory_mib=64)) as held:
        ended = held.run("x = bytearray(150 << 20)")
        assert ended.error is not None
        assert ended.error.type == "MemoryError" or "memory" in ended.error.message
        assert held.run("1 + 1").value == 2


def test_frames_that_code_forges_hurt_nobody_but_its_run(shared: Hyperlight) -> None:
    """It finds the descriptor that ours writes to: whatever it says there, the host takes it for no more."""
    forged = shared.run("import os\nos.write(201, b'\\x05\\0\\0\\0Dfalse')\nos.write(201, b'\\xff' * 9)")
    assert forged.error is not None and forged.state_lost
    assert shared.run("1 + 1").value == 2


def test_a_snapshot_is_the_whole_state_and_is_restored_any_number_of_times() -> None:
    with Hyperlight(tools=[add]) as first:
        code = """
import os, random, subprocess, threading, time
random.seed(1); n = 0; names = {"a": [1]}
open("file", "w").write("then")
def count():
    global n
    while True: n += 1; time.sleep(0.01)
threading.Thread(target=count, daemon=True).start()
sleeper = subprocess.Popen(["sleep", "1000"])
"""
        first.run(code).check()
        with first.snapshot() as taken:
            first.run("names.clear(); open('file', 'w').write('now')")
            seen = [first.run(IDENTITY).value]
            drawn = list[float]()
            second = Hyperlight(tools=[add])
            for one in (first, second, first):
                one.restore(taken)
                done = one.run("names, open('file').read(), sleeper.poll(), time.time(), tools.add(2, 3)")
                assert done.check().value[:3] == [{"a": [1]}, "then", None] and not done.fresh
                assert abs(done.value[3] - time.time()) < 5 and done.value[4] == 5
                before, after = one.run("m = n; time.sleep(0.1); m, n").value
                assert after > before, "threads go on"
                drawn.append(one.run("random.random()").value)
                seen.append(one.run(IDENTITY).value)
            second.close()
            assert len({*drawn}) == 3
            assert all(len({*column}) == 4 for column in zip(*seen, strict=True))
            other = Hyperlight(timeout_s=3)
            with pytest.raises(ConfigError) as caught:
                other.restore(taken)
            assert code_of(caught) == "snapshot_of_another"
            other.close()
        with pytest.raises(ConfigError) as caught:
            first.restore(taken)
        assert code_of(caught) == "snapshot_closed"
        assert first.run("names").value == {"a": [1]}, "it has what it was restored to"


def test_snapshots_of_copies_and_of_machines_without_an_interpreter() -> None:
    with Hyperlight() as held:
        held.run("import os\nopen('file', 'w').write('1')\nos._exit(0)")
        with held.snapshot() as empty:
            held.restore(empty)
            begun = held.run("x = 1\nopen('file').read()")
            assert (begun.value, begun.fresh) == ("1", True)
            with held.snapshot() as deeper:
                held.restore(empty)
                held.restore(deeper)
                assert held.run("x").value == 1
        held.restart()
        assert held.run("import os\nos.listdir()").value == []


def test_nothing_is_left_of_what_was_closed() -> None:
    def round_() -> None:
        with Hyperlight(tools=[add]) as held:
            held.run("tools.add(1, 2)")
            with held.snapshot() as taken:
                held.restore(taken)
                held.run("1")

    round_()
    before, descriptors, threads = settled(), open_descriptors(), threading.active_count()
    for _ in range(3):
        round_()
    wait_until(lambda: len(children()) <= before, "no process is left")
    wait_until(lambda: open_descriptors() <= descriptors, "no descriptor is left")
    wait_until(lambda: threading.active_count() <= threads + 2, "no thread is left")


def test_one_that_is_dropped_ends_its_machine(shared: Hyperlight) -> None:
    shared.run("1")

    def machines() -> int:
        return sum(map(is_qemu, descendants(os.getpid())))

    wait_until(lambda: machines() == POOL + 1, "the pool is full, and nothing else runs")
    held = Hyperlight()
    held.run("1").check()
    wait_until(lambda: machines() == POOL + 2, "the pool is full again")
    del held
    wait_until(lambda: machines() == POOL + 1, "its machine has ended")


def test_one_that_is_closed_while_it_begins_anew_ends_its_machines(shared: Hyperlight) -> None:
    shared.run("1")

    def machines() -> int:
        return sum(map(is_qemu, descendants(os.getpid())))

    def begin_anew(held: Hyperlight) -> None:
        with suppress(MxcError):
            held.restart()

    def close_meanwhile(after_ms: int) -> None:
        held = Hyperlight()
        held.run("1").check()
        beginning = threading.Thread(target=begin_anew, args=[held])
        beginning.start()
        time.sleep(after_ms / 1000)
        held.close()
        beginning.join()

    settled()
    assert machines() == POOL + 1
    descriptors = open_descriptors()
    for after_ms in (*range(0, 40, 4), 80, 200, 350):
        close_meanwhile(after_ms)
    gc.collect()
    wait_until(lambda: machines() == POOL + 1, "its machines have ended")
    wait_until(lambda: open_descriptors() <= descriptors, "no descriptor is left")


def test_threads_take_turns_and_two_objects_run_side_by_side(shared: Hyperlight) -> None:
    shared.run("log = []\nimport time")
    threads = [
        threading.Thread(target=shared.run, args=[f"log.append({n}); time.sleep(0.05); log.append({n})"])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = shared.run("log").value
    assert log[::2] == log[1::2] and sorted(log[::2]) == [0, 1, 2, 3]
    meet = threading.Barrier(2, timeout=20)

    def wait_for_the_other() -> None:
        meet.wait()

    with Hyperlight(tools=[wait_for_the_other]) as one, Hyperlight(tools=[wait_for_the_other]) as other:
        ran = threading.Thread(target=other.run, args=["tools.wait_for_the_other()"])
        ran.start()
        assert one.run("tools.wait_for_the_other()").ok
        ran.join()


def test_a_tool_that_uses_its_own_object_is_refused(shared: Hyperlight) -> None:
    def again() -> None:
        shared.run("1")

    shared.register_tool(again)
    done = shared.run("tools.again()")
    assert done.error is not None and "a tool cannot use the object" in done.error.message


def test_a_callback_that_uses_its_own_object_is_refused() -> None:
    with Hyperlight() as own, Hyperlight() as other:
        uses: tuple[Callable[[], object], ...] = (
            lambda: own.run("2"),
            lambda: asyncio.run(own.arun("2")),
            own.start,
            own.snapshot,
            own.restart,
            own.close,
            lambda: other.run("print(3)", on_stdout=lambda _: own.run("2")),
        )
        refusals: list[str] = []

        def use(_: str) -> None:
            for each in uses:
                with pytest.raises(ConfigError) as caught:
                    each()
                refusals.append(code_of(caught))

        assert own.run("import sys\nprint('seen', file=sys.stderr)", on_stderr=use).ok
        assert refusals == ["called_by_itself"] * len(uses)
        assert own.run("print(1)", on_stdout=lambda _: other.run("x = 4")).ok
        assert (own.run("1").value, other.run("x").value) == (1, 4)


def test_a_callback_on_a_loop_is_refused_too_but_not_what_it_leaves_for_later() -> None:
    async def main() -> None:
        later: list[asyncio.Future[CodeResult]] = []
        async with AsyncHyperlight() as own:

            def use(_: str) -> None:
                for each in (own.hyperlight.close, lambda: own.hyperlight.run("2")):
                    with pytest.raises(ConfigError) as caught:
                        each()
                    assert code_of(caught) == "called_by_itself"
                later.append(asyncio.ensure_future(own.run("3")))

            assert (await own.run("print(1)", on_stdout=use)).ok
            assert [(await each).value for each in later] == [3]

    asyncio.run(main())


def test_what_a_callback_on_a_loop_raises_arrives_whatever_it_is() -> None:
    """No future of a loop takes a StopIteration."""

    def ends(_: str) -> None:
        next(iter(()))

    async def main() -> None:
        async with AsyncHyperlight() as own:
            with pytest.raises(RuntimeError, match="StopIteration"):
                await asyncio.wait_for(own.run("print(1)", on_stdout=ends), 30)

    asyncio.run(main())


def test_a_tool_may_close_its_own_object() -> None:
    own = Hyperlight()
    own.register_tool("end", own.close)
    with pytest.raises(LifecycleError) as caught:
        own.run("tools.end()")
    assert code_of(caught) == "closed"


def test_closing_ends_a_run_and_everything_after_it_is_refused() -> None:
    held = Hyperlight()
    held.start()
    threading.Timer(0.5, held.close).start()
    for _ in range(2):
        with pytest.raises(LifecycleError) as caught:
            held.run("while True: pass")
        assert code_of(caught) == "closed"
    held.close()
    with pytest.raises(LifecycleError):
        held.snapshot()


def test_what_interrupts_a_run_ends_its_interpreter(shared: Hyperlight) -> None:
    shared.run("x = 1")

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared.run("print(1, flush=True)\nwhile True: pass", on_stdout=interrupt)
    assert shared.run("'x' in globals()").value is False


def test_a_loop_is_not_blocked_and_cancelling_ends_the_run() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def where() -> bool:
            return asyncio.get_running_loop() is loop

        async with AsyncHyperlight(tools=[where]) as one, AsyncHyperlight() as other:
            pieces: list[str] = []
            done, more = await asyncio.gather(
                one.run("print(await acall_tool('where'))", on_stdout=pieces.append), other.run("1 + 1")
            )
            assert (pieces, done.ok, more.value) == (["True\n"], True, 2)
            await one.run("x = 1")
            running = asyncio.ensure_future(one.run("while True: pass"))
            waiting = asyncio.ensure_future(one.run("1"))
            await asyncio.sleep(0.3)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not running.done(), "who waits for a turn gives up that turn alone"
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert (await one.run("'x' in globals()")).value is False
            await one.files.write("file", b"content")
            assert await one.files.read("file") == b"content"
            with await other.snapshot() as taken:
                await other.restore(taken)
            assert (await other.run("2 + 2")).value == 4

    asyncio.run(main())


def test_scripts_of_other_runtimes_share_the_machine() -> None:
    with Hyperlight(runtime="python-shell", timeout_s=20) as held:
        done = held.run("echo one > file; echo oops >&2; exit 3")
        assert (done.stdout, done.stderr, done.exit_code, done.value) == ("", "oops\n", 3, None)
        assert held.run("cat file; python3 -c 'print(2)'").stdout == "one\n2\n"
        pieces: list[str] = []
        late = held.run("echo begun; sleep 60", timeout_s=1, on_stdout=pieces.append)
        assert late.timed_out and not late.state_lost and pieces == ["begun\n"]
        assert held.run("pidof sleep").exit_code == 1
        with held.snapshot() as taken:
            held.run("rm file")
            held.restore(taken)
            assert held.run("cat file").stdout == "one\n"


LEAVING = """
import os, sys
from mxc_ops import Hyperlight
held = Hyperlight()
held.run("x = 1")
taken = held.snapshot()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_nothing_outlives_the_process(checkout: Path, killed: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"ready\n"
        machines = [pid for pid in descendants(process.pid) if is_qemu(pid)]
        assert machines
        if killed:
            process.send_signal(signal.SIGKILL)
        else:
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert process.wait(30) == (-signal.SIGKILL if killed else 0)
    wait_until(lambda: all(map(is_gone, machines)), "no machine is left")


AS_USER = """
from mxc_ops import Hyperlight
with Hyperlight() as held:
    held.register_tool("add", lambda a, b: a + b)
    with held.snapshot() as taken:
        held.restore(taken)
        print(held.run("tools.add(1, 2)").check().value)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as somebody else")
def test_a_user_without_rights_may_do_the_same(as_user: User) -> None:
    told = as_user(AS_USER)
    assert (told.stdout, told.returncode) == ("3\n", 0), told.stderr
