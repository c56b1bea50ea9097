"""Cold boots that hang, as some do: each try has a deadline, there is one more, and then it is told."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.errors import LaunchFailed
from backends.qemu import template as template_module
from backends.qemu.running_machine import RunningMachine
from tests.vm_engine import Engine, code_of, descendants, drive, is_gone, kill, opened_engine, qemu_below

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

ENOUGH_S = 8.0
"""More than a boot of the smallest image takes; as long as a test with one boot that hangs."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One without a template, so that it has to boot."""
    with opened_engine(tmp_path / "templates", "tiny") as made:
        yield made


class Tries:
    """The machines that are started, of which the first `hung` are stopped as soon as QEMU runs."""

    def __init__(self, hung: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processes: list[list[int]] = []
        self._hung = hung
        self._start = RunningMachine.start
        monkeypatch.setattr(RunningMachine, "start", self._stopped)

    def left(self) -> list[int]:
        """Of all that was started."""
        return [pid for processes in self.processes for pid in processes if not is_gone(pid)]

    async def _stopped(self, *given: Any) -> RunningMachine:
        assert self.left() == [], "the try before has ended"
        running = await self._start(*given)
        self.processes.append(list(descendants(running.qemu.pid)))
        if len(self.processes) <= self._hung:
            kill(qemu_below(running.qemu.pid), signal.SIGSTOP)
        return running


def test_a_boot_that_hangs_is_given_up_and_the_next_one_serves(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_module, "BOOT_S", ENOUGH_S)
    tries = Tries(1, monkeypatch)

    async def main() -> None:
        await engine.template()
        assert len(tries.processes) == 2
        await engine.works()

    drive(main())
    assert tries.left() == []


def test_a_machine_that_hangs_each_time_is_told_after_two_tries(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_module, "BOOT_S", 0.5)
    tries = Tries(9, monkeypatch)
    gc.collect()
    before = descriptors()
    with pytest.raises(LaunchFailed) as caught:
        drive(engine.template())
    assert (code_of(caught), caught.value.retryable) == ("guest_silent", True)
    del caught
    assert len(tries.processes) == 2
    assert tries.left() == []
    gc.collect()  # the error's traceback holds machines, and they their pidfds
    assert descriptors() == before
    assert [path.name for path in Path(engine.store.folder).iterdir()] == [".lock"]


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())
