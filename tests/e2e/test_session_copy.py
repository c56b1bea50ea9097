"""Copies into sandboxes that run, and out of them."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.errors import LaunchFailed, PolicyRefused
from mxc_ops import Policy
from mxc_ops.session.copying import Copied
from mxc_ops.session.session import Session
from tests.e2e.commands import Commands
from tests.e2e.containments import COMMON, Containment
from tests.images import image

SWAPS = 200 if os.environ.get("MXC_SOAK") else 20


@pytest.fixture(scope="module", params=COMMON)
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    containment: Containment = request.param
    if containment.own_system:
        image("base")
    with Session.open(Policy(containment=containment.name)) as opened:
        yield opened


@pytest.fixture
def inside(session: Session) -> str:
    """A new directory of the workload's."""
    return told(session, "mktemp -d").strip()


def told(session: Session, line: str) -> str:
    result = session.exec(line)
    assert result.exit_code == 0, result.stderr
    return result.stdout.decode()


def refused(error: pytest.ExceptionInfo[LaunchFailed]) -> str:
    return error.value.problems[0].message


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "deep/er").mkdir(parents=True)
    (top / "closed").mkdir()
    (top / "closed/c").write_text("c")
    (top / "closed").chmod(0o555)
    (top / "deep/er/big").write_bytes(os.urandom(700_001))
    (top / "name with\nodd 'characters'").write_text("x")
    (top / os.fsdecode(b"no utf-8 \xff")).write_text("x")
    (top / ("long" * 50)).write_text("x")
    (top / "link").symlink_to("/etc/hostname")
    (top / "run").write_text("#!/bin/sh\necho ran\n")
    (top / "run").chmod(0o4755)
    os.utime(top / "run", (1e9, 1_234_567_890.25))
    return top


def same(one: Path, other: Path) -> bool:
    """Names, contents, links."""
    return not subprocess.run(
        ["diff", "-r", "--no-dereference", one, other], stdout=subprocess.DEVNULL, check=False
    ).returncode


def test_a_tree_goes_in_and_comes_out(session: Session, inside: str, tree: Path, tmp_path: Path) -> None:
    copied = session.put(str(tree), inside)
    assert copied == Copied(700_001 + 4 + len("#!/bin/sh\necho ran\n"), 11)
    assert told(session, f"{inside}/tree/run") == "ran\n"
    stat = told(session, f"cd {inside}/tree; stat -c '%n %u %g %a %Y' run closed link deep/er; readlink link")
    lines = stat.splitlines()
    assert lines[0] == "run 1000 1000 755 1234567890"
    assert lines[1].startswith("closed 1000 1000 555 ")
    assert [line.split()[1:3] for line in lines[:4]] == [["1000", "1000"]] * 4
    assert lines[4] == "/etc/hostname"
    assert session.get(f"{inside}/tree", str(tmp_path / "back")) == copied
    assert same(tree, tmp_path / "back")
    back = (tmp_path / "back/run").stat()
    assert (back.st_uid, back.st_mtime) == (os.geteuid(), 1_234_567_890.25)
    assert (tmp_path / "back/closed").stat().st_mode & 0o7777 == 0o555
    assert (tmp_path / "back/link").readlink() == Path("/etc/hostname")


def test_where_things_go_is_as_with_cp(session: Session, inside: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_text("x")
    session.put(str(tmp_path / "one"), inside)
    session.put(str(tmp_path / "one"), f"{inside}/two")
    session.put(str(tmp_path / "d"), f"{inside}/new")
    session.put(str(tmp_path / "d"), f"{inside}/new")
    session.put(f"{tmp_path}/d/.", f"{inside}/new")
    session.put(str(tmp_path / "d") + "/", inside)
    assert told(session, f"cd {inside}; find . -type f | sort").split() == [
        *("./d/x", "./new/d/x", "./new/x", "./one", "./two"),
    ]
    out = tmp_path / "out"
    session.get(f"{inside}/new", str(out))
    session.get(f"{inside}/new/", str(out))
    session.get(f"{inside}/one", str(out))
    session.get(f"{inside}/one", f"{out}/two")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        *("d/x", "new/d/x", "new/x", "one", "two", "x"),
    ]


