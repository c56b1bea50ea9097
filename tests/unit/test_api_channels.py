"""Channels and the deadline: state machines, driven here without any sandbox or loop."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Timeout
from backends.ended import Ended, Outcome, Usage
from backends.errors import LaunchFailed
from mxc_ops import deadline as deadline_module
from mxc_ops.channels import Capture, Feeder, Reader, Relay
from mxc_ops.deadline import KILL_PATIENCE_S, Deadline
from mxc_ops.pipes import open_input_pipe

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


@given(chunks=st.lists(st.binary(max_size=50)), cap=st.integers(0, 200))
def test_a_capture_keeps_the_first_bytes_and_counts_the_rest(chunks: list[bytes], cap: int):
    capture = Capture(cap)
    for chunk in chunks:
        capture(chunk)
    whole = b"".join(chunks)
    assert capture.getvalue() == whole[:cap]
    assert capture.dropped_bytes == max(0, len(whole) - cap)


def test_a_capture_of_single_bytes_takes_no_more_memory_than_its_content():
    capture = Capture(10**6)
    for _ in range(10**5):
        capture(b"x")
    assert len(capture.getvalue()) == 10**5


def test_a_reader_waits_for_nothing_and_sees_the_end(pipe: Pipe):
    seen: list[bytes] = []
    reader = Reader(pipe[0], seen.append)
    assert reader.step()
    os.write(pipe[1], b"abc")
    assert reader.step()
    os.close(pipe[1])
    assert not reader.step()
    assert seen == [b"abc"]


def test_a_drain_takes_what_is_there_although_the_stream_has_not_ended(pipe: Pipe):
    seen: list[bytes] = []
    reader = Reader(pipe[0], seen.append)
    os.write(pipe[1], bytes(65536))
    reader.drain()
    assert sum(map(len, seen)) == 65536


def test_a_feeder_writes_as_much_as_is_taken_and_ends():
    theirs, ours = open_input_pipe()
    feeder = Feeder(ours, b"x" * 100_000)
    assert feeder.step()
    taken = b""
    going = True
    while going:
        taken += os.read(theirs, 65536)
        going = feeder.step()
    feeder.close()
    feeder.close()
    while rest := os.read(theirs, 65536):
        taken += rest
    os.close(theirs)
    assert taken == b"x" * 100_000


def test_a_feeder_ends_quietly_when_nobody_reads():
    theirs, ours = open_input_pipe()
    os.close(theirs)
    feeder = Feeder(ours, b"x")
    assert not feeder.step()
    feeder.close()


def test_a_relay_copies_in_both_moods_and_appends_its_end():
    source, target = os.pipe(), os.pipe()
    for fd in (source[0], target[1]):
        os.set_blocking(fd, False)
    relay = Relay(source[0], target[1], at_end=b"\x04")
    os.write(source[1], b"abc")
    assert relay.events == select.POLLIN
    assert relay.step()
    assert os.read(target[0], 10) == b"abc"
    os.write(target[1], bytes(65536))
    os.write(source[1], b"def")
    assert relay.step()
    assert (relay.fd, relay.events) == (target[1], select.POLLOUT)
    assert os.read(target[0], 65536) == bytes(65536)
    assert relay.step()
    assert os.read(target[0], 10) == b"def"
    os.close(source[1])
    while relay.step():
        pass
    assert os.read(target[0], 10) == b"\x04"
    relay.close()
    os.close(target[0])


class Recorded:
    """A running sandbox that notes what is done to it and never ends."""

    pid = pidfd = -1

    def __init__(self, *, wrapping_up: bool = False) -> None:
        self.done: list[object] = []
        self.wrapping_up = wrapping_up

    def signal(self, signal_number: int) -> None:
        raise AssertionError("a deadline is no ordinary signal")

    def expire(self, signal_number: int) -> None:
        self.done.append(int(signal_number))

    def kill(self) -> None:
        self.done.append("kill")

    def wait(self, timeout_s: float | None = None) -> Ended | None:
        return Ended(Outcome.KILLED, 137, 9, Usage())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    monkeypatch.setattr(deadline_module.time, "monotonic", lambda: now[0])
    yield now


def test_a_deadline_signals_then_kills_then_gives_up(clock: list[float]):
    running = Recorded()
    deadline = Deadline(Timeout(after_ms=500, grace_ms=200, signal="INT"))
    assert deadline.remaining_s() == 0.5
    deadline.enforce(running)
    assert running.done == []
    clock[0] += 0.5
    deadline.enforce(running)
    deadline.enforce(running)
    assert (running.done, deadline.timed_out) == ([2], True)
    clock[0] += 0.2
    deadline.enforce(running)
    deadline.enforce(running)
    assert running.done == [2, "kill"]
    clock[0] += KILL_PATIENCE_S
    with pytest.raises(LaunchFailed, match="did not end"):
        deadline.enforce(running)


def test_without_grace_a_deadline_kills_at_once(clock: list[float]):
    running = Recorded()
    deadline = Deadline(Timeout(after_ms=1))
    clock[0] += 0.001
    deadline.enforce(running)
    assert running.done == ["kill"]


def test_a_deadline_leaves_alone_what_brings_back_the_results_of_a_command_that_has_ended(clock: list[float]):
    running = Recorded(wrapping_up=True)
    deadline = Deadline(Timeout(after_ms=1))
    clock[0] += 10
    deadline.enforce(running)
    assert (running.done, deadline.timed_out, deadline.remaining_s()) == ([], False, None)


def test_no_deadline_never_does_anything(clock: list[float]):
    running = Recorded()
    deadline = Deadline(Timeout())
    clock[0] += 10**9
    deadline.enforce(running)
    assert (deadline.remaining_s(), running.done, deadline.timed_out) == (None, [], False)
