"""The disk of the read-only grants, read by the kernel and by erofs-utils: what the workload finds on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.errors import PolicyRefused
from backends.guest_files.disk import Disk, build_disk
from backends.guest_files.sizes import Caps
from backends.qemu.template_plan import GRANTS_BYTES
from tests.conftest import CHECKOUT, User
from tests.unit.guest_files import DENIED, RO, RW, File, Link, Tree, build, host_tree, planned

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or "erofs" not in Path("/proc/filesystems").read_text(), reason="mounts the disk"
)


@contextmanager
def mounted(disk: Disk, at: Path) -> Generator[Path]:
    """The disk, as the guest's kernel sees it, and as erofs-utils judge it."""
    image = at / "image"
    image.write_bytes(os.pread(disk.fd, disk.used_bytes, 0))
    subprocess.run(["fsck.erofs", image], check=True, capture_output=True)
    (at / "mnt").mkdir(exist_ok=True)
    device = f"/proc/{os.getpid()}/fd/{disk.fd}"
    loop = subprocess.run(
        ["losetup", "--read-only", "--show", "--find", device], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        subprocess.run(["mount", "-t", "erofs", "-o", "ro", loop, at / "mnt"], check=True)
        try:
            yield at / "mnt"
        finally:
            subprocess.run(["umount", at / "mnt"], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def owners(top: Path) -> dict[str, tuple[int, int]]:
    paths = [top, *(Path(at) / name for at, below, names in os.walk(top) for name in (*below, *names))]
    return {str(path.relative_to(top)): (path.lstat().st_uid, path.lstat().st_gid) for path in paths}


def test_everything_arrives_as_it_is(tmp_path: Path) -> None:
    tree: Tree = {
        **{"": 0o755, "empty": File(b""), "one": File(b"1", 0o600), "block": File(b"b" * 4096, 0o755)},
        **{"more": File(os.urandom(300_000)), "d": 0o700, "d/e": 0o555, "d/e/f": File(b"f", 0o444)},
        **{"l": Link("../outside"), "long": Link("t" * 4080), "sp ace\nline\udcff\u00fc": File(b"odd")},
        **{"n" * 255: File(b"n"), "-": File(b"sorts before the dot"), "full": 0o755},
        **{f"full/{n:0200}": File(b"%d" % n) for n in range(500)},
    }
    build(tmp_path / "g", tree)
    (tmp_path / "single").write_bytes(b"alone")
    with (tmp_path / "g" / "sparse").open("wb") as sparse:
        sparse.seek(64 << 20)
        sparse.write(b"end")
    plan, handles = planned((tmp_path / "g", RO), (tmp_path / "single", RO))
    disk = build_disk(plan, handles, size_bytes=GRANTS_BYTES)
    assert os.fstat(disk.fd).st_size == GRANTS_BYTES
    assert os.fstat(disk.fd).st_blocks * 512 < 8 << 20
    numbers = {grant.path: str(grant.number) for grant in plan.read_only}
    with mounted(disk, tmp_path) as mount:
        top = mount / numbers[str(tmp_path / "g")]
        with (top / "sparse").open("rb") as sparse:
            sparse.seek((64 << 20) - 1)
            assert sparse.read() == b"\0end"
        found = host_tree_without(top, "sparse")
        assert found == tree
        assert (top / "more").stat().st_mtime_ns == (tmp_path / "g" / "more").stat().st_mtime_ns
        assert (mount / numbers[str(tmp_path / "single")]).read_bytes() == b"alone"
        assert set(owners(top).values()) == {(1000, 1000)}
        assert (mount.stat().st_mode & 0o777, mount.stat().st_uid) == (0o700, 0)
    os.close(disk.fd)
    handles.close()


def host_tree_without(top: Path, name: str) -> Tree:
    copied: Tree = {}
    for child in top.iterdir():
        if child.name != name:
            below = host_tree(child)
            copied |= {f"{child.name}/{path}".rstrip("/"): thing for path, thing in below.items()}
    return {"": top.stat().st_mode & 0o7777, **copied}


def test_denied_and_covered_paths_are_absent_and_mount_points_are_there(tmp_path: Path) -> None:
    top = tmp_path / "g"
    build(
        top,
        {
            **{"": 0o755, "key": File(b"secret"), "d": 0o755, "d/s": 0o755, "d/s/pub": 0o755},
            **{"d/s/x": File(b"secret"), "d/s/pub/f": File(b"f"), "out": 0o755, "out/o": File(b"rw")},
        },
    )
    plan, handles = planned(
        *((top, RO), (top / "key", DENIED), (top / "d" / "s", DENIED)),
        *((top / "d" / "s" / "pub", RO), (top / "out", RW)),
    )
    disk = build_disk(plan, handles, size_bytes=GRANTS_BYTES)
    with mounted(disk, tmp_path) as mount:
        assert host_tree(mount / "0") == {
            **{"": 0o755, "d": 0o755, "d/s": 0o111, "d/s/pub": 0o755, "out": 0o755}
        }
        assert host_tree(mount / "1") == {"": 0o755, "f": File(b"f")}
    assert b"secret" not in os.pread(disk.fd, disk.used_bytes, 0)
    os.close(disk.fd)
    handles.close()


def test_what_the_workload_may_not_read_is_not_on_the_disk(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    top = tmp_path / "g"
    build(
        top,
        {
            **{"": 0o755, "mine": File(b"mine", 0o4750), "theirs": File(b"readable", 0o644)},
            **{"hidden": File(b"secret-1", 0o640), "locked": 0o750, "locked/f": File(b"secret-2")},
            "listed": File(b"secret-3", 0o644),
        },
    )
    for path in ("", "mine"):
        os.chown(top / path, 4321, 4321)
    subprocess.run([sys.executable, "-c", _SET_ACCESS_LIST, top / "listed"], check=True)
    os.mkfifo(top / "fifo")
    plan, handles = planned((top, RO))
    disk = build_disk(plan, handles, size_bytes=GRANTS_BYTES)
    content = os.pread(disk.fd, disk.used_bytes, 0)
    assert b"secret" not in content
    assert b"readable" in content
    assert len(disk.warnings) == 2
    assert "and 2 more" in "".join(disk.warnings)
    assert "fifo" in "".join(disk.warnings)
    with mounted(disk, tmp_path) as mount:
        assert owners(mount / "0") == {
            **{".": (1000, 1000), "mine": (1000, 1000), "theirs": (65534, 65534), "hidden": (65534, 65534)},
            **{"locked": (65534, 65534), "listed": (65534, 65534)},
        }
        assert (mount / "0" / "mine").stat().st_mode & 0o7777 == 0o750
        assert (mount / "0" / "listed").stat().st_mode & 0o444 == 0
    os.close(disk.fd)
    handles.close()


# An access list that takes from uid 7 what all others have; written out, for setfacl may not be installed.
_SET_ACCESS_LIST = """
import os, struct, sys
entries = [(1, 6, 0xffffffff), (2, 0, 7), (4, 4, 0xffffffff), (16, 4, 0xffffffff), (32, 4, 0xffffffff)]
value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
os.setxattr(sys.argv[1], "system.posix_acl_access", value)
"""


def test_links_and_directories_that_are_swapped_lead_nowhere(tmp_path: Path) -> None:
    """A directory of the grant is a link out of it by the time it is packed."""
    top = tmp_path / "g"
    build(top, {"": 0o755, "d": 0o755, "d/f": File(b"f")})
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"secret")
    plan, handles = planned((top, RO))
    (top / "d" / "f").unlink()
    (top / "d").rmdir()
    (top / "d").symlink_to(tmp_path / "outside")
    disk = build_disk(plan, handles, size_bytes=GRANTS_BYTES)
    with mounted(disk, tmp_path) as mount:
        assert host_tree(mount / "0") == {"": 0o755, "d": Link(str(tmp_path / "outside"))}
    os.close(disk.fd)
    handles.close()


def test_a_large_disk_is_on_disk_and_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "g", {"": 0o755, "large": File(os.urandom(1 << 20) * 70)})
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    plan, handles = planned((tmp_path / "g", RO))
    disk = build_disk(plan, handles, size_bytes=GRANTS_BYTES)
    assert "/scratch/#" in str(Path(f"/proc/self/fd/{disk.fd}").readlink())
    assert not list((tmp_path / "scratch").iterdir())
    with mounted(disk, tmp_path) as mount:
        assert (mount / "0" / "large").read_bytes() == (tmp_path / "g" / "large").read_bytes()
    os.close(disk.fd)
    handles.close()


def test_a_user_without_rights_gets_the_same_disk(as_user: User, tmp_path: Path) -> None:
    shared = as_user.tree / "data"
    build(
        shared, {"": 0o755, "theirs": File(b"t", 0o644), "hidden": File(b"secret", 0o600), "mine": File(b"m")}
    )
    os.chown(shared / "mine", as_user.uid, as_user.gid)
    folder = as_user.tree / "tests" / "unit"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CHECKOUT / "tests" / "unit" / "guest_files.py", folder)
    script = """
import json, os
from pathlib import Path
from backends.guest_files.disk import build_disk
from tests.unit.guest_files import RO, planned
top = Path(os.environ["HOME"]).parent / "data"
plan, handles = planned((top, RO))
disk = build_disk(plan, handles, size_bytes=1 << 30)
Path(os.environ["HOME"], "image").write_bytes(os.pread(disk.fd, disk.used_bytes, 0))
print(json.dumps([disk.used_bytes, disk.warnings]))
"""
    done = as_user(script)
    assert done.returncode == 0, done.stderr
    used, warnings = json.loads(done.stdout)
    assert "hidden" in warnings[0]
    image = as_user.home / "image"
    image.chmod(0o644)
    opened = os.open(image, os.O_RDONLY)
    with mounted(Disk(opened, used), tmp_path) as mount:
        assert owners(mount / "0") == {
            **{".": (65534, 65534), "theirs": (65534, 65534), "hidden": (65534, 65534), "mine": (1000, 1000)}
        }
        assert (mount / "0" / "hidden").read_bytes() == b""
    os.close(opened)


