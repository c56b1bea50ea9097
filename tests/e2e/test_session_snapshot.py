"""Snapshots: kept under a name, copies start from them, and a sandbox that was stopped goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.errors import ConfigError, LaunchFailed, LifecycleError, MxcError, PolicyRefused
from mxc_ops import Policy, Session
from mxc_ops.session.service import Sessions
from tests.e2e.commands import Commands
from tests.e2e.sessions import told, until
from tests.images import image

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="containers are started by root alone")
DEADLINE_S = 60
KILLS = 60 if os.environ.get("MXC_SOAK") else 6
KINDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param != "bubblewrap":
        image("base")
    return request.param


def refused(kind: type[MxcError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return caught.value.problems[0].code


@as_root
def test_what_was_kept_is_there_again(kind: str, tmp_path: Path) -> None:
    granted = tmp_path / "granted"
    granted.mkdir()
    (granted / "file").write_text("granted\n")
    service = Sessions()
    with Session.open(Policy(containment=kind, read_only=[granted])) as session:
        told(session, "echo one > /tmp/state")
        first = session.snapshot()
        told(session, "echo two > /tmp/state")
        session.snapshot("second")
        told(session, "echo three > /tmp/state")
        assert [one.name for one in session.snapshots()] == ["1", "second"]
        assert (first.name, first.why) == ("1", "")
        assert 0 < first.disk_bytes < 512 << 20
        inspected = service.inspect(session.id)["snapshots"]
        assert [one["name"] for one in inspected] == ["1", "second"]
        assert inspected[0]["diskBytes"] == first.disk_bytes
        forked = session.fork(2, snapshot="1")
        try:
            expected = b"one\ngranted\n"
            assert [told(copy, f"cat /tmp/state {granted}/file") for copy in forked.sessions] == [
                expected
            ] * 2
        finally:
            for copy in forked.sessions:
                copy.close()
        session.stop()
        with session.fork(snapshot="second").sessions[0] as copy:
            assert told(copy, "cat /tmp/state") == b"two\n", "the original need not run"
        session.start("1")
        assert told(session, f"cat /tmp/state {granted}/file") == b"one\ngranted\n"
        session.stop()
        session.remove_snapshot("1")
        assert refused(LifecycleError, lambda: session.start("1")) == "no_snapshot"
        assert refused(LifecycleError, lambda: session.remove_snapshot("1")) == "no_snapshot"
        session.start()
        assert session.exec("cat /tmp/state").exit_code == 1, "without one, it begins anew"
        assert [one.name for one in session.snapshots()] == ["second"]
        path = Path(service.store.open(session.id).path)
        assert path.stat().st_mode & 0o077 == 0
        assert all(one.stat().st_mode & 0o077 == 0 for one in path.rglob("*"))
    assert not path.exists(), "they go with their sandbox"


@as_root
@pytest.mark.backend("bubblewrap")
def test_shells_that_start_commands_come_to_rest() -> None:
    """One that is stopped in the middle of a start keeps whoever started it from standing still."""
    with Session.open("bubblewrap") as session:
        for _ in range(3):
            session.detach(["sh", "-c", "while :; do /bin/true; done"])
        for _ in range(10 * KILLS):
            session.remove_snapshot(session.snapshot().name)


@as_root
@pytest.mark.backend("vm")
def test_what_runs_in_a_machine_goes_on_where_it_was_also_from_standing_still() -> None:
    image("base")
    with Session.open(Policy(containment="vm")) as session:
        session.detach(["sh", "-c", "while :; do echo tick >> /tmp/ticks; sleep 0.05; done"])
        until(lambda: session.exec("test -s /tmp/ticks").exit_code == 0)
        session.suspend()
        session.snapshot("still")
        with session.fork().sessions[0] as copy:
            count = int(told(copy, "wc -l < /tmp/ticks"))
            until(lambda: int(told(copy, "wc -l < /tmp/ticks")) > count)
        assert refused(LifecycleError, lambda: session.exec("true")) == "suspended"
        session.resume()
        assert told(session, "echo on") == b"on\n"
        session.stop()
        session.start("still")
        count = int(told(session, "wc -l < /tmp/ticks"))
        until(lambda: int(told(session, "wc -l < /tmp/ticks")) > count)
        assert abs(float(told(session, "date +%s.%N")) - time.time()) < 30


@as_root
@pytest.mark.backend("bubblewrap")
def test_what_cannot_be_kept_or_used_says_why() -> None:
    service = Sessions()
    with Session.open(Policy(containment="bubblewrap")) as session:
        session.snapshot("one")
        assert refused(PolicyRefused, lambda: session.snapshot("one")) == "snapshot_taken"
        for name in ("../one", ".hidden", "a/b", "A"):
            assert refused(ConfigError, lambda name=name: session.snapshot(name)) == "name_malformed"
            assert refused(ConfigError, lambda name=name: session.remove_snapshot(name)) == "name_malformed"
        assert refused(LifecycleError, lambda: session.start("one")) == "already_started"
        folder = Path(service.store.open(session.id).path) / "snapshots/one"
        whole = (folder / "private").read_bytes()
        (folder / "private").write_bytes(whole[:-1])
        assert refused(LaunchFailed, lambda: session.fork(snapshot="one")) == "snapshot_broken"
        (folder / "private").write_bytes(whole)
        record = json.loads((folder / "snapshot.json").read_text())
        (folder / "snapshot.json").write_text(json.dumps({**record, "schemaVersion": 99}))
        assert refused(LaunchFailed, lambda: session.fork(snapshot="one")) == "snapshot_broken"
        assert "another version" in session.snapshots()[0].why
        (folder / "snapshot.json").unlink()
        (folder / "snapshot.json").symlink_to("/etc/passwd")
        assert session.snapshots()[0].why
        session.remove_snapshot("one")
        session.stop()
        assert refused(LifecycleError, session.snapshot) == "not_started"
        assert Sessions().inspect(session.id)["snapshots"] == []


@as_root
@pytest.mark.backend("bubblewrap")
def test_who_is_killed_in_the_middle_leaves_nothing_half() -> None:
    source = "import sys; from mxc_ops import Session; Session.attach(sys.argv[1]).snapshot(sys.argv[2])"
    with Session.open(Policy(containment="bubblewrap")) as session:
        told(session, "head -c 30000000 /dev/urandom > /tmp/much")
        place = Path(Sessions().store.open(session.id).path) / "snapshots"
        for number in range(KILLS):
            maker = subprocess.Popen([sys.executable, "-c", source, session.id, f"n{number}"])
            until(lambda maker=maker: list(place.glob(".new-*")) or maker.poll() is not None)
            time.sleep(0.004 * number)
            maker.send_signal(signal.SIGKILL)
            maker.wait()
        for one in session.snapshots():
            assert one.why == ""
            with session.fork(snapshot=one.name).sessions[0] as copy:
                assert told(copy, "stat -c %s /tmp/much") == b"30000000\n"
        Sessions().gc()
        assert {one.name for one in place.iterdir()} == {one.name for one in session.snapshots()}
        assert told(session, "echo alive") == b"alive\n"


@pytest.mark.backend("bubblewrap")
def test_on_the_command_line(caller: Commands) -> None:
    def ops(*words: str, code: int = 0) -> str:
        done = caller.run("mxc-ops", "session", *words)
        assert done.returncode == code, done.stderr
        return done.stdout

    original = ops("provision", "--backend", "bubblewrap").strip()
    made: list[str] = []
    try:
        ops("start", original)
        ops("exec", original, "--", "sh", "-c", "echo kept > /tmp/kept")
        assert ops("snapshot", original) == "1\n"
        told = json.loads(ops("snapshot", original, "--name", "named", "--json"))
        assert (told["name"], told["copied"], told["shared"]) == ("named", ["/tmp", "/dev/shm"], [])
        ops("exec", original, "--", "rm", "/tmp/kept")
        made += ops("fork", original, "--from", "named").split()
        assert ops("exec", made[0], "--", "cat", "/tmp/kept") == "kept\n"
        ops("stop", original)
        ops("start", original, "--from", "1")
        assert ops("exec", original, "--", "cat", "/tmp/kept") == "kept\n"
        ops("snapshot", original, "--remove", "1")
        assert [one["name"] for one in json.loads(ops("inspect", original))["snapshots"]] == ["named"]
        ops("fork", original, "--from", "1", code=1)
    finally:
        ops("deprovision", original, *made)