def test_directories_are_joined_and_files_replaced(session: Session, inside: str, tmp_path: Path) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/sub/x").write_text("new")
    told(session, f"mkdir -p {inside}/d/sub; cd {inside}/d/sub; echo old >x; echo kept >y")
    session.put(str(tmp_path / "d"), inside)
    assert told(session, f"cd {inside}/d/sub; cat x y") == "newkept\n"
    (tmp_path / "d/sub/x").write_text("old")
    (tmp_path / "d/sub/z").write_text("kept")
    session.get(f"{inside}/d", str(tmp_path))
    assert [(tmp_path / "d/sub" / name).read_text() for name in "xyz"] == ["new", "kept\n", "kept"]


def test_a_file_in_the_place_of_a_directory_is_refused(session: Session, inside: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("f")
    told(session, f"cd {inside}; echo >d; mkdir f; mkdir dir; ln -s dir link")
    for name in ("d", "f"):
        with pytest.raises(LaunchFailed) as caught:
            session.put(str(tmp_path / name), inside)
        assert f"{inside}/{name}'" in refused(caught)
        with pytest.raises(LaunchFailed) as caught:
            session.get(f"{inside}/{name}", str(tmp_path))
        assert f"{tmp_path}/{name}'" in refused(caught)
    for path in (f"{inside}/link", f"{inside}/link/x"):
        with pytest.raises(LaunchFailed, match="symbolic link"):
            session.put(str(tmp_path / "f"), path)
        with pytest.raises(LaunchFailed, match="symbolic link"):
            session.get(path, str(tmp_path / "new"))
    assert told(session, f"ls {inside}/dir") == ""
    assert not (tmp_path / "new").exists()


def test_what_is_not_there_is_named(session: Session, inside: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    with pytest.raises(LaunchFailed) as caught:
        session.get(f"{inside}/nothing", str(tmp_path))
    assert f"{inside}/nothing' cannot be copied: No such file" in refused(caught)
    with pytest.raises(LaunchFailed) as caught:
        session.put(str(tmp_path / "f"), f"{inside}/no/where")
    assert f"{inside}/no' is no directory" in refused(caught)
    with pytest.raises(LaunchFailed) as caught:
        session.put(str(tmp_path / "nothing"), inside)
    assert "/nothing' cannot be copied: No such file" in refused(caught)
    with pytest.raises(LaunchFailed) as caught:
        session.get("/dev/null", str(tmp_path))
    assert "'/dev/null' is neither a file nor a directory" in refused(caught)
    with pytest.raises(LaunchFailed) as caught:
        session.get(inside, f"{tmp_path}/no/where")
    assert "/no/where' cannot be copied: No such file" in refused(caught)


def test_sizes_are_bounded_both_ways(session: Session, inside: str, tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate((1 << 20) + 1)
    told(session, f"truncate -s 1G {inside}/sparse")
    with pytest.raises(PolicyRefused, match="--max"):
        session.put(str(tmp_path / "big"), inside, max_mib=1)
    with pytest.raises(PolicyRefused, match="--max"):
        session.get(inside, str(tmp_path / "out"), max_mib=1)
    assert told(session, f"ls {inside}") == "sparse\n"
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_commands_run_meanwhile(session: Session, inside: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(8 << 20))
    results: list[object] = []

    def run() -> None:
        results.extend(session.exec(["true"]).exit_code for _ in range(5))

    running = threading.Thread(target=run)
    running.start()
    session.put(str(tmp_path / "big"), inside)
    session.get(f"{inside}/big", str(tmp_path / "back"))
    running.join()
    assert results == [0] * 5
    assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()


def test_a_workload_that_exchanges_directories_for_links_gains_nothing(
    session: Session, inside: str, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_text("x")
    told(session, f"cd {inside}; mkdir -p t/d outside; echo secret >outside/secret")
    swap = f"cd {inside}/t; while :; do mv d e; ln -s ../outside d; rm d; mv e d; done"
    job = session.detach(["/bin/sh", "-c", swap])["job"]
    try:
        for turn in range(SWAPS):
            for work in (
                lambda: session.put(str(tmp_path / "d"), f"{inside}/t"),
                lambda turn=turn: session.get(f"{inside}/t/d", f"{tmp_path}/{turn}"),
            ):
                try:
                    work()
                except LaunchFailed:
                    continue  # it was away just then
    finally:
        session.kill(job, 9)
        session.wait(job)
    assert told(session, f"ls {inside}/outside") == "secret\n"
    assert list(tmp_path.rglob("secret")) == []


def test_a_workload_is_not_got_around(session: Session, tmp_path: Path) -> None:
    """An unprivileged agent can write where its workload can; that of a machine is not the host's either."""
    (tmp_path / "f").write_text("f")
    if session.id.startswith("vm:"):
        pytest.skip("a machine's agent has the rights of its root")
    with pytest.raises(LaunchFailed) as caught:
        session.put(str(tmp_path / "f"), "/usr/f")
    assert "'/usr/f' cannot be copied: " in refused(caught)


@pytest.mark.backend("bubblewrap")
def test_what_is_denied_cannot_be_copied(tmp_path: Path) -> None:
    for name in ("shared/open", "shared/secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "f").write_text(name)
    (tmp_path / "f").write_text("f")
    (tmp_path / "shared/open/key").write_text("key")
    shared, secret = str(tmp_path / "shared"), str(tmp_path / "shared/secret")
    denied = [secret, f"{shared}/open/key"]
    with Session.open(Policy(containment="bubblewrap", read_only=[shared], denied=denied)) as session:
        session.get(shared, str(tmp_path / "out"))
        got = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
        assert got == ["open", "open/f", "secret"]
        assert (tmp_path / "out/open/f").read_text() == "shared/open"
        with pytest.raises(LaunchFailed):
            session.get(f"{secret}/f", str(tmp_path / "leak"))
        with pytest.raises(LaunchFailed, match="Read-only"):
            session.put(str(tmp_path / "f"), f"{shared}/open")


# --- on the command line


@pytest.mark.backend("bubblewrap")
def test_on_the_command_line(somebody: Commands) -> None:
    caller = somebody
    provisioned = caller.run("mxc-ops", "session", "provision", "--backend", "bubblewrap")
    sandbox = provisioned.stdout.strip()
    try:
        assert caller.run("mxc-ops", "session", "start", sandbox).returncode == 0
        file = caller.folder / "home" / "f"
        file.write_text("content")
        file.chmod(0o644)
        put = caller.run("mxc-ops", "session", "cp", file, f"{sandbox}:/tmp/g")
        assert (put.returncode, put.stdout, put.stderr) == (0, "", "")
        got = caller.run("mxc-ops", "session", "cp", "--json", f"{sandbox}:/tmp/g", caller.folder / "back")
        assert '"bytes": 7' in got.stdout
        assert (caller.folder / "back").read_text() == "content"
        assert (caller.folder / "back").stat().st_uid == caller.home.stat().st_uid
        file.chmod(0)
        closed = caller.run("mxc-ops", "session", "cp", caller.folder / "home", f"{sandbox}:/tmp/h")
        assert closed.returncode == 1
        assert "home/f' cannot be read: Permission denied" in closed.stderr
        assert caller.run("mxc-ops", "session", "exec", sandbox, "--", "ls", "/tmp").stdout == "g\n"
        for wrong in (
            (file, "/tmp/x"),
            (f"{sandbox}:/a", f"{sandbox}:/b"),
            ("--max", "0", file, f"{sandbox}:/x"),
        ):
            assert caller.run("mxc-ops", "session", "cp", *wrong).returncode == 64
    finally:
        assert caller.run("mxc-ops", "session", "deprovision", sandbox).returncode == 0
