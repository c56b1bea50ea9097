"""Containers of a user who is not root: what is kept unpacked, their sessions, grants by a group."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import User
from tests.images import image
from tests.security.host import processes, wait_until
from tests.unit.launching import launcher_path

pytestmark = pytest.mark.backend("lxc")

RUN = """
from mxc_ops import Policy, run
print(run(Policy(containment="lxc"), "echo ran; ls /usr/bin | wc -l").stdout.decode(), end="")
"""
TRY = """
from mxc_ops import MxcError, Policy, run
try:
    print(run(Policy(containment="lxc"), "true"))
except MxcError as error:
    print(error.problems[0].code, error.problems[0].fix)
"""
LASTING = """
import sys
from mxc_ops import Policy, run
place = sys.argv[1]
line = f"touch {place}/up; until [ -e {place}/go ]; do sleep 0.02; done; ls /usr/bin > /dev/null && echo done"
print(run(Policy(containment="lxc", read_write=[place]), line).stdout.decode(), end="")
"""
SESSION = """
import json, sys
from mxc_ops import Policy
from mxc_ops.session.session import Session
place = sys.argv[1]
policy = Policy(containment="lxc", read_write=[place], denied=[place + "/no"])
with Session.open(policy) as session:
    session.exec("echo kept > /tmp/left; echo new > " + place + "/new")
    lines = ("cat /tmp/left", "id -u", "cat " + place + "/no")
    answers = [session.exec(line).stdout.decode() for line in lines]
    answers.append(session.exec("tty", policy=session.policy(tty=True)).stdout.decode().strip())
    job = session.detach(["sh", "-c", "echo detached; exit 3"])["job"]
    answers += [session.wait(job)["status"] >> 8, session.log(job, "out")[0].decode()]
print(json.dumps(answers))
"""
GC = ["mxc-ops", "image", "gc", "--json"]


@pytest.fixture(scope="module", autouse=True)
def launcher() -> None:
    launcher_path()


@pytest.fixture
def somewhere(as_user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A data folder of the user's that nothing is in yet, as the environment that leads there."""
    image("base")
    data = as_user.home / tmp_path_factory.mktemp("data").name
    data.mkdir()
    in_memory(data, as_user, "512m")
    yield {"XDG_DATA_HOME": str(data)}
    if os.geteuid() == 0:
        subprocess.run(["umount", "--lazy", data], check=True)


def in_memory(folder: Path, owner: User, size: str) -> None:
    """Where it can be, to be spared the disk."""
    if os.geteuid() == 0:
        options = f"size={size},uid={owner.uid},gid={owner.gid},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "data", folder], check=True)


def unpacked(environment: dict[str, str]) -> list[str]:
    return sorted(path.name for path in Path(environment["XDG_DATA_HOME"], "mxc-ops/unpacked").glob("*"))


def ran(as_user: User, environment: dict[str, str]) -> None:
    done = as_user(RUN, env=environment)
    assert (done.stderr, done.stdout.startswith("ran\n")) == ("", True), done


def test_an_image_is_unpacked_once_and_is_nobodys_but_the_containers(
    as_user: User, somewhere: dict[str, str]
) -> None:
    ran(as_user, somewhere)
    [name] = unpacked(somewhere)
    folder = Path(somewhere["XDG_DATA_HOME"], "mxc-ops/unpacked", name)
    root = folder / "root"
    before = (root.stat(), folder.stat())
    assert before[0].st_uid not in (0, as_user.uid)
    assert (before[1].st_uid, before[1].st_mode & 0o777) == (as_user.uid, 0o700)
    assert {path.lstat().st_uid for path in (root / "etc").rglob("*")} == {before[0].st_uid}
    ran(as_user, somewhere)
    assert unpacked(somewhere) == [name]
    assert (root.stat().st_ino, root.stat().st_mtime_ns) == (before[0].st_ino, before[0].st_mtime_ns)


def test_who_come_first_at_once_unpack_it_once(as_user: User, somewhere: dict[str, str]) -> None:
    running = [as_user.popen(["python3", "-c", RUN], env=somewhere) for _ in range(4)]
    told = [child.communicate(timeout=60) for child in running]
    assert [out.startswith(b"ran\n") for out, _ in told] == [True] * 4, told
    assert len(unpacked(somewhere)) == 1


