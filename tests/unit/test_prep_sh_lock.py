"""The commands for POSIX sh, run: one preparation at a time on a host, and root's rights."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory

import pytest

from mxc_ops.prep.shells import HELD_BY_ANOTHER
from mxc_ops.prep.shells.sh import SHELL
from tests.unit.shells import NAMES, Shell, await_true, change, read, search_path


@pytest.fixture(scope="module", params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    try:
        return search_path(request.param, tmp_path_factory.mktemp(request.param))
    except FileNotFoundError:
        pytest.skip(f"no {request.param} here: apt-get install {request.param}")


@pytest.fixture
def sh(path: str, tmp_path: Path) -> Shell:
    return Shell(path, tmp_path / "state")


# --- one at a time


def hold(sh: Shell, holder: str, wait_s: int = 0) -> subprocess.Popen[str]:
    return sh.start(SHELL.hold(holder, wait_s), stdin=subprocess.PIPE)


def await_holder(sh: Shell, holder: str) -> None:
    await_true(lambda: sh(SHELL.holder()).stdout == f"{holder}\n", f"{holder} does not hold it")


def test_nobody_holds_a_host_that_was_never_prepared(sh: Shell) -> None:
    assert sh(SHELL.holder()).stdout == ""


def test_a_second_one_is_told_who_holds_the_host_and_nothing_is_left_in_the_end(sh: Shell) -> None:
    first = hold(sh, "it's me")
    await_holder(sh, "it's me")
    second = hold(sh, "another")
    assert second.communicate(timeout=20)[0] == "it's me\n"
    assert second.returncode == HELD_BY_ANOTHER
    first.communicate(timeout=20)
    assert first.returncode == 0
    assert not sh.state.exists()


def test_directories_that_several_items_share_go_with_the_last_receipt_unless_others_use_them(
    sh: Shell,
) -> None:
    receipt = sh.state / "receipts/an.item.json"
    for folder in (receipt.parent, sh.state / "images", sh.programs):
        folder.mkdir(parents=True)
    for kept, there in (
        (receipt, (True, True)),
        (sh.programs / "theirs", (False, True)),
        (None, (False, False)),
    ):
        if kept:
            kept.touch()
        first = hold(sh, "me")
        await_holder(sh, "me")
        first.communicate(timeout=20)
        assert ((sh.state / "images").exists(), sh.programs.exists()) == there
        if kept:
            kept.unlink()


def test_who_waits_gets_the_host_although_its_directory_was_removed_meanwhile(sh: Shell) -> None:
    first = hold(sh, "first")
    await_holder(sh, "first")
    second = hold(sh, "second", wait_s=30)
    await_true(lambda: _waits_for_a_lock(second.pid), "the second does not wait")
    first.communicate(timeout=20)
    await_holder(sh, "second")
    assert sh.state.exists()
    second.communicate(timeout=20)
    assert not sh.state.exists()


def _waits_for_a_lock(pid: int) -> bool:
    return any("flock" in read(f"/proc/{found}/cmdline") for found in _descendants(pid))


def _descendants(pid: int) -> list[int]:
    children = read(f"/proc/{pid}/task/{pid}/children").split()
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user as well")
def test_another_user_reads_what_is_recorded_and_can_lock_nobody_out(path: str) -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        sh = Shell(path, Path(folder) / "state")
        assert sh(SHELL.change(change("true"))).returncode == 0
        first = hold(sh, "first")
        await_holder(sh, "first")
        lockers = {found: _locked_by_nobody(found) for found in [sh.state, *sh.state.rglob("*")]}
        first.communicate(timeout=20)
        locked = {found.name for found, child in lockers.items() if child.stdout and child.stdout.readline()}
        assert locked == {"state", "receipts", "an.item.json"}

        second = hold(sh, "second")
        await_holder(sh, "second")
        assert sh(SHELL.reversal(change("true"))).returncode == 0
        second.communicate(timeout=20)
        assert not sh.state.exists()
        for child in lockers.values():
            child.communicate(timeout=20)


def _locked_by_nobody(path: Path) -> subprocess.Popen[str]:
    """It prints a line once it has the lock, and ends with its standard input."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    return subprocess.Popen(
        [*nobody, "flock", str(path), "sh", "-c", "echo locked; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_asking_who_holds_a_host_makes_nothing_there(sh: Shell) -> None:
    """Also while the last holder lets go of it."""
    for _ in range(10):
        first = hold(sh, "first")
        await_holder(sh, "first")
        asking = [sh.start(SHELL.holder()) for _ in range(4)]
        first.communicate(timeout=20)
        for asker in asking:
            asker.communicate(timeout=20)
        assert not sh.state.exists()


def test_who_is_killed_holds_the_host_no_longer(sh: Shell) -> None:
    first = hold(sh, "first")
    await_holder(sh, "first")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    # What busybox's timeout leaves behind may keep the lock for a second.
    await_true(lambda: sh(SHELL.holder()).stdout == "", "it is still held")
    second = hold(sh, "second")
    await_holder(sh, "second")
    second.communicate(timeout=20)
    assert not sh.state.exists()


def test_an_interrupted_change_that_goes_on_is_waited_for(sh: Shell, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    left = sh.start(SHELL.change(change(f"until test -e {quote(str(gate))}; do sleep 0.01; done")))
    await_true((sh.state / "receipts/an.item.json").exists, "no record")
    refused = hold(sh, "me")
    assert "interrupted" in refused.communicate(timeout=20)[0]
    assert refused.returncode == HELD_BY_ANOTHER
    waiting = hold(sh, "me", wait_s=30)
    gate.touch()
    assert left.wait(timeout=20) == 0
    await_holder(sh, "me")
    waiting.communicate(timeout=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to hide /proc")
def test_a_host_can_be_held_without_proc(sh: Shell) -> None:
    command = sh.inside(SHELL.hold("me", 0))
    hidden = f"mount -t tmpfs none /proc; exec sh -c {quote(command)}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden],
        env={"PATH": sh.path + ":" + os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr


# --- root's rights


SUDO = """#!/bin/sh
printf '%s\\n' "$*" > {log}
case " $* " in *" -S "*) read -r password; echo "read $password" >> {log} ;; esac
while test "${{1#-}}" != "$1"; do test "$1" = -p && shift; test "$1" = -- && {{ shift; break; }}; shift; done
exec "$@"
"""


@pytest.mark.parametrize("elevation", ["sudo", "sudo-password", "doas"])
def test_a_password_comes_by_standard_input_only(tmp_path: Path, elevation: str) -> None:
    program = tmp_path / elevation.partition("-")[0]
    program.write_text(SUDO.format(log=tmp_path / "log"))
    program.chmod(0o755)
    command = SHELL.elevated('echo "it\'s done"; cat', elevation)
    environment: Mapping[str, str] = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    password = "secret\n" if elevation == "sudo-password" else ""
    done = subprocess.run(
        ["sh", "-c", command],
        input=f"{password}rest\n",
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout == "it's done\nrest\n", done.stderr
    asked, *read = (tmp_path / "log").read_text().splitlines()
    assert "secret" not in asked
    assert read == (["read secret"] if password else [])


def test_rights_that_cannot_be_had_are_an_error() -> None:
    with pytest.raises(ValueError, match="none"):
        SHELL.elevated("true", "none")
