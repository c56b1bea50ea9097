"""Programs that a build runs: they end in time, with all that they started, and their last words are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.errors import BackendUnavailable, PrepFailed
from vm_images import tools
from vm_images.tools import find_tool, run_tool

PATIENCE_S = 20


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def soon(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not gone(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_last_words_of_a_program_that_fails_are_told_with_the_fix() -> None:
    with pytest.raises(PrepFailed) as caught:
        run_tool(["sh", "-c", "echo nonsense; echo no such mirror >&2; exit 7"], deadline_s=60, fix="mend it")
    [problem] = caught.value.problems
    assert problem.message == "sh failed with status 7: no such mirror"
    assert problem.fix == "mend it"


def test_a_module_that_python_runs_is_called_by_its_own_name() -> None:
    with pytest.raises(PrepFailed, match=r"json\.tool failed with status"):
        run_tool([sys.executable, "-m", "json.tool", "/nowhere"], deadline_s=60)


def test_a_full_disk_is_mended_by_making_room() -> None:
    with pytest.raises(PrepFailed, match="No space left on device") as caught:
        run_tool(["sh", "-c", "cat /dev/zero > /dev/full"], deadline_s=60, fix="look at the mirror")
    assert "df -h" in caught.value.fix


def test_a_program_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_GRACE_S", 0.2)
    note = tmp_path / "pid"
    script = f"trap '' TERM; sleep 300 & echo $! > {note}; wait; wait"
    with pytest.raises(PrepFailed, match=r"sh did not end within 1 s"):
        run_tool(["sh", "-c", script], deadline_s=1)
    assert soon(int(note.read_text()))


def test_nothing_that_a_program_has_left_behind_outlives_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $! > {note}; echo done"
    assert run_tool(["sh", "-c", script], deadline_s=60) == b"done\n"
    assert gone(int(note.read_text()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_what_a_program_of_roots_mounts_is_not_the_hosts(tmp_path: Path) -> None:
    script = f"mount -t tmpfs none {tmp_path} && touch {tmp_path}/there && ls {tmp_path}"
    assert run_tool(["sh", "-c", script], deadline_s=60) == b"there\n"
    assert not tmp_path.is_mount() and list(tmp_path.iterdir()) == []


def test_a_program_that_is_killed_or_missing_is_told() -> None:
    with pytest.raises(PrepFailed, match="sh failed with status -15"):
        run_tool(["sh", "-c", "kill -TERM $$"], deadline_s=60)
    with pytest.raises(PrepFailed, match="failed with status 127: /no/such: No such file"):
        run_tool(["/no/such"], deadline_s=60)


def test_what_we_started_dies_with_us_even_if_we_are_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    source = f"""
from vm_images import tools
from vm_images.tools import run_tool
deaf = "trap '' TERM; sleep 300 & echo $! > {note}.new; mv {note}.new {note}; wait"
run_tool(["setsid", "sh", "-c", deaf], deadline_s=300)
"""
    owner = subprocess.Popen([sys.executable, "-c", source], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + PATIENCE_S
    while not note.exists():
        assert time.monotonic() < deadline and owner.poll() is None
        time.sleep(0.02)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert soon(int(note.read_text()))


def test_a_program_gets_no_variables_of_ours_but_those_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("https_proxy", "http://192.0.2.1:3128")
    seen = run_tool(["env"], deadline_s=60, environment={"SOURCE_DATE_EPOCH": "5"}).decode().split("\n")
    assert "https_proxy=http://192.0.2.1:3128" in seen and "SOURCE_DATE_EPOCH=5" in seen
    assert not [line for line in seen if line.startswith("SECRET_TOKEN")]


def test_a_tool_that_is_missing_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(BackendUnavailable, match="mxc-no-such-tool or mxc-neither") as caught:
        find_tool("mxc-no-such-tool", "mxc-neither")
    assert "--feature build" in caught.value.fix
    assert os.access(find_tool("mxc-no-such-tool", "sh"), os.X_OK)