def test_who_is_killed_while_it_is_unpacked_leaves_no_half_of_it(
    as_user: User, somewhere: dict[str, str]
) -> None:
    for delay in (0.05, 0.2):
        child = as_user.popen([as_user.python, "-c", RUN], env=somewhere)
        wait_until(lambda: bool(unpacked(somewhere)), "nothing is unpacked")
        time.sleep(delay)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=20)
    wait_until(lambda: not [p for p in processes() if p.words[1:2] == ("unpack",)], "it goes on")
    ran(as_user, somewhere)
    removed = json.loads(as_user(GC, env=somewhere).stdout)["removed"]
    assert all(name.startswith(".going-") for name in removed)
    assert len(unpacked(somewhere)) == 1


def test_what_is_of_an_image_no_more_is_collected_unless_it_is_in_use(
    as_user: User, somewhere: dict[str, str]
) -> None:
    ran(as_user, somewhere)
    [name] = unpacked(somewhere)
    folder = Path(somewhere["XDG_DATA_HOME"], "mxc-ops/unpacked")
    assert json.loads(as_user(GC, env=somewhere).stdout)["removed"] == []
    place = folder.parent.parent / "place"
    place.mkdir()
    os.chown(place, as_user.uid, as_user.gid)
    child = as_user.popen([as_user.python, "-c", LASTING, place], env=somewhere)
    wait_until((place / "up").exists, "the container did not start")
    old = "0" * 64 + name[64:]
    (folder / name).rename(folder / old)
    assert json.loads(as_user(GC, env=somewhere).stdout)["removed"] == []
    assert unpacked(somewhere) == [old]
    (place / "go").touch()
    assert child.communicate(timeout=20)[0] == b"done\n"
    ran(as_user, somewhere)
    assert json.loads(as_user(GC, env=somewhere).stdout)["removed"] == [old]
    assert unpacked(somewhere) == [name]


def test_where_there_is_no_room_nothing_is_left_and_the_place_is_named(
    as_user: User, somewhere: dict[str, str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small file system takes root")
    data = somewhere["XDG_DATA_HOME"]
    in_memory(Path(data), as_user, "8m")
    try:
        done = as_user(TRY, env=somewhere)
        assert done.stdout == f"unpack_image df -h {data}/mxc-ops/unpacked\n", done
        assert unpacked(somewhere) == []
    finally:
        subprocess.run(["umount", data], check=True)


def test_grants_below_what_the_stage_covers_are_found(as_user: User) -> None:
    """The stage of a user is on a /run of its own."""
    if not os.access("/run/lock", os.W_OK):
        pytest.skip("there is no folder below /run for everybody")
    image("base")
    source = """
import os, tempfile
from mxc_ops import Policy, run
with tempfile.TemporaryDirectory(dir="/run/lock") as place:
    open(place + "/file", "w").write("content")
    open(place + "/no", "w").write("denied")
    policy = Policy(containment="lxc", read_write=[place], denied=[place + "/no"])
    done = run(policy, f"cd {place}; cat file; cat no; echo new > new; ls /run")
    print(done.stdout.decode().split(), open(place + "/new").read().strip())
"""
    done = as_user(source)
    assert done.stdout == "['contentlock'] new\n", done


def test_a_session_of_a_users(as_user: User, somewhere: dict[str, str]) -> None:
    place = Path(somewhere["XDG_DATA_HOME"], "place")
    place.mkdir()
    (place / "no").write_text("denied\n")
    for path in (place, place / "no"):
        os.chown(path, as_user.uid, as_user.gid)
    done = as_user([as_user.python, "-c", SESSION, place], env=somewhere)
    assert done.stdout, done
    assert json.loads(done.stdout) == ["kept\n", "1000\n", "", "/dev/pts/0", 3, "detached\n"]
    assert (place / "new").read_text() == "new\n"
    assert (place / "new").stat().st_uid == as_user.uid
    assert as_user(["mxc-ops", "session", "list", "--json"], env=somewhere).stdout.count("lxc:") == 0


def test_a_grant_that_only_a_group_of_the_callers_leads_to_is_found(as_user: User) -> None:
    """Its folder is closed to the root of the container's namespace."""
    if os.geteuid() != 0:
        pytest.skip("giving somebody a group takes root")
    group = 61235
    closed = as_user.tree / "closed"
    (closed / "granted").mkdir(parents=True)
    (closed / "granted" / "file").write_text("content\n")
    os.chown(closed, 0, group)
    closed.chmod(0o750)
    source = f"""
import os
from mxc_ops import Policy, run
print(run(Policy(containment="lxc", read_only=["{closed}/granted"]), "cat {closed}/granted/file").stdout)
"""
    image("base")
    ids = ["setpriv", f"--reuid={as_user.uid}", f"--regid={as_user.gid}", f"--groups={group}"]
    done = subprocess.run(
        [*ids, as_user.python, "-c", source],
        env=dict(as_user.environment), cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "b'content\\n'\n", done
