"""The stage: granted objects mounted from their descriptors, with ids translated. Needs root."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.frozen import replace
from backends.inside.protocol import IdMap, StageMount, Step
from tests.unit.launching import SANDBOX_UID, Finished, run_outside

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts: run as root")
IDENTITY = (SANDBOX_UID, SANDBOX_UID)
OWNER = 1234


class Stage:
    """A stage directory and the descriptors opened for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mounts: list[StageMount] = []

    def grant(self, path: Path, *, read_only: bool = False, id_map: bool = True) -> StageMount:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        status = os.fstat(fd)
        ids = IdMap(status.st_uid, status.st_gid, *IDENTITY) if id_map else None
        kind = stat.S_IFMT(status.st_mode)
        mount = StageMount(fd, status.st_dev, status.st_ino, kind, read_only, ids)
        self.mounts.append(mount)
        return mount

    def run(self, script: str) -> Finished:
        """Run a shell as the sandbox's identity in the stage directory."""
        return run_outside(
            "/bin/bash", "-c", f"cd {self.directory}; {script}",
            stage=str(self.directory), mounts=tuple(self.mounts), identity=IDENTITY,
            pass_fds=tuple(mount.fd for mount in self.mounts),
        )  # fmt: skip

    def close(self) -> None:
        for mount in self.mounts:
            os.close(mount.fd)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    directory = tmp_path / "stage"
    directory.mkdir()
    stage = Stage(directory)
    yield stage
    stage.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A closed directory of `OWNER` with a closed file, and one of somebody else's."""
    tree = tmp_path / "closed" / "tree"
    tree.mkdir(parents=True)
    tree.parent.chmod(0o700)
    for name, owner in (("own", OWNER), ("other", OWNER + 1)):
        file = tree / name
        file.write_text(f"{name} content")
        file.chmod(0o600)
        os.chown(file, owner, owner)
    os.chown(tree, OWNER, OWNER)
    tree.chmod(0o700)
    return tree


def test_the_sandbox_reads_and_writes_as_the_owner_would(stage: Stage, tree: Path) -> None:
    stage.grant(tree)
    run = stage.run("cat 0/own; echo new > 0/new; stat -c %u:%g 0/new")
    assert run.stdout.decode() == f"own content{IDENTITY[0]}:{IDENTITY[1]}\n"
    made = (tree / "new").stat()
    assert (made.st_uid, made.st_gid) == (OWNER, OWNER)


def test_files_of_others_in_the_tree_stay_closed(stage: Stage, tree: Path) -> None:
    stage.grant(tree)
    run = stage.run("stat -c %u 0/other; cat 0/other")
    assert run.stdout == b"65534\n"
    assert b"Permission denied" in run.stderr


def test_a_read_only_grant_is_that_for_everything_in_it(stage: Stage, tree: Path) -> None:
    stage.grant(tree, read_only=True)
    run = stage.run("cat 0/own; echo x > 0/own; mkdir 0/d; chmod 644 0/own; rm -f 0/own")
    assert run.stdout == b"own content"
    assert run.stderr.count(b"Read-only file system") == 4
    assert (tree / "own").read_text() == "own content"


def test_every_mount_is_nosuid_and_nodev(stage: Stage, tree: Path) -> None:
    stage.grant(tree)
    stage.grant(tree / "own", read_only=True)
    run = stage.run(f"grep ' {stage.directory}' /proc/self/mountinfo")
    options = [line.split()[5].decode().split(",") for line in run.stdout.splitlines()]
    assert len(options) == 3  # the stage itself, too
    assert all({"nosuid", "nodev"} <= set(names) for names in options)


def test_single_files_and_sockets_can_be_granted(stage: Stage, tree: Path) -> None:
    os.mkfifo(tree / "pipe", 0o600)
    os.chown(tree / "pipe", OWNER, OWNER)
    stage.grant(tree / "own")
    stage.grant(tree / "pipe")
    run = stage.run("cat 0; echo more >> 0; test -p 1 && test -w 1 && echo fifo")
    assert run.stdout == b"own contentfifo\n"
    assert (tree / "own").read_text() == "own contentmore\n"


@pytest.mark.parametrize("change", ["inode", "device", "file_type"])
def test_an_object_that_is_not_the_one_checked_is_refused(stage: Stage, tree: Path, change: str) -> None:
    stage.grant(tree)
    mount = stage.grant(tree / "own")
    stage.mounts[1] = replace(mount, **{change: getattr(mount, change) ^ 0o010000})
    run = stage.run("echo ran")
    assert (run.failure.step, run.failure.index, run.failure.errno) == (Step.MOUNT_CHANGED, 1, errno.ESTALE)
    assert (run.stdout, run.exit_code) == (b"", 125)


