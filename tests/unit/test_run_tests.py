"""`tests/run.py`: what it makes of suites that run at the same time, however they end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import run
from tests.conftest import CHECKOUT

MEETING = """
import time
from pathlib import Path

def test_both_run_at_once():
    Path({mine!r}).touch()
    give_up = time.monotonic() + 30
    while not Path({theirs!r}).exists():
        assert time.monotonic() < give_up
        time.sleep(0.02)
"""
ENDLESS = """
import os, time
from pathlib import Path

def test_that_never_ends():
    Path({note!r}).write_text(str(os.getpid()))
    time.sleep(600)
"""


def _suite(folder: Path, name: str, source: str) -> list[str]:
    file = folder / f"test_{name}.py"
    file.write_text(source)
    return [str(file), "-c", "/dev/null", "-p", "no:cacheprovider"]


def _names(results: list[run.TestResult]) -> list[tuple[str, str]]:
    return [(result.name.rpartition("::")[2], result.outcome) for result in results]


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_suites_run_at_once_and_are_shown_one_after_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = str(tmp_path / "left"), str(tmp_path / "right")
    failing = MEETING.format(mine=right, theirs=left) + "    assert 1 == 2, 'so it is'\n"
    suites = {
        "the left": _suite(tmp_path, "left", MEETING.format(mine=left, theirs=right)),
        "the right": _suite(tmp_path, "right", failing),
        "nothing": _suite(tmp_path, "nothing", ""),
    }
    assert _names(run.run_suites(suites, 60)) == [
        ("test_both_run_at_once", "passed"),
        ("test_both_run_at_once", "failed"),
    ]
    printed = capsys.readouterr().out
    headings = [line for line in printed.splitlines() if line.startswith("== ")]
    assert headings == ["== the left", "== the right", "== nothing"]
    of_right = printed.index("== the right")
    assert printed.index("1 passed") < of_right < printed.index("so it is") < printed.index("1 failed")


def test_a_pytest_that_cannot_start_is_a_failure(tmp_path: Path) -> None:
    [result] = run.run_suites({"broken": [str(tmp_path), "--no-such-option"]}, 60)
    assert (result.name, result.outcome) == ("broken: pytest ended with 4", "failed")


def test_all_is_killed_when_the_time_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = [tmp_path / "one", tmp_path / "other"]
    suites = {note.name: _suite(tmp_path, note.name, ENDLESS.format(note=str(note))) for note in notes}
    results = run.run_suites(suites, 3)
    assert [(result.name, result.outcome) for result in results] == [
        ("one: pytest ended with 124", "failed"),
        ("other: pytest ended with 124", "failed"),
    ]
    assert capsys.readouterr().out.count("killed: the time for it is over") == 2
    assert all(_is_gone(int(note.read_text())) for note in notes if note.exists())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_suite(tmp_path: Path, number: signal.Signals) -> None:
    notes = [tmp_path / "one", tmp_path / "other"]
    suites = {note.name: _suite(tmp_path, note.name, ENDLESS.format(note=str(note))) for note in notes}
    source = (
        "import sys; from tests import run; run.CHECKS = {}\n"
        f"run.SUITES = {suites!r}; sys.argv = ['run-tests']\n"
        "sys.exit(run.main())"
    )
    runner = subprocess.Popen([sys.executable, "-c", source], cwd=CHECKOUT, stdout=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 60
        while not all(note.exists() and note.read_text() for note in notes):
            assert time.monotonic() < give_up and runner.poll() is None, "the suites were not started"
            time.sleep(0.02)
        runner.send_signal(number)
        assert runner.wait(30) == 128 + number
    finally:
        runner.kill()
        runner.wait()
    assert all(_is_gone(int(note.read_text())) for note in notes)
