"""The commands for POSIX sh, run by dash (Debian), bash (Fedora, Arch), and busybox alone (Alpine)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from mxc_ops.prep.receipts import Receipt, decode, merged
from mxc_ops.prep.shells import HELD_BY_ANOTHER, Change
from mxc_ops.prep.shells.sh import SHELL

STATE = "/var/lib/mxc-ops"
# busybox's flock knows no -w (util-linux/flock.c), and Debian's busybox has none: the real one, without it.
FLOCK = """#!/bin/sh
for word; do case $word in -w*) echo 'flock: invalid option' >&2; exit 1 ;; -*) ;; *) break ;; esac; done
exec {flock} "$@"
"""


@dataclass(frozen=True)
class Shell:
    """One way to run commands; what they keep below /var/lib/mxc-ops is kept in `state` instead."""

    path: str
    state: Path

    def start(self, command: str, *, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", command.replace(STATE, str(self.state))],
            executable=shutil.which("sh", path=self.path),
            env={"PATH": self.path},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        child = self.start(command)
        out, err = child.communicate(timeout=60)
        return subprocess.CompletedProcess(command, child.returncode, out, err)

    def receipt(self, item: str = "an.item") -> Receipt:
        return decode((self.state / f"receipts/{item}.json").read_text())

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.state / "receipts").iterdir())


@pytest.fixture(scope="module", params=["dash", "bash", "busybox"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path on which `sh` is the shell asked for; busybox's has nothing but busybox."""
    name: str = request.param
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"no {name} here: apt-get install {name}")
    tools = tmp_path_factory.mktemp(name)
    (tools / "sh").symlink_to(program)
    if name != "busybox":
        return f"{tools}:{os.environ['PATH']}"
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in {*applets} - {"sh", "flock"}:
        (tools / applet).symlink_to(program)
    (tools / "flock").write_text(FLOCK.format(flock=shutil.which("flock")))
    (tools / "flock").chmod(0o755)
    return str(tools)


@pytest.fixture
def sh(path: str, tmp_path: Path) -> Shell:
    return Shell(path, tmp_path / "state")


def change(*commands: str, **fields: Any) -> Change:
    receipt = Receipt("an.item", "an.operation", {"it's": 1}, by="somebody")
    return Change(fields.pop("receipt", receipt), commands, **fields)


