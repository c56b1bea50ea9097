"""Copying back that is killed, or runs out of room: each file is old or new, and recovery ends it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.guest_files.recover import recover
from tests.conftest import CHECKOUT, User
from tests.unit.guest_files import RW, File, Link, Run, Tree, build, host_tree

_KILLS = 100 if os.environ.get("MXC_SOAK") == "1" else 10

_COPY_BACK = """
import sys
from pathlib import Path
from tests.unit.guest_files import RW, Run
from tests.e2e.test_guest_files_crash import after

run = Run((Path(sys.argv[1]), RW), journals=Path(sys.argv[2]))
run.guest = after()
print("copying", flush=True)
sys.stdin.readline()
print(run.back())
"""


def before() -> Tree:
    files: Tree = {f"d{n % 7}/f{n}": File(b"old %d" % n * 50) for n in range(150)}
    directories: Tree = {"": 0o755, **{f"d{n}": 0o755 for n in range(7)}}
    return directories | files | {"link": Link("d1/f1"), "turns": File(b"into a directory"), "quiet": 0o555}


def after() -> Tree:
    tree = before()
    for n in range(0, 150, 2):
        tree[f"d{n % 7}/f{n}"] = File(b"new %d" % n * 60, 0o600)
    for n in range(1, 150, 10):
        del tree[f"d{n % 7}/f{n}"]
    tree |= {f"n{n}": 0o750 for n in range(5)}
    tree |= {f"n{n % 5}/f{n}": File(b"made %d" % n) for n in range(100)}
    return tree | {"link": Link("elsewhere"), "turns": 0o755, "turns/x": File(b"x"), "quiet/made": File(b"q")}


def copying(top: Path, journals: Path) -> subprocess.Popen[str]:
    """A process that is about to copy back; it begins with the next line of its input."""
    child = subprocess.Popen(
        [sys.executable, "-c", _COPY_BACK, str(top), str(journals)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "copying\n"
    return child


def begin(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def check_each_is_old_or_new(top: Path) -> None:
    old, new, now = before(), after(), host_tree(top)
    for path in {*old, *new} - {"quiet", "turns"}:
        if isinstance(old.get(path, new.get(path)), int):
            continue  # directories are opened for a while
        assert now.get(path) in (old.get(path), new.get(path)), path


def test_killed_at_any_moment_and_completed_by_the_next_start(tmp_path: Path) -> None:
    dice = random.Random(4)
    outcomes: set[str] = set()
    for attempt in range(_KILLS):
        folder = tmp_path / str(attempt)
        top, journals = folder / "grant", folder / "journals"
        folder.mkdir()
        journals.mkdir()
        build(top, before())
        child = copying(top, journals)
        begin(child)
        time.sleep(dice.uniform(0, 0.12))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        check_each_is_old_or_new(top)
        found = recover(str(journals))
        outcomes |= {each.outcome for each in found}
        assert len(found) <= 1
        assert all(not each.conflicts and not each.missing for each in found)
        now = host_tree(top)
        assert now in (before(), after())
        if found and found[0].outcome == "completed":
            assert now == after()
        assert not list(journals.iterdir())
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        assert recover(str(journals)) == ()
    assert outcomes <= {"completed", "rolled back"}


def test_stopped_after_each_single_step_and_completed(tmp_path: Path) -> None:
    """Every step of the way in turn: the process is ended by its n-th call that changes files."""
    for stop in range(1, 400, 7 if _KILLS == 100 else 61):
        folder = tmp_path / str(stop)
        top, journals = folder / "grant", folder / "journals"
        folder.mkdir()
        journals.mkdir()
        build(top, before())
        source = _COPY_BACK.replace("sys.stdin.readline()", f"stop_after({stop})")
        child = subprocess.run(
            [sys.executable, "-c", _STOPPER + source, str(top), str(journals)],
            env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode in (0, 9), child.stderr
        check_each_is_old_or_new(top)
        recover(str(journals))
        assert host_tree(top) in ((after(),) if child.returncode == 0 else (before(), after()))
        assert not list(journals.iterdir())
        assert not list(folder.glob(".*"))


_STOPPER = """
import os
from backends.guest_files import apply, beneath

