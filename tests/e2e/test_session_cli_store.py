"""What `mxc-ops session` tells of a store, and how it puts one right: `list`, `gc`, `fork` of all or none.

The store is the test's own: it must have nothing in it that the test did not put there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mxc_ops.session.record import SCHEMA_VERSION
from tests.e2e.commands import Commands, wait_until
from tests.e2e.session_commands import SessionCommands

pytestmark = pytest.mark.backend("bubblewrap")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can mount a small disk")


@pytest.fixture
def places(somebody: Commands) -> Iterator[Path]:
    """The folder with a user's `state` and `run`."""
    folder = somebody.folder / "places"
    for path in (folder, folder / "state", folder / "run"):
        path.mkdir(mode=0o700)
        somebody.own(path)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def ops(somebody: Commands, places: Path) -> Iterator[SessionCommands]:
    env = {"XDG_STATE_HOME": str(places / "state"), "XDG_RUNTIME_DIR": str(places / "run")}
    made = SessionCommands(somebody, env)
    yield made
    _clear(made)


def _clear(ops: SessionCommands) -> None:
    """Those of commands that should have failed, too."""
    if left := [one["id"] for one in ops.json("list")["sandboxes"]]:
        ops("deprovision", *left)


def _folder(places: Path, identifier: str) -> Path:
    return places / "state/mxc-ops/sessions" / identifier.partition(":")[2]


def test_the_list_is_a_table_of_ids_names_containments_and_states(ops: SessionCommands) -> None:
    assert ops("list").split() == ["id", "name", "containment", "state", "last", "used"]
    assert ops.json("list")["sandboxes"] == []
    still = ops.running("--name", "still")
    runs = ops.running("--name", "runs")
    kept = ops.provision()
    ops("suspend", "still")
    lines = ops("list").splitlines()
    head, *rows = [re.split(r"  +", line) for line in lines]
    assert head == ["id", "name", "containment", "state", "last used"]
    states = {still: "suspended", runs: "running", kept: "provisioned"}
    expected = {still: "still", runs: "runs", kept: "-"}
    assert sorted(row[:4] for row in rows) == sorted(
        [one[: len("bwrap:") + 12], name, "bubblewrap", states[one]] for one, name in expected.items()
    )
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row[4]) for row in rows)
    assert len({line.index(row[3]) for line, row in zip(lines[1:], rows, strict=True)}) == 1, "columns"
    told = ops.json("list")
    assert {one["id"]: one["state"] for one in told["sandboxes"]} == states
    assert {one["id"]: one["name"] for one in told["sandboxes"]} == expected | {kept: ""}
    assert {one["containment"] for one in told["sandboxes"]} == {"bubblewrap"}
    assert told["unreadable"] == []
    for row in rows:
        assert ops.json("inspect", row[0])["state"] == row[3], "what is shown of an id is enough of it"
    ops("deprovision", still, runs, kept)
    assert ops.json("list")["sandboxes"] == []


def test_the_list_on_a_terminal_has_the_same_in_it(ops: SessionCommands) -> None:
    ops.provision("--name", "web")
    code, shown = ops.on_a_terminal("list")
    assert code == 0
    assert re.search(r"bwrap:[0-9a-f]{12} +web +bubblewrap +provisioned ", shown), shown


def _corrupt(record: Path) -> None:
    record.write_text(record.read_text()[:-20])


def _newer(record: Path) -> None:
    told = json.loads(record.read_text())
    assert told["schemaVersion"] == SCHEMA_VERSION
    # What a later version means by it nobody knows here: nothing of it may be believed.
    record.write_text(json.dumps(told | {"schemaVersion": SCHEMA_VERSION + 1, "state": "hovering"}))