def await_true(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


def await_end(pid: int) -> None:
    """A killed process takes a moment to end; one that is not killed takes longer than we wait."""

    def gone() -> bool:
        try:
            return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return True

    await_true(gone, f"{pid} lives on")


# --- surveys


def test_each_command_of_a_survey_has_its_own_lines(sh: Shell) -> None:
    commands = [
        "echo one; echo two",
        "true",
        "printf 'without an end'",
        "echo; echo after an empty line; echo",
        "echo seen; exit 3",
        "echo unseen >&2; cat",
        "set -e; false; echo not reached",
    ]
    done = sh(SHELL.survey(commands, 20))
    assert (done.returncode, done.stderr) == (0, "")
    assert SHELL.answers(done.stdout.splitlines(), len(commands)) == [
        ["one", "two"],
        [],
        ["without an end"],
        ["", "after an empty line", ""],
        ["seen"],
        [],
        [],
    ]


def test_a_survey_that_hangs_is_killed_and_not_mistaken_for_an_answer(sh: Shell) -> None:
    done = sh(SHELL.survey(["echo quick", "sleep 300 & echo $!; wait", "echo late"], 1))
    assert "killed after 1 s" in done.stderr
    with pytest.raises(ValueError, match="the host answered 1 of 3 questions"):
        SHELL.answers(done.stdout.splitlines(), 3)
    await_end(int(done.stdout.splitlines()[-1]))


# --- changes


def test_the_record_is_pending_before_and_complete_after_the_commands(sh: Shell, tmp_path: Path) -> None:
    copy = f'cp "$receipt.json" {quote(str(tmp_path / "during"))}'
    receipt = Receipt("an.item", "an.operation", {"a": "b"}, {"value": 1}, {"text": "x\n"}, by="root@there")
    done = sh(SHELL.change(change(copy, receipt=receipt)))
    assert done.returncode == 0, done.stderr
    during, after = decode((tmp_path / "during").read_text()), sh.receipt()
    assert (during.state, after.state) == ("pending", "complete")
    assert during.prior == after.prior == {"value": 1}
    assert after.at.endswith("Z") and len(after.at) == len("2026-01-01T00:00:00Z")
    assert sh.files() == ["an.item.json"]


@pytest.mark.parametrize("text", ["it's", '"$HOME" `id` \\n', "100 %s %d\n\ttab", "äöü ☃", "-n", "a\\", ""])
def test_any_text_survives_in_a_record(sh: Shell, text: str) -> None:
    receipt = Receipt("an.item", "an.operation", {"t": text}, {"t": text}, {"t": [text]}, by=text)
    assert sh(SHELL.change(change("true", receipt=receipt))).returncode == 0
    found = sh.receipt()
    assert (found.arguments["t"], found.prior["t"], found.made["t"], found.by) == (text, text, [text], text)


def test_many_quotation_marks_behind_many_shells_make_no_word_that_is_too_long(sh: Shell) -> None:
    text = "it's <a b='c'/>" * 500
    script = SHELL.survey([f"printf %s {quote(text)}"], 20)
    for _ in range(3):
        script = f"sh -c {quote(script)}"
    done = sh(script)
    assert SHELL.answers(done.stdout.splitlines(), 1) == [[text]], done.stderr


def test_the_first_command_that_fails_ends_the_change_which_stays_pending(sh: Shell, tmp_path: Path) -> None:
    mark = quote(str(tmp_path / "mark"))
    done = sh(SHELL.change(change("echo said; false; true", f"touch {mark}")))
    assert done.returncode != 0
    assert done.stdout == "said\n"
    assert not (tmp_path / "mark").exists()
    assert sh.receipt().state == "pending"


def test_what_is_measured_is_united_with_what_was_measured_before(sh: Shell) -> None:
    earlier = Receipt("an.item", "an.operation", {}, made={"added": ["a", 'b"']})
    measured = {"added": "printf 'c\\\\\\nb\"\\na tab:\\there\\n'", "removed": "true"}
    new = merged(earlier, Receipt("an.item", "an.operation", {}, made={"asked": ["c"]}))
    done = sh(SHELL.change(change("true", receipt=new, measured=measured)))
    assert done.returncode == 0, done.stderr
    assert sh.receipt().made == {"asked": ["c"], "added": ["a", "a tab:\there", 'b"', "c\\"], "removed": []}


def test_what_was_there_before_is_kept_from_the_first_attempt_to_the_last(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("old\n")
    listed = f"cat {quote(str(tmp_path / 'list'))}"
    measured = {"added": f'{listed} | grep -vxFf "$receipt.before"'}
    add = f"echo new >> {quote(str(tmp_path / 'list'))}"
    attempt = change(add, "false", snapshot=listed, measured=measured)
    assert sh(SHELL.change(attempt)).returncode != 0
    assert sh.files() == ["an.item.before", "an.item.json"]
    assert sh(SHELL.change(change(snapshot=listed, measured=measured))).returncode == 0
    assert sh.receipt().made == {"added": ["new"]}
    assert sh.files() == ["an.item.json"]


@pytest.mark.parametrize("snapshot", ["true", "echo half; exit 1", "no-such-program"])
def test_nothing_is_changed_when_it_is_not_known_what_was_there(
    sh: Shell, snapshot: str, tmp_path: Path
) -> None:
    touch = f"touch {quote(str(tmp_path / 'touched'))}"
    assert sh(SHELL.change(change(touch, snapshot=snapshot, measured={"added": "true"}))).returncode != 0
    assert not (tmp_path / "touched").exists()
    assert not (sh.state / "receipts/an.item.before").exists()


def test_a_second_change_that_is_interrupted_is_pending_again(sh: Shell) -> None:
    assert sh(SHELL.change(change("true"))).returncode == 0
    assert sh.receipt().state == "complete"
    assert sh(SHELL.change(change("false"))).returncode != 0
    assert sh.receipt().state == "pending"


def test_a_command_that_hangs_is_killed_with_all_that_it_started(sh: Shell) -> None:
    done = sh(SHELL.change(change("sleep 300 & echo $!; wait", deadline_s=1)))
    assert done.returncode != 0
    assert "killed after 1 s" in done.stdout
    await_end(int(done.stdout.splitlines()[0]))
    assert sh.receipt().state == "pending"


def test_a_change_goes_on_when_nobody_listens_any_more(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    talk = f"while test -e {quote(str(tmp_path / 'go'))}; do echo talk; sleep 0.01; done"
    child = sh.start(SHELL.change(change(talk)))
    await_true((sh.state / "receipts/an.item.json").exists, "no record")
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    child.stderr.close()
    (tmp_path / "go").unlink()
    child.wait(timeout=20)
    assert sh.receipt().state == "complete"


def test_what_was_brought_there_is_gone_after_success_and_failure(sh: Shell, tmp_path: Path) -> None:
    for command, code in (('test -e "$uploads/x"', 0), ('test -e "$uploads/x"; exit 7', 7)):
        folder = tmp_path / "brought"
        folder.mkdir()
        (folder / "x").touch()
        assert sh(SHELL.change(change(command, uploads=str(folder)))).returncode == code
        assert not folder.exists()


def test_a_change_waits_for_one_that_is_still_at_work(sh: Shell, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = sh.start(SHELL.change(change(f"until test -e {quote(str(gate))}; do sleep 0.01; done")))
    await_true((sh.state / "receipts/an.item.json").exists, "no record")
    second = sh.start(SHELL.change(change(f"test -e {quote(str(gate))}")))
    gate.touch()
    assert (first.wait(timeout=20), second.wait(timeout=20)) == (0, 0)


def test_a_kill_at_any_moment_leaves_a_record_that_parses(sh: Shell) -> None:
    """SIGKILL for everything at once, as a power failure has it but for the disk."""
    big = Receipt("an.item", "an.operation", {"text": "x" * 20_000})
    script = SHELL.change(change("true", receipt=big, measured={"lines": "echo measured"}))
    states: set[str] = set()
    for attempt in range(12):
        child = sh.start(script)
        time.sleep(0.002 * attempt)
        for pid in _tree(child.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.communicate()
        if (sh.state / "receipts/an.item.json").exists():
            states.add(sh.receipt().state)
    assert states <= {"pending", "complete"}
    assert sh(script).returncode == 0
    assert sh.files() == ["an.item.json"]


def _tree(pid: int) -> list[int]:
    """The process and all below it, each stopped before its children are looked up."""
    try:
        os.kill(pid, signal.SIGSTOP)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in _tree(int(child)))]


# --- the way back


def test_a_record_goes_when_its_change_has_been_taken_back_and_no_sooner(sh: Shell) -> None:
    assert sh(SHELL.change(change("true"))).returncode == 0
    assert sh(SHELL.reversal(change("echo no; false"))).returncode != 0
    assert sh.receipt().state == "complete"
    assert sh(SHELL.reversal(change("true"))).returncode == 0
    assert sh.files() == []


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
    return any("flock" in Path(f"/proc/{found}/cmdline").read_text() for found in _descendants(pid))


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


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
    command = SHELL.hold("me", 0).replace(STATE, str(sh.state))
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


def test_a_change_without_an_item_leaves_no_record(sh: Shell, tmp_path: Path) -> None:
    receipt = Receipt("", "an.operation", {})
    touch = f"touch {quote(str(tmp_path / 'touched'))}"
    assert sh(SHELL.change(change(touch, receipt=receipt, measured={"lines": "echo x"}))).returncode == 0
    assert (tmp_path / "touched").exists()
    assert not sh.state.exists()
    assert sh(SHELL.change(change("false", receipt=receipt))).returncode != 0


def test_a_record_is_json_of_one_line(sh: Shell) -> None:
    assert sh(SHELL.change(change("true"))).returncode == 0
    text = (sh.state / "receipts/an.item.json").read_text()
    assert text.count("\n") == 1
    assert json.loads(text)["schemaVersion"] == 1