def stop_after(count):
    left = [count]

    def counted(call):
        def instead(*args, **settings):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return call(*args, **settings)
        return instead

    for module, name in [
        *((apply, name) for name in ("exchange", "rename_new")),
        *((os, name) for name in ("mkdir", "rmdir", "chmod", "unlink")),
    ]:
        setattr(module, name, counted(getattr(module, name)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize(("room_kib", "fits"), [(200, False), (4096, True)])
def test_a_full_disk_is_named_and_leaves_the_old_files(tmp_path: Path, room_kib: int, fits: bool) -> None:
    (tmp_path / "small").mkdir()
    script = f"""
import subprocess, json
from pathlib import Path
from backends.errors import CopyBackFailed
from tests.unit.guest_files import RW, File, Run, build, host_tree
small = Path({str(tmp_path / "small")!r})
subprocess.run(["mount", "-t", "tmpfs", "-o", "size={room_kib}k", "small", small], check=True)
build(small / "grant" if (small / "grant").mkdir() is None else small, {{"": 0o755, "a": File(b"1" * 50000)}})
old = host_tree(small / "grant")
run = Run((small / "grant", RW), journals=Path({str(tmp_path / "journals")!r}))
run.guest |= {{"a": File(b"2" * 60000), **{{f"n{{n}}": File(b"3" * 30000) for n in range(10)}}}}
try:
    run.back()
    code = "done"
except CopyBackFailed as error:
    code = error.problems[0].code
    assert error.retryable and error.fix
    assert host_tree(small / "grant") == old
    assert sorted(path.name for path in small.iterdir()) == ["grant"]
print(json.dumps([code, sorted(path.name for path in (small / "grant").iterdir())]))
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script],
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, names = json.loads(done.stdout)
    assert code == ("done" if fits else "no_space_for_results")
    assert names == (["a", *(f"n{n}" for n in range(10))] if fits else ["a"])
    assert not list((tmp_path / "journals").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system below the grant")
def test_a_mount_below_the_grant_is_changed_on_its_own_file_system(tmp_path: Path) -> None:
    (tmp_path / "grant" / "m").mkdir(parents=True)
    script = f"""
import subprocess
from pathlib import Path
from tests.unit.guest_files import RW, File, Run, host_tree
top = Path({str(tmp_path / "grant")!r})
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "below", top / "m"], check=True)
(top / "m" / "d").mkdir()
(top / "m" / "d" / "f").write_bytes(b"old")
(top / "m" / "gone").write_bytes(b"old")
(top / "m" / "d" / "f").chmod(0o644)
run = Run((top, RW), journals=Path({str(tmp_path / "journals")!r}))
run.guest |= {{"m/d/f": File(b"new"), "m/d/n": File(b"made"), "outer": File(b"o"), "m/x": 0o755,
    "m/x/y": File(b"deep")}}
del run.guest["m/gone"]
answer = run.back()
assert not answer.conflicts and not answer.warnings, answer
assert host_tree(top) == {{**run.guest, "": 0o755}}, host_tree(top)
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script],
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_ten_thousand_files(tmp_path: Path) -> None:
    top = tmp_path / "grant"
    build(top, {"": 0o755, **{f"d{n}": 0o755 for n in range(100)}})
    for n in range(10_000):
        (top / f"d{n % 100}" / f"f{n}").write_bytes(b"%d" % n)
    run = Run((top, RW), journals=tmp_path / "journals")
    assert len(run.guest) == 10_101
    run.guest |= {f"d{n % 100}/f{n}": File(b"changed %d" % n) for n in range(0, 10_000, 50)}
    answer = run.back()
    assert answer.changed == 200
    assert host_tree(top) == run.guest
    run.handles.close()


def test_a_user_without_rights_copies_in_and_back(as_user: User) -> None:
    """Read-only files, unwritable directories, somebody else's files: with no more than a user may do."""
    script = """
import os
from pathlib import Path
from tests.unit.guest_files import RW, File, Link, Run, build, host_tree
home = Path(os.environ["HOME"])
top = home / "grant"
build(top, {"": 0o755, "ro": File(b"1", 0o444), "closed": 0o555, "closed-2": 0o700, "closed-2/f": File(b"2"),
    "secret": File(b"3", 0o000)})
(top / "closed-2").chmod(0o500)
(top / "sp ace\\nline-\\udcff-\\u00fc").write_bytes(b"4")
run = Run((top, RW), journals=home / "journals")
assert run.guest["secret"] == File(b"", 0)
run.guest |= {"ro": File(b"changed", 0o444), "closed-2/f": File(b"changed"), "closed/n": File(b"new"),
    "sp ace\\nline-\\udcff-\\u00fc": File(b"odd"), "l": Link("\\udcfe")}
answer = run.back()
assert not answer.conflicts, answer
now = host_tree(top) if os.chmod(top / "secret", 0o400) is None else {}
assert now["secret"] == File(b"3", 0o400)
del now["secret"], run.guest["secret"]
assert now == run.guest, now
"""
    done = as_user_with_tests(as_user, script)
    assert done.returncode == 0, done.stderr