def test_a_path_exchanged_after_the_check_changes_nothing(stage: Stage, tree: Path) -> None:
    secret = tree.parent / "secret"
    secret.mkdir()
    (secret / "own").write_text("secret")
    stage.grant(tree)
    tree.rename(tree.parent / "moved")
    tree.symlink_to(secret)
    assert stage.run("cat 0/own").stdout == b"own content"


def test_submounts_come_along_cut_off_from_the_hosts_later_mounts(stage: Stage, tree: Path) -> None:
    inner = tree / "inner"
    inner.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"uid={OWNER},mode=700,suid,dev", "none", inner], check=True
    )
    subprocess.run(["mount", "--make-shared", inner], check=True)
    try:
        (inner / "deep").write_text("deep content")
        os.chown(inner / "deep", OWNER, OWNER)
        stage.grant(tree)
        run = stage.run(f"cat 0/inner/deep; echo; grep ' {stage.directory}/0/inner ' /proc/self/mountinfo")
    finally:
        subprocess.run(["umount", inner], check=True)
    content, mount = run.stdout.decode().splitlines()
    assert content == "deep content"
    _, _, _, _, _, options, *propagation, _, _, _ = mount.split()
    assert {"nosuid", "nodev", "idmapped"} <= set(options.split(","))
    assert propagation == ["-"]


def test_owners_may_differ_from_grant_to_grant(stage: Stage, tmp_path: Path) -> None:
    for number in range(3):
        file = tmp_path / f"of-{number}"
        file.write_text(f"{number}")
        os.chown(file, OWNER + number % 2, OWNER + number % 2)
        file.chmod(0o600)
        stage.grant(file)
    assert stage.run("cat 0 1 2").stdout == b"012"


def test_a_filesystem_that_cannot_translate_ids_is_reported_by_position(stage: Stage, tree: Path) -> None:
    stage.grant(tree)
    stage.grant(Path("/proc/self/status"))
    failure = stage.run("echo ran").failure
    assert (failure.step, failure.index, failure.errno) == (Step.MOUNT_ID_MAP, 1, errno.EINVAL)


def test_without_an_id_map_ids_stay_what_they_are(stage: Stage, tree: Path) -> None:
    stage.grant(tree, id_map=False)
    run = stage.run("stat -c %u 0; cat 0/own")
    assert run.stdout == f"{OWNER}\n".encode()
    assert b"Permission denied" in run.stderr


def test_the_host_sees_neither_stage_nor_mounts(stage: Stage, tree: Path) -> None:
    stage.grant(tree)
    stage.run("touch 0/mark")
    assert (tree / "mark").exists()
    assert list(stage.directory.iterdir()) == []
    assert str(stage.directory) not in Path("/proc/self/mountinfo").read_text()


def test_two_hundred_grants_make_one_stage(stage: Stage, tree: Path) -> None:
    for _ in range(200):
        stage.grant(tree / "own", read_only=True)
    assert stage.run("cat * | wc -c").stdout == b"%d\n" % (200 * len("own content"))


def test_a_stage_directory_that_does_not_exist_is_an_error(stage: Stage, tree: Path) -> None:
    stage.grant(tree)
    stage.directory.rmdir()
    failure = stage.run("true").failure
    assert (failure.step, failure.errno) == (Step.STAGE_TMPFS, errno.ENOENT)


def test_bubblewrap_binds_the_stage_into_a_sandbox(stage: Stage, tree: Path) -> None:
    stage.grant(tree)
    stage.grant(tree / "own", read_only=True)
    run = run_outside(
        "/usr/bin/bwrap", "--unshare-user", "--unshare-all", "--uid", "1000", "--gid", "1000",
        "--disable-userns", "--cap-drop", "ALL", "--die-with-parent",
        "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
        "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev",
        "--bind", f"{stage.directory}/0", "/granted", "--ro-bind", f"{stage.directory}/1", "/one",
        "/bin/sh", "-c", "cat /granted/own /one; touch /granted/made; stat -c %u /granted/made; touch /one",
        stage=str(stage.directory), mounts=tuple(stage.mounts), identity=IDENTITY,
        pass_fds=tuple(mount.fd for mount in stage.mounts),
    )  # fmt: skip
    assert run.stdout == b"own contentown content1000\n"
    assert b"Read-only file system" in run.stderr
    assert (tree / "made").stat().st_uid == OWNER


def test_the_process_that_carried_a_user_namespace_is_gone(stage: Stage, tree: Path) -> None:
    stage.grant(tree)
    run = stage.run("read x < /proc/$$/task/$$/children; echo children: $x")
    assert run.stdout.strip() == b"children:"
