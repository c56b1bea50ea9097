"""An interpreter that code in the guest has taken over says what it likes: it hurts nobody but its run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxc_ops.hyperlight.calls import MOST_AT_ONCE
from mxc_ops.hyperlight.exchange import Lost, Stopped, TimedOut
from tests.cells import DONE, FakeInterpreter, call, fake, frame

_ODD = {"code": 0, "error": {"type": "a", "message": 1, "traceback": ""}}


def anything(**_: object) -> None:
    """What a call calls."""


def saying(*frames: bytes) -> Callable[[FakeInterpreter], None]:
    def act(interpreter: FakeInterpreter) -> None:
        interpreter.next()
        interpreter.send(*frames)
        while True:  # whatever comes, until the host hangs up
            interpreter.next()

    return act


@pytest.mark.parametrize(
    "said",
    [
        *(frame("X", {}), frame("A", {"id": 1}), frame("S", b"x"), frame("R", {"version": 1}), b"\0\0\0\0\0"),
        *(frame("D", b"{"), frame("D", b"[]"), frame("D", {}), frame("D", {"code": 256}), frame("D", _ODD)),
        *(
            frame("D", {"code": True}),
            frame("D", {"code": 0, "repr": 1}),
            frame("D", {"code": 0, "error": 1}),
        ),
        *(call(0), call(-1), call("1"), call(True), call(1.0), call(2**60), call(1, 2), call(1, "add", {})),
        *(call(1, "add", [], []), frame("C", {"id": 1}), frame("C", b"\xff"), frame("C", b"[" * 1000)),
    ],
)
def test_what_none_of_ours_says_ends_the_run(said: bytes) -> None:
    with fake(saying(said)) as talk, pytest.raises(Lost) as caught:
        talk.tool(anything, "add")
        talk.run("")
    assert caught.value.why


@given(st.lists(st.binary(max_size=400) | st.sampled_from([DONE, call(1), call(2), frame("o", b"x")])))
@settings(max_examples=60)
def test_whatever_it_says_comes_to_one_of_few_ends(said: list[bytes]) -> None:
    with fake(saying(*said)) as talk:
        talk.tool(anything, "add")
        try:
            talk.run("", timeout_s=0.05)
        except (Lost, TimedOut):
            return
        assert DONE in b"".join(said)


def test_a_number_is_for_one_call_that_is_not_answered_yet() -> None:
    held = threading.Event()
    with fake(saying(call(1), call(1))) as talk, pytest.raises(Lost, match="number of its own"):
        talk.tool(lambda: held.wait(20), "add")
        try:
            talk.run("")
        finally:
            held.set()


def test_only_what_is_allowed_is_called_and_everything_is_answered() -> None:
    answers: list[object] = []
    called: list[str] = []

    def act(interpreter: FakeInterpreter) -> None:
        interpreter.next()
        interpreter.send(call(1), call(2, "other"), call(3, "__class__"), call(4, "add", [], {"self": 1}))
        answers.extend(interpreter.next()[1] for _ in range(4))
        interpreter.send(DONE)

    with fake(act) as talk:
        talk.tool(lambda: called.append("add"), "add")
        talk.tool(lambda: called.append("other"), "other")
        ran = talk.run("", allow=["add"])
    told = {answer["id"]: answer.get("error", {}).get("type") for answer in answers}  # type: ignore[attr-defined]
    assert told == {1: None, 2: "UnknownTool", 3: "UnknownTool", 4: "BadArguments"}
    assert called == ["add"]
    assert [(one.name, one.error) for one in ran.calls][:2] == [("add", ""), ("other", "UnknownTool")]


def test_a_flood_of_calls_is_held_up_and_ends_with_the_budget() -> None:
    most = list[int]()
    busy = 0
    lock = threading.Lock()
    errors = list[str]()

    def slow() -> None:
        nonlocal busy
        with lock:
            busy += 1
            most.append(busy)
        time.sleep(0.005)
        with lock:
            busy -= 1

    def act(interpreter: FakeInterpreter) -> None:
        interpreter.next()
        flood = b"".join(call(number) for number in range(1, 501))
        threading.Thread(target=interpreter.send, args=[flood], daemon=True).start()
        for _ in range(500):
            errors.append(interpreter.next()[1].get("error", {}).get("type", ""))
        interpreter.send(DONE)

    with fake(act) as talk:
        talk.tool(slow, "add")
        ran = talk.run("", most=200)
    assert max(most) <= MOST_AT_ONCE
    assert (errors.count(""), errors.count("CallBudget"), len(ran.calls)) == (200, 300, 200)


def test_one_that_reads_no_answers_is_not_read_either() -> None:
    """What is kept for it stays small, and its run's time is up in the end."""
    made = list[int]()

    def act(interpreter: FakeInterpreter) -> None:
        interpreter.next()
        for number in range(1, 100_000):
            interpreter.send(call(number))

    def big() -> str:
        made.append(1)
        return "x" * 1_000_000

    with fake(act) as talk, pytest.raises(TimedOut):
        talk.tool(big, "add")
        talk.run("", timeout_s=1.5, most=100_000)
    assert len(made) <= 2 * MOST_AT_ONCE


def test_output_without_end_ends_with_the_time() -> None:
    def act(interpreter: FakeInterpreter) -> None:
        interpreter.next()
        while True:
            interpreter.send(frame("o", b"x"))

    with fake(act) as talk, pytest.raises(TimedOut):
        talk.run("", timeout_s=0.3)


@pytest.mark.parametrize(("said", "why"), [(b"", ""), (frame("o", b"x" * 9)[:7], "middle of a frame")])
def test_hanging_up_is_told_apart_from_hanging_up_in_a_frame(said: bytes, why: str) -> None:
    def act(interpreter: FakeInterpreter) -> None:
        interpreter.next()
        interpreter.send(said)

    with fake(act) as talk, pytest.raises(Lost) as caught:
        talk.run("")
    assert why in caught.value.why and bool(caught.value.why) is bool(why)


def test_a_run_is_stopped_from_another_thread() -> None:
    with fake(saying(frame("o", b"x"))) as talk:
        threading.Timer(0.1, talk.exchange.stop).start()
        with pytest.raises(Stopped):
            talk.run("")


@pytest.mark.parametrize("said", [DONE, frame("R", b"{}"), frame("R", {"version": 2}), frame("R", b"x"), b""])
def test_one_that_does_not_greet_as_ours_is_not_used(said: bytes) -> None:
    with fake(lambda interpreter: interpreter.send(said)) as talk, pytest.raises(Lost):
        talk.exchange.greet(time.monotonic() + 5)