def as_user_with_tests(as_user: User, script: str) -> subprocess.CompletedProcess[str]:
    """The user's copy of the project has no tests: give it the one module that the script needs."""
    folder = as_user.tree / "tests" / "unit"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "guest_files.py").write_text((CHECKOUT / "tests" / "unit" / "guest_files.py").read_text())
    return as_user(script)


def test_files_of_others_stay_theirs_where_they_may_be_written(as_user: User, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("gives files away")
    shared = as_user.tree / "shared"
    shared.mkdir()
    build(shared, {"": 0o777, "theirs": File(b"old", 0o666), "closed": File(b"old", 0o644)})
    shared.chmod(0o1777)
    script = """
import os
from pathlib import Path
from tests.unit.guest_files import RW, File, Run, host_tree
top = Path(os.environ["HOME"]).parent / "shared"
run = Run((top, RW), journals=Path(os.environ["HOME"]) / "journals-2")
run.guest |= {"theirs": File(b"written by me", 0o666), "closed": File(b"evil", 0o644)}
answer = run.back()
assert (top / "theirs").read_bytes() == b"written by me"
assert (top / "theirs").stat().st_uid == 0
assert (top / "closed").read_bytes() == b"old"
[conflict] = answer.conflicts
assert Path(conflict.kept_as).read_bytes() == b"evil"
"""
    done = as_user_with_tests(as_user, script)
    assert done.returncode == 0, done.stderr


def test_a_file_granted_alone(tmp_path: Path) -> None:
    granted = tmp_path / "file"
    granted.write_bytes(b"old")
    run = Run((granted, RW), journals=tmp_path / "journals")
    run.guest[""] = File(b"new", 0o600)
    assert run.back().changed == 1
    assert (granted.read_bytes(), granted.stat().st_mode & 0o777) == (b"new", 0o600)
    run.handles.close()
    run = Run((granted, RW), journals=tmp_path / "journals")
    granted.write_bytes(b"the host was here")
    run.guest[""] = File(b"and the guest")
    [conflict] = run.back().conflicts
    assert granted.read_bytes() == b"the host was here"
    assert conflict.path == str(granted)
    assert Path(conflict.kept_as).parent == tmp_path
    assert Path(conflict.kept_as).read_bytes() == b"and the guest"
    run.handles.close()


def test_a_file_in_a_directory_that_may_not_be_changed_is_written_in_place(as_user: User) -> None:
    if os.geteuid() != 0:
        pytest.skip("gives files away")
    folder = as_user.tree / "etc"
    folder.mkdir()
    (folder / "conf").write_bytes(b"a long old content")
    os.chown(folder / "conf", as_user.uid, as_user.gid)
    inode = (folder / "conf").stat().st_ino
    run = Run((folder / "conf", RW), journals=folder.parent / "root-journals")
    run.guest[""] = File(b"short", 0o644)
    assert run.back().changed == 1
    assert (folder / "conf").read_bytes() == b"short"
    assert (folder / "conf").stat().st_ino == inode
    assert not list((folder.parent / "root-journals").iterdir())
    run.handles.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a user a second group")
def test_what_a_group_works_on_together_stays_the_groups(as_user: User) -> None:
    """Files keep their group, new ones get that of a directory that hands its own down."""
    group = as_user.uid + 1
    team = as_user.tree / "team"
    build(team, {"": 0o775, "old": File(b"old", 0o664), "sub": 0o775})
    for path in (team, team / "old", team / "sub"):
        os.chown(path, as_user.uid, group)
    (team / "sub").chmod(0o2775)
    script = f"""
import os
from pathlib import Path
from tests.unit.guest_files import RW, File, Run
top = Path({str(team)!r})
run = Run((top, RW), journals=Path(os.environ["HOME"]) / "journals-3")
run.guest |= {{"old": File(b"new", 0o664), "mine": File(b"", 0o664), "sub/new": File(b"", 0o664)}}
run.guest |= {{"sub/d": 0o775, "sub/d/new": File(b"", 0o664)}}
assert not run.back().conflicts
"""
    as_user_with_tests(as_user, "")  # for its copy of what the script needs
    subprocess.run(
        [as_user.python, "-c", script],
        env=as_user.environment,
        user=as_user.uid,
        group=as_user.gid,
        extra_groups=(group,),
        check=True,
    )
    assert (team / "old").read_bytes() == b"new"
    groups = {path: (team / path).stat().st_gid for path in ("old", "mine", "sub/new", "sub/d", "sub/d/new")}
    assert groups == {**dict.fromkeys(groups, group), "mine": as_user.gid}
    assert (team / "sub/d").stat().st_mode & 0o7777 == 0o2775