def test_nobody_can_change_a_disk_that_is_handed_out(tmp_path: Path) -> None:
    build(tmp_path / "g", {"": 0o755, "f": File(b"f")})
    plan, handles = planned((tmp_path / "g", RO))
    disk = build_disk(plan, handles, size_bytes=GRANTS_BYTES)
    with pytest.raises(OSError):
        os.pwrite(disk.fd, b"x", 0)
    writable = os.open(f"/proc/self/fd/{disk.fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(writable, b"x", 0)
    os.close(writable)
    os.close(disk.fd)
    handles.close()


def test_too_much_is_refused_by_name_before_anything_is_built(tmp_path: Path) -> None:
    build(tmp_path / "small", {"": 0o755, "f": File(b"1" * 100_000)})
    build(tmp_path / "large", {"": 0o755, "f": File(b"1" * 300_000), "g": File(b"2")})
    plan, handles = planned((tmp_path / "small", RO), (tmp_path / "large", RO))
    with pytest.raises(PolicyRefused) as caught:
        build_disk(plan, handles, size_bytes=GRANTS_BYTES, caps=Caps(350_000, 100))
    [problem] = caught.value.problems
    assert (problem.code, problem.path) == ("grant_too_large", "/filesystem/readonlyPaths/1")
    assert "293.0 KiB, of 390.6 KiB in all" in problem.message
    assert "341.8 KiB" in problem.message
    assert str(tmp_path / "large") in problem.fix
    with pytest.raises(PolicyRefused) as caught:
        build_disk(plan, handles, size_bytes=GRANTS_BYTES, caps=Caps(1 << 30, 4))
    assert caught.value.problems[0].code == "grant_too_many_files"
    handles.close()