@pytest.mark.parametrize(("spoil", "reason"), [(_corrupt, "corrupt"), (_newer, "newer")])
def test_a_record_that_cannot_be_read_is_told_kept_and_removed_by_force_alone(
    ops: SessionCommands, places: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    good, bad = ops.provision("--name", "good"), ops.provision("--name", "bad")
    folder = _folder(places, bad)
    spoil(folder / "record.json")
    before = (folder / "record.json").read_bytes()

    listed = ops.run("list")
    assert (listed.returncode, bad[:12] in listed.stdout, good[:12] in listed.stdout) == (0, False, True)
    assert str(folder) in listed.stderr
    told = ops.json("list")
    assert [one["id"] for one in told["sandboxes"]] == [good]
    assert [(one["path"], one["reason"]) for one in told["unreadable"]] == [(str(folder), reason)]
    assert told["unreadable"][0]["why"] in listed.stderr

    for phase in ("start", "stop", "deprovision", "inspect"):
        for text in (bad, "bad"):
            done = ops.run(phase, text)
            assert (done.returncode, done.stdout, str(folder) in done.stderr) == (1, "", True), phase
    swept = ops.run("gc")
    assert (swept.returncode, swept.stdout, str(folder) in swept.stderr) == (0, "", True)
    told = ops.json("gc")
    assert (told["removed"], [one["path"] for one in told["kept"]]) == ([], [str(folder)])
    assert (folder / "record.json").read_bytes() == before

    swept = ops.run("gc", "--force")
    assert (swept.returncode, swept.stderr) == (0, "")
    assert swept.stdout.splitlines() == [f"removed {folder}", f"removed {folder.parent}/.names/bad"]
    assert not folder.exists()
    told = ops.json("list")
    assert ([one["id"] for one in told["sandboxes"]], told["unreadable"]) == ([good], [])
    ops.provision("--name", "bad")
    told = ops.json("gc", "--force")
    assert (told["removed"], told["kept"]) == ([], []), "what can be read it leaves alone"
    assert ops.json("inspect", "good")["state"] == "provisioned"


def test_gc_makes_what_was_killed_startable_again(ops: SessionCommands) -> None:
    identifier = ops.running()
    pid = ops.json("inspect", identifier)["supervisor"]["pid"]
    os.kill(pid, 9)
    wait_until(lambda: ops.json("inspect", identifier)["state"] == "stale", "it is never stale")
    assert ops("exec", identifier, "--", "true", code=125) == ""
    ops("gc")
    told = ops.json("inspect", identifier)
    assert (told["state"], told["ended"]) == ("provisioned", "crashed")
    ops("start", identifier)
    assert ops("exec", identifier, "--", "echo", "again") == "again\n"


@pytest.fixture
def small(ops: SessionCommands, places: Path) -> Iterator[Callable[[int], None]]:
    """Sets how many more files there may be where sandboxes that run have their sockets."""
    run = places / "run"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700,nr_inodes=1000", "small", run], check=True)
    ops.caller.own(run)

    def leave(count: int) -> None:
        options = f"remount,nr_inodes={_files(run) + count}"
        subprocess.run(["mount", "-o", options, run], check=True)

    try:
        yield leave
    finally:
        leave(1000)
        _clear(ops)
        subprocess.run(["umount", run], check=True)


def _files(run: Path) -> int:
    there = os.statvfs(run)
    return there.f_files - there.f_ffree


@as_root
@pytest.mark.parametrize("snapshot", [False, True])
def test_of_copies_one_of_which_cannot_be_started_there_is_none(
    ops: SessionCommands, places: Path, small: Callable[[int], None], snapshot: bool
) -> None:
    original = ops.running()
    sockets = places / "run/mxc-ops/sessions"
    each = 1 + len(list((sockets / original.partition(":")[2]).rglob("*")))
    ops("exec", original, "--", "sh", "-c", "echo kept > /tmp/note")
    ops("snapshot", original, "--name", "then")
    words = ("--from", "then") if snapshot else ()
    # The last one's last file is the one for which there is no room: the others run by then.
    small(3 * each - 1)
    done = ops.run("fork", original, "3", *words)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "No space left on device" in done.stderr
    told = ops.json("list")
    assert ([one["id"] for one in told["sandboxes"]], told["unreadable"]) == ([original], [])
    assert [path.name for path in sockets.iterdir()] == [original.partition(":")[2]]
    assert ops.json("gc")["removed"] == [], "and nothing of them is left"
    assert ops("exec", original, "--", "cat", "/tmp/note") == "kept\n"

    small(1000)
    made = ops("fork", original, "3", *words).split()
    ops.made += made
    assert [ops("exec", one, "--", "cat", "/tmp/note") for one in made] == ["kept\n"] * 3
    assert [ops.json("inspect", one)["origin"] for one in made] == [original] * 3
    assert len(ops.json("list")["sandboxes"]) == 4


def test_fork_makes_at_least_one_copy_and_of_what_runs_alone(ops: SessionCommands) -> None:
    original = ops.provision()
    for count in ("0", "-1", "x"):
        assert ops("fork", original, count, code=64) == ""
    done = ops.run("fork", original, "2")
    assert (done.returncode, done.stdout, "is not running" in done.stderr) == (1, "", True)
    assert [one["id"] for one in ops.json("list")["sandboxes"]] == [original]
