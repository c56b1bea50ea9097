"""The commands for POSIX sh, run: surveys, changes and their records, the way back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from mxc_ops.prep.receipts import Receipt, decode, merged
from mxc_ops.prep.shells import HELD_BY_ANOTHER
from mxc_ops.prep.shells.sh import SHELL
from tests.unit.shells import NAMES, Shell, await_end, await_true, change, search_path


@pytest.fixture(scope="module", params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    try:
        return search_path(request.param, tmp_path_factory.mktemp(request.param))
    except FileNotFoundError:
        pytest.skip(f"no {request.param} here: apt-get install {request.param}")


@pytest.fixture
def sh(path: str, tmp_path: Path) -> Shell:
    return Shell(path, tmp_path / "state")


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


def test_what_is_no_text_is_left_out(sh: Shell) -> None:
    """A user's name in Latin-1, say; reading the output of the survey as UTF-8 fails otherwise."""
    done = sh(SHELL.survey([r"printf 'K\374hn:x\n\n\377\376\n'", "echo next"], 20))
    assert SHELL.answers(done.stdout.split("\n")[:-1], 2) == [["Khn:x", "", ""], ["next"]]
    done = sh(SHELL.change(change(r"printf 'a\377b\n'")))
    assert (done.returncode, done.stdout) == (0, "ab\n")


def test_a_survey_asks_in_english_whatever_the_language_of_the_host(sh: Shell) -> None:
    done = sh(f"export LC_ALL=de_DE.UTF-8; {SHELL.survey(['echo $LC_ALL', 'echo $LC_ALL'], 20)}")
    assert SHELL.answers(done.stdout.splitlines(), 2) == [["C"], ["C"]]


def test_a_survey_that_hangs_is_killed_and_not_mistaken_for_an_answer(sh: Shell, tmp_path: Path) -> None:
    hang = f"sleep 300 & echo $! > {quote(str(tmp_path / 'pid'))}; wait"
    done = sh(SHELL.survey(["echo quick", hang, "echo late"], 1))
    assert done.returncode != 0
    assert "killed after 1 s" in done.stderr
    with pytest.raises(ValueError, match="of 3 questions"):
        SHELL.answers(done.stdout.splitlines(), 3)
    await_end(int((tmp_path / "pid").read_text()))


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


def test_the_first_command_that_fails_ends_the_change_which_is_recorded_as_failed(
    sh: Shell, tmp_path: Path
) -> None:
    mark = quote(str(tmp_path / "mark"))
    done = sh(SHELL.change(change("echo said; false; true", f"touch {mark}")))
    assert done.returncode != 0
    assert done.stdout == "said\n"
    assert not (tmp_path / "mark").exists()
    assert sh.receipt().state == "failed"


def test_what_is_measured_is_united_with_what_was_measured_before(sh: Shell) -> None:
    earlier = Receipt("an.item", "an.operation", {}, made={"added": ["a", 'b"']})
    measured = {"added": "printf 'c\\\\\\nb\"\\na tab:\\there\\n'", "removed": "true"}
    new = merged(earlier, Receipt("an.item", "an.operation", {}, made={"asked": ["c"]}))
    done = sh(SHELL.change(change("true", receipt=new, measured=measured)))
    assert done.returncode == 0, done.stderr
    assert sh.receipt().made == {"asked": ["c"], "added": ["a", "a tab:\there", 'b"', "c\\"], "removed": []}


@pytest.mark.parametrize("measuring", ["no-such-program", "echo half; exit 3", "echo half; false && true"])
def test_a_change_that_cannot_be_measured_fails_and_is_not_complete(sh: Shell, measuring: str) -> None:
    done = sh(SHELL.change(change("true", measured={"fine": "echo x", "added": measuring})))
    assert done.returncode != 0
    assert "cannot be measured: added" in done.stdout
    assert sh.receipt().state == "pending"
    assert sh(SHELL.change(change("true", measured={"added": "echo whole"}))).returncode == 0
    assert (sh.receipt().made, sh.files()) == ({"added": ["whole"]}, ["an.item.json"])


@dataclass(frozen=True)
class Growing:
    """A list on the host, to which changes add, and which is measured as packages are."""

    path: Path

    @property
    def recorded(self) -> dict[str, Any]:
        listed = f"cat {quote(str(self.path))}"
        return {"snapshot": listed, "measured": {"added": f'{listed} | grep -vxFf "$receipt.before" || true'}}

    def adding(self, line: str) -> str:
        return f"echo {line} >> {quote(str(self.path))}"


@pytest.fixture
def growing(tmp_path: Path) -> Growing:
    (tmp_path / "list").write_text("old\n")
    return Growing(tmp_path / "list")


def test_what_was_there_before_is_kept_over_an_interruption(sh: Shell, growing: Growing) -> None:
    child = sh.start(SHELL.change(change(growing.adding("new"), "sleep 300", **growing.recorded)))
    await_true(lambda: "new" in growing.path.read_text(), "it does not begin")
    _kill(child)
    assert (sh.receipt().state, sh.files()) == ("pending", ["an.item.before", "an.item.json"])
    assert sh(SHELL.change(change(**growing.recorded))).returncode == 0
    assert sh.receipt().made == {"added": ["new"]}
    assert sh.files() == ["an.item.json"]


