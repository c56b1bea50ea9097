"""How runs end, the same in every containment: exit codes, signals, timeouts, interruptions, kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from mxc_ops import CommandFailed, Outcome, Sandbox, run
from tests.e2e.commands import children
from tests.e2e.containments import Containment

TELLING_CODES = (0, 1, 2, 64, 124, 125, 126, 127, 128, 129, 137, 143, 255)
"""Those that mean something to mxc-ops, to shells or to timeout(1) when it is not the workload's own."""

SIGNALS = (signal.SIGHUP, signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)


@pytest.fixture(autouse=True)
def nothing_left_behind(contained: Containment) -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whoever started the tests may have had SIGINT ignored, and that is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_exit_codes_are_the_commands_own(contained: Containment, soak: bool) -> None:
    """All of them where a run takes milliseconds: a machine's way to tell them is the same for each."""
    some = TELLING_CODES if soak else TELLING_CODES[::3]
    for code in some if contained.own_system else range(256):
        result = run(contained.policy(), f"exit {code}")
        assert (result.exit_code, result.outcome, result.signal) == (code, Outcome.EXITED, None)
        assert result.ok is (code == 0)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_128_and_its_number(contained: Containment, number: signal.Signals) -> None:
    result = run(contained.policy(), ["sh", "-c", f"echo last; kill -{int(number)} $$; sleep 60"])
    assert (result.exit_code, result.outcome) == (128 + number, Outcome.SIGNALLED)
    assert (result.signal, result.stdout) == (number, b"last\n")
    assert not result.ok


def test_check_raises_with_the_last_words(contained: Containment) -> None:
    with pytest.raises(CommandFailed, match=r"exited with 3.*no such luck") as caught:
        run(contained.policy(), "echo no such luck >&2; exit 3").check()
    assert caught.value.result.exit_code == 3


def test_a_timeout_kills_and_says_so(contained: Containment) -> None:
    result = run(contained.policy(timeout_s=1.5), "echo begun; (setsid sleep 300 &); sleep 300")
    assert (result.outcome, result.exit_code, result.timed_out) == (Outcome.TIMED_OUT, 124, True)
    assert result.stdout == b"begun\n"
    assert result.limits_hit == ("timeoutMs",)


def test_a_workload_may_use_the_grace_to_clean_up(contained: Containment) -> None:
    policy = contained.policy(timeout_s=1.5, grace_s=60, timeout_signal="INT")
    line = "trap 'echo cleaned; exit 7' INT; trap 'echo wrong' TERM; echo begun; while :; do sleep 0.05; done"
    result = run(policy, line)
    assert result.stdout == b"begun\ncleaned\n"
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, 124)


def test_who_ignores_the_signal_is_killed_after_the_grace(contained: Containment) -> None:
    policy = contained.policy(timeout_s=1, grace_s=0.5)
    stubborn = (
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 300 & sleep 300') & while :; do sleep 1; done"
    )
    started = time.monotonic()
    result = run(policy, stubborn)
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, 124)
    assert time.monotonic() - started < 60


def test_a_timeout_that_is_not_reached_is_held_but_not_hit(contained: Containment) -> None:
    result = run(contained.policy(timeout_s=300), "exit 124")
    held = [(limit.value, limit.hit) for limit in result.limits if limit.name == "timeoutMs"]
    assert held == [(300_000, False)]
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 124)


def test_the_timeout_holds_although_nobody_waits(contained: Containment) -> None:
    with Sandbox(contained.policy(timeout_s=1)).spawn("sleep 300") as process:
        deadline = time.monotonic() + 60
        while process.poll(0.05) is None and time.monotonic() < deadline:
            pass
        assert process.wait().timed_out


def test_keyboard_interrupt_ends_the_sandbox_and_reaches_the_caller(
    contained: Containment, interruptible: None
) -> None:
    def interrupt(_: bytes) -> None:
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        run(contained.policy(), "echo up; sleep 300", on_stdout=interrupt)


def test_what_a_callback_raises_ends_the_sandbox_and_reaches_the_caller(contained: Containment) -> None:
    def refuse(chunk: bytes) -> None:
        raise LookupError(chunk.decode())

    with pytest.raises(LookupError, match="first"):
        run(contained.policy(), "echo first; sleep 300", on_stdout=refuse)


def test_signals_reach_the_workload(contained: Containment) -> None:
    """Every process of it: the second one, in a session of its own, as well."""
    other = "setsid sh -c 'trap \"echo other; exit\" USR1; echo ready; while :; do sleep 0.05; done'"
    line = f"trap 'echo caught; wait; exit 5' USR1; {other} & while :; do sleep 0.05; done"
    with Sandbox(contained.policy()).spawn(line) as process:
        assert process.stdout.readline() == b"ready\n"
        process.signal(signal.SIGUSR1)
        assert sorted([process.stdout.readline(), process.stdout.readline()]) == [b"caught\n", b"other\n"]
        assert process.wait().exit_code == 5


def test_a_signal_nobody_handles_is_the_end(contained: Containment) -> None:
    with Sandbox(contained.policy()).spawn("echo up; exec sleep 300") as process:
        process.stdout.readline()
        process.signal(signal.SIGTERM)
        result = process.wait()
    assert (result.outcome, result.signal, result.exit_code) == (Outcome.SIGNALLED, 15, 143)


def test_kill_ends_everything(contained: Containment) -> None:
    with Sandbox(contained.policy()).spawn("trap '' TERM INT HUP; echo up; sleep 300") as process:
        process.stdout.readline()
        process.kill()
        result = process.wait()
    assert (result.outcome, result.exit_code) == (Outcome.KILLED, 137)


def test_leaving_the_block_or_dropping_the_process_ends_it(contained: Containment) -> None:
    sandbox, before = Sandbox(contained.policy()), children()
    with sandbox.spawn("sleep 300"):
        assert children() - before
    assert children() <= before
    dropped = sandbox.spawn("sleep 300")
    assert children() - before
    del dropped
    assert children() <= before


def test_a_process_that_ended_takes_no_signals(contained: Containment) -> None:
    with Sandbox(contained.policy()).spawn("true") as process:
        result = process.wait()
        process.signal(signal.SIGTERM)
        process.kill()
        assert process.wait() is result