def test_what_others_do_after_a_change_that_failed_is_not_ours(sh: Shell, growing: Growing) -> None:
    failing = change(growing.adding("half"), "echo why; exit 3", **growing.recorded)
    done = sh(SHELL.change(failing))
    assert (done.returncode, done.stdout) == (3, "why\n")
    failed = sh.receipt()
    assert (failed.state, failed.made, sh.files()) == ("failed", {"added": ["half"]}, ["an.item.json"])
    with growing.path.open("a") as listed:
        listed.write("theirs\n")
    again = merged(failed, Receipt("an.item", "an.operation", {}))
    assert sh(SHELL.change(change(growing.adding("new"), receipt=again, **growing.recorded))).returncode == 0
    assert sh.receipt().made == {"added": ["half", "new"]}


def test_a_list_that_a_kill_left_beside_a_finished_record_is_not_used(sh: Shell, growing: Growing) -> None:
    assert sh(SHELL.change(change(growing.adding("new"), **growing.recorded))).returncode == 0
    (sh.state / "receipts/an.item.before").write_text("old\n")
    with growing.path.open("a") as listed:
        listed.write("theirs\n")
    assert sh(SHELL.change(change(growing.adding("newer"), **growing.recorded))).returncode == 0
    assert sh.receipt().made == {"added": ["newer"]}


@pytest.mark.parametrize("snapshot", ["true", "echo half; exit 1", "no-such-program"])
def test_nothing_is_changed_when_it_is_not_known_what_was_there(
    sh: Shell, snapshot: str, tmp_path: Path
) -> None:
    touch = f"touch {quote(str(tmp_path / 'touched'))}"
    assert sh(SHELL.change(change(touch, snapshot=snapshot, measured={"added": "true"}))).returncode != 0
    assert not (tmp_path / "touched").exists()
    assert not (sh.state / "receipts/an.item.before").exists()


def test_a_second_change_that_fails_is_no_longer_complete(sh: Shell) -> None:
    assert sh(SHELL.change(change("true"))).returncode == 0
    assert sh.receipt().state == "complete"
    assert sh(SHELL.change(change("false"))).returncode != 0
    assert sh.receipt().state == "failed"


def test_a_command_that_hangs_is_killed_with_all_that_it_started(sh: Shell) -> None:
    done = sh(SHELL.change(change("sleep 300 & echo $!; wait", deadline_s=1)))
    assert done.returncode != 0
    assert "killed after 1 s" in done.stdout
    await_end(int(done.stdout.splitlines()[0]))
    assert sh.receipt().state == "failed"


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


def test_what_was_brought_there_is_gone_when_the_change_cannot_begin(sh: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "brought"
    folder.mkdir()
    sh.state.touch()
    assert sh(SHELL.change(change("true", uploads=str(folder)))).returncode != 0
    assert not folder.exists()


def test_what_was_brought_there_is_gone_when_the_change_is_killed(
    sh: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxc_ops.prep.shells.sh._STRAGGLER_S", 0)
    folder = tmp_path / "brought"
    folder.mkdir()
    script = SHELL.change(change(measured={"added": "sleep 300"}, uploads=str(folder), deadline_s=1))
    done = sh.start(script)
    assert done.stdout is not None and done.stderr is not None
    done.stdout.close()
    done.stderr.close()
    done.wait(timeout=20)
    assert not folder.exists()


def test_a_change_waits_for_one_that_is_still_at_work(sh: Shell, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = sh.start(SHELL.change(change(f"until test -e {quote(str(gate))}; do sleep 0.01; done")))
    await_true((sh.state / "receipts/an.item.json").exists, "no record")
    second = sh.start(SHELL.change(change(f"test -e {quote(str(gate))}")))
    gate.touch()
    assert (first.wait(timeout=20), second.wait(timeout=20)) == (0, 0)


def test_a_change_that_waited_in_vain_says_for_what(
    sh: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    first = sh.start(SHELL.change(change(f"until test -e {quote(str(gate))}; do sleep 0.01; done")))
    await_true((sh.state / "receipts/an.item.json").exists, "no record")
    monkeypatch.setattr("mxc_ops.prep.shells.sh._STRAGGLER_S", 1)
    touch = f"touch {quote(str(tmp_path / 'touched'))}"
    for script in (SHELL.change(change(touch)), SHELL.reversal(change(touch))):
        second = sh(script)
        assert second.returncode == HELD_BY_ANOTHER
        assert "waited 1 s in vain for a change that an interrupted preparation" in second.stdout
    assert not (tmp_path / "touched").exists()
    gate.touch()
    assert first.wait(timeout=20) == 0


def test_a_kill_at_any_moment_leaves_a_record_that_parses(sh: Shell) -> None:
    """SIGKILL for everything at once, as a power failure has it but for the disk."""
    big = Receipt("an.item", "an.operation", {"text": "x" * 20_000})
    script = SHELL.change(change("true", receipt=big, measured={"lines": "echo measured"}))
    states: set[str] = set()
    give_up = time.monotonic() + 60
    while states != {"pending", "complete"}:
        assert time.monotonic() < give_up, f"no kill left another record than {states}"
        begun = time.monotonic()
        assert sh(script).returncode == 0
        whole_s = time.monotonic() - begun
        for moment in range(24):
            states |= _state_after_a_kill(sh, script, whole_s * moment / 20)
    assert sh(script).returncode == 0
    assert sh.files() == ["an.item.json"]


def _state_after_a_kill(sh: Shell, script: str, moment_s: float) -> set[str]:
    """What the record says, where there was one and the script was still at work."""
    record = sh.state / "receipts/an.item.json"
    record.unlink(missing_ok=True)
    child = sh.start(script)
    time.sleep(moment_s)
    _kill(child)
    left = {sh.receipt().state} if record.exists() else set[str]()
    return left if child.returncode == -signal.SIGKILL else set()


def _kill(child: subprocess.Popen[str]) -> None:
    for pid in _tree(child.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.communicate()


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
