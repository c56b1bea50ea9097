"""Archives that no agent of ours sends: each attack leaves the host as it was, and everything outside too."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.errors import CopyBackFailed, PolicyRefused
from backends.guest_files import apply
from backends.guest_files import copy_back as copying
from backends.guest_files.archive import check_copies, put_content
from backends.guest_files.copy_back import copy_back, get_request, limits_for
from backends.guest_files.plan import GuestPut
from backends.guest_files.recover import recover
from backends.guest_files.sizes import Caps
from backends.guest_files.snapshot import Snapshot
from backends.guest_files.tar_reader import StreamLimits
from backends.guest_files.tar_writer import END, Member, header
from tests.unit.guest_files import DENIED, RO, RW, File, Link, Run, build, host_tree, unpacked

SECRET = b"not for guests"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    top = tmp_path / "grant"
    build(top, {"": 0o755, "a": File(b"one"), "d": 0o755, "d/b": File(b"two"), "out": Link("../outside")})
    made = Run((top, RW), journals=tmp_path / "journals")
    yield made
    made.handles.close()


def members(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An archive with a directory at its top and then these."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        top = tarfile.TarInfo(".")
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(top)
        for info, content in entries:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info, content


def refused(run: Run, stream: bytes | Iterator[bytes], why: str) -> None:
    """Nothing is changed, nothing is left behind, and the error says why."""
    top = Path(run.grant.path)
    before = host_tree(top.parent)
    with pytest.raises(CopyBackFailed, match=why) as caught:
        run.back(stream)
    assert caught.value.problems[0].path == run.grant.pointer
    after = host_tree(top.parent)
    after.pop("journals", None)
    before.pop("journals", None)
    assert after == before


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "./../evil",
        "./d/../../evil",
        "./..",
        "./d/..",
        "././evil",
        "./d//evil",
        "./d/./x",
        "evil",
    ],
)
def test_names_that_lead_elsewhere(run: Run, name: str) -> None:
    refused(
        run, members(entry("./d", tarfile.DIRTYPE), entry(name, content=b"evil")), "guest_archive|begin|plain"
    )


def test_entries_through_a_link_of_the_archive(run: Run) -> None:
    stream = members(entry("./l", tarfile.SYMTYPE, link="/"), entry("./l/evil", content=b"evil"))
    refused(run, stream, "does not lie in a directory")


def test_entries_through_a_file(run: Run) -> None:
    refused(run, members(entry("./f", content=b"1"), entry("./f/evil")), "does not lie in a directory")


def test_entries_whose_directory_was_not_told(run: Run) -> None:
    refused(run, members(entry("./d/evil")), "does not lie in a directory")


def test_the_same_name_twice(run: Run) -> None:
    stream = members(entry("./l", tarfile.SYMTYPE, link="/etc"), entry("./l", tarfile.DIRTYPE))
    refused(run, stream, "comes twice")
    refused(run, members(entry("./x"), entry(".", tarfile.DIRTYPE)), "comes twice")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"V", b"M"])
def test_kinds_of_entries_that_are_not_spoken(run: Run, kind: bytes) -> None:
    refused(run, members(entry("./x", kind, link="/etc/passwd")), "an entry of type")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE])
def test_headers_that_are_not_spoken(run: Run, kind: bytes) -> None:
    refused(run, members(entry("./x", kind, content=b"./other\0")), "an entry of type")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_fifos_are_never_made_and_take_nobodys_place(run: Run, kind: bytes) -> None:
    top = Path(run.grant.path)
    before = host_tree(top)
    stream = members(
        *(entry("./dev", kind), entry("./a", kind), entry("./d", tarfile.DIRTYPE, mode=0o755)),
        *(entry("./d/b", content=b"two"), entry("./out", tarfile.SYMTYPE, link="../outside")),
    )
    answer = run.back(stream)
    assert host_tree(top) == before
    assert answer.changed == 0
    assert "2 sockets, fifos or devices" in answer.warnings[0]


def test_set_user_id_bits_are_dropped(run: Run) -> None:
    run.guest["s"] = File(b"#!/bin/sh", 0o6755)
    run.guest["d"] = 0o3777
    run.back()
    top = Path(run.grant.path)
    assert stat.S_IMODE((top / "s").stat().st_mode) == 0o755
    assert stat.S_IMODE((top / "d").stat().st_mode) == 0o777


def test_owners_that_the_archive_claims_count_for_nothing(run: Run) -> None:
    info, content = entry("./owned", content=b"x")
    info.uid = info.gid = 0
    info.pax_headers = {"uid": "12345", "gid": "0"}
    run.back(members((info, content)))
    owned = (Path(run.grant.path) / "owned").stat()
    assert (owned.st_uid, owned.st_gid) == run.grant.owner


def test_a_link_is_brought_back_as_its_text_and_never_followed(run: Run, tmp_path: Path) -> None:
    run.guest["a"] = Link(str(tmp_path / "outside" / "secret"))
    run.guest["new"] = Link("/etc/shadow")
    run.back()
    top = Path(run.grant.path)
    assert (top / "a").readlink() == tmp_path / "outside" / "secret"
    assert (top / "new").readlink() == Path("/etc/shadow")
    assert (tmp_path / "outside" / "secret").read_bytes() == SECRET


def test_files_that_the_guest_puts_where_the_host_now_has_a_link_stay_inside(
    run: Run, tmp_path: Path
) -> None:
    top = Path(run.grant.path)
    (top / "d" / "b").unlink()
    (top / "d").rmdir()
    (top / "d").symlink_to(tmp_path / "outside")
    run.guest["d/secret"] = File(b"evil")
    run.guest["d/b"] = File(b"changed")
    answer = run.back()
    assert host_tree(tmp_path / "outside") == {"": 0o755, "secret": File(SECRET)}
    assert (top / "d").readlink() == tmp_path / "outside"
    kept = {conflict.path: Path(conflict.kept_as) for conflict in answer.conflicts}
    assert kept[str(top / "d" / "secret")].read_bytes() == b"evil"
    assert kept[str(top / "d" / "secret")].is_relative_to(top)


def test_numbers_that_are_none(run: Run) -> None:
    whole = header(Member(".", stat.S_IFDIR | 0o755, (0, 0))) + header(Member("./x", stat.S_IFREG, (0, 0)))
    for at, field in (
        (512 + 124, b"9999999999\0"),
        (512 + 100, b"-000001\0"),
        (512 + 124, b"\x80" + bytes(11)),
    ):
        broken = bytearray(whole)
        broken[at : at + len(field)] = field
        block = broken[512:1024]
        total = sum(block) - sum(block[148:156]) + 8 * 32
        broken[512 + 148 : 512 + 156] = b"%06o\0 " % total
        refused(run, bytes(broken) + END, "is no number")


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ({"GNU.sparse.size": "1099511627776"}, "GNU.sparse"),
        ({"GNU.sparse.map": "0,1"}, "GNU.sparse"),
        ({"mtime": "inf"}, "is no time"),
        ({"mtime": "9" * 30}, "is no time"),
        ({"size": "-1"}, "is no number"),
        ({"size": "9" * 30}, "is no number"),
        ({"path": "./" + "n" * 256}, "too long"),
        ({"path": "./" + "d/" * 3000 + "x"}, "too long|does not lie"),
        ({"path": "./a\0b"}, "NUL"),
        ({"comment": "c" * 20000}, "extended header"),
    ],
)
def test_extended_headers(run: Run, records: dict[str, str], why: str) -> None:
    info, content = entry("./x", content=b"1")
    info.pax_headers = records
    refused(run, members((info, content)), why)


@pytest.mark.parametrize("damage", ["magic", "checksum"])
def test_blocks_that_are_no_headers(run: Run, damage: str) -> None:
    broken = bytearray(members(entry("./x")))
    broken[512 + (257 if damage == "magic" else 148)] ^= 1
    refused(run, bytes(broken), "POSIX format|checksum|no number")


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1024, 1100])
def test_a_stream_that_ends_in_the_middle(run: Run, cut: int) -> None:
    refused(run, members(entry("./x", content=b"c" * 300))[:cut], "ends in the middle")


def test_an_archive_without_anything_in_it(run: Run) -> None:
    refused(run, END, "does not hold what was granted")


def test_a_file_in_place_of_the_directory(run: Run) -> None:
    stream = header(Member(".", stat.S_IFREG | 0o644, (0, 0))) + END
    refused(run, stream, "another kind of object")
    stream = header(Member(".", stat.S_IFLNK | 0o777, (0, 0), target="/etc")) + END
    refused(run, stream, "another kind of object")


def endless(make: Callable[[int], bytes]) -> Iterator[bytes]:
    yield header(Member(".", stat.S_IFDIR | 0o755, (0, 0)))
    number = 0
    while True:
        number += 1
        yield make(number)


def many_files(number: int) -> bytes:
    return header(Member(f"./{number}", stat.S_IFREG | 0o644, (0, 0)))


def long_names(number: int) -> bytes:
    return header(Member("./" + f"{number:0255}", stat.S_IFLNK | 0o777, (0, 0), target="t" * 4000))


def much_content(number: int) -> bytes:
    return header(Member(f"./{number}", stat.S_IFREG | 0o644, (0, 0), size=1 << 20)) + bytes(1 << 20)


@pytest.mark.parametrize(
    ("make", "why"), [(many_files, "files"), (long_names, "of names"), (much_content, "of content")]
)
def test_streams_without_end_are_ended(run: Run, make: Callable[[int], bytes], why: str) -> None:
    limits = StreamLimits(content_bytes=8 << 20, file_bytes=8 << 20, entries=500, name_bytes=100_000)
    with pytest.raises(CopyBackFailed, match=why):
        copy_back(
            *(run.grant, run.snapshot, run.handles, endless(make)), journals=str(run.journals), limits=limits
        )
    assert not list(run.journals.iterdir())


def test_a_file_that_claims_to_be_huge_is_refused_by_its_header(run: Run) -> None:
    stream = endless(lambda n: header(Member("./x", stat.S_IFREG | 0o644, (0, 0), size=1 << 40)))
    refused(run, stream, "more than")


def test_the_limit_for_one_file_lets_larger_ones_that_were_there_pass(run: Run) -> None:
    limits = limits_for(run.snapshot, file_bytes=2)
    assert limits.file_bytes == 3


def test_what_was_left_out_cannot_be_reached(tmp_path: Path) -> None:
    """The guest claims files at denied and read-only places: the host's stay, its own are kept aside."""
    top = tmp_path / "grant"
    build(
        top,
        {
            **{"": 0o755, "denied": 0o755, "denied/key": File(SECRET), "file": File(SECRET)},
            **{"lib": 0o755, "lib/code": File(b"code"), "denied/pub": 0o755, "denied/pub/x": File(b"x")},
        },
    )
    run = Run(
        *((top, RW), (top / "denied", DENIED), (top / "file", DENIED)),
        *((top / "lib", RO), (top / "denied" / "pub", RO)),
        journals=tmp_path / "journals",
    )
    assert run.guest == {"": 0o755, "denied": 0o111, "denied/pub": 0o755, "lib": 0o755}
    before = host_tree(top)
    run.guest |= {
        "file": File(b"evil"),
        "denied/key": File(b"evil"),
        "lib/code": File(b"evil"),
        "denied": 0o755,
    }
    answer = run.back()
    after = host_tree(top)
    assert {path: after[path] for path in before} == before
    assert {Path(c.path).name for c in answer.conflicts} >= {"file", "key", "code"}
    for conflict in answer.conflicts:
        assert not conflict.kept_as or Path(conflict.kept_as).exists()
    run.handles.close()


def test_what_was_left_out_survives_the_removal_of_everything_around(tmp_path: Path) -> None:
    top = tmp_path / "grant"
    build(top, {"": 0o755, "d": 0o755, "d/secret": File(SECRET), "d/other": File(b"o"), "d/e": 0o755})
    run = Run((top, RW), (top / "d" / "secret", DENIED), journals=tmp_path / "journals")
    run.guest.clear()
    run.guest |= {"": 0o755, "elsewhere": 0o755}
    answer = run.back()
    assert host_tree(top) == {"": 0o755, "d": 0o755, "d/secret": File(SECRET), "elsewhere": 0o755}
    assert [(conflict.path, conflict.kept_as) for conflict in answer.conflicts] == [(str(top / "d"), "")]
    run.handles.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_guest_cannot_make_root_write_what_the_grants_owner_could_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    top = tmp_path / "grant"
    build(
        top,
        {"": 0o755, "mine": File(b"m"), "rooted": 0o755, "rooted/f": File(b"r"), "shared": File(b"s", 0o666)},
    )
    for path in ("", "mine"):
        os.chown(top / path, 61234, 61234)
    run = Run((top, RW), journals=tmp_path / "journals")
    run.guest |= {
        **{"mine": File(b"changed"), "rooted/f": File(b"evil"), "rooted/new": File(b"evil")},
        **{"rooted": 0o777, "shared": File(b"written", 0o666)},
    }
    answer = run.back()
    assert (top / "mine").read_bytes() == b"changed"
    assert (top / "mine").stat().st_uid == 61234
    assert {path: thing for path, thing in host_tree(top / "rooted").items() if "mxc" not in path} == {
        "": 0o755,
        "f": File(b"r"),
    }
    assert ((top / "shared").read_bytes(), (top / "shared").stat().st_uid) == (b"written", 0)
    assert {Path(conflict.path).name for conflict in answer.conflicts} >= {"f", "new"}
    run.handles.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_roots_copying_back_has_the_owners_rights_and_ids(tmp_path: Path) -> None:
    """The grant's own file system, its modes and its owner; nothing of root's appears beside it."""
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    build(home, {"": 0o755, "grant": 0o755, "grant/f": File(b"f"), "grant/d": 0o755})
    for path in (home, *home.rglob("*")):
        os.chown(path, 61234, 61235)
    run = Run((home / "grant", RW), journals=tmp_path / "journals")
    run.guest |= {"f": File(b"new"), "d": 0o700, "n": 0o750, "n/m": File(b"m", 0o755), "l": Link("f")}
    assert run.back().conflicts == ()
    assert host_tree(home / "grant") == run.guest
    assert {path.lstat().st_uid for path in home.rglob("*")} == {61234}
    assert {path.lstat().st_gid for path in home.rglob("*")} == {61235}
    run.handles.close()


@pytest.mark.parametrize("does", ["replace", "remove"])
def test_a_host_that_writes_in_the_very_last_moment_keeps_its_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    """Between the last look and the change of places: the old file is looked at again, and put back."""
    top = Path(run.grant.path)
    name = "exchange" if does == "replace" else "rename_new"
    real = getattr(apply, name)
    written: list[int] = []

    def late(old: int, old_name: str, new: int, new_name: str) -> None:
        if not written:
            written.append(1)
            (top / "a").write_bytes(b"the host, at last")
        real(old, old_name, new, new_name)

    monkeypatch.setattr(apply, name, late)
    if does == "replace":
        run.guest["a"] = File(b"of the guest")
    else:
        del run.guest["a"]
    [conflict] = run.back().conflicts
    assert (top / "a").read_bytes() == b"the host, at last"
    assert conflict.path == str(top / "a")
    if does == "replace":
        assert Path(conflict.kept_as).read_bytes() == b"of the guest"


def test_a_step_that_fails_takes_back_those_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    top = Path(run.grant.path)
    before = host_tree(top)
    real = apply.rename_new

    def fails_in_the_end(old: int, old_name: str, new: int, new_name: str) -> None:
        if new_name == "z":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(old, old_name, new, new_name)

    monkeypatch.setattr(apply, "rename_new", fails_in_the_end)
    run.guest |= {
        "a": File(b"new"),
        "k": 0o755,
        "k/l": File(b"made"),
        "d": File(b"no directory"),
        "z": File(b""),
    }
    del run.guest["d/b"], run.guest["out"]
    with pytest.raises(CopyBackFailed) as caught:
        run.back()
    assert caught.value.problems[0].code == "no_space_for_results"
    assert "as they were before" in str(caught.value)
    assert host_tree(top) == before
    assert not list(run.journals.iterdir())
    assert not list(top.parent.glob(".mxc*"))


def test_what_could_not_be_taken_back_at_once_is_taken_back_by_the_next_start(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = Path(run.grant.path)
    before = host_tree(top)
    real = apply.rename_new

    def fails_in_the_end(old: int, old_name: str, new: int, new_name: str) -> None:
        if new_name == "z":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(old, old_name, new, new_name)

    run.guest |= {"a": File(b"new"), "k": 0o755, "k/l": File(b"made"), "z": File(b"")}
    with monkeypatch.context() as broken:
        broken.setattr(apply, "rename_new", fails_in_the_end)
        broken.setattr(copying, "undo", undoes_nothing)
        with pytest.raises(CopyBackFailed, match="completed, or undone, by the next run"):
            run.back()
    assert host_tree(top) != before
    [recovered] = recover(str(run.journals))
    assert (recovered.path, recovered.outcome) == (str(top), "rolled back")
    assert host_tree(top) == before
    assert not list(run.journals.iterdir())


def test_a_grant_that_is_gone_keeps_its_journal_and_says_what_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = Path(run.grant.path)
    run.guest["a"] = File(b"new")
    with monkeypatch.context() as killed:
        killed.setattr(copying, "finish_applying", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.back()
    top.rename(top.parent / "moved")
    [recovered] = recover(str(run.journals))
    assert recovered.outcome == "unfinished"
    assert str(top / "a") in recovered.missing
    (top.parent / "moved").rename(top)
    [recovered] = recover(str(run.journals))
    assert recovered.outcome == "completed"
    assert (top / "a").read_bytes() == b"new"


def test_content_that_is_out_of_reach_is_not_taken_for_arrived(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a mount below the grant that is not there yet after a restart of the host."""
    top = Path(run.grant.path)
    run.guest["a"] = File(b"new")
    with monkeypatch.context() as killed:
        killed.setattr(copying, "finish_applying", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.back()
    [staging] = top.parent.glob(".mxc-copy-back-*")
    staging.rename(top.parent / "elsewhere")
    [recovered] = recover(str(run.journals))
    assert (recovered.outcome, recovered.missing) == ("unfinished", (str(top / "a"),))
    (top.parent / "elsewhere").rename(staging)
    [recovered] = recover(str(run.journals))
    assert recovered.outcome == "completed"
    assert (top / "a").read_bytes() == b"new"
    assert not list(run.journals.iterdir()) and not staging.exists()


def undoes_nothing(*_: object) -> list[str]:
    return ["a"]


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_too_much_to_copy_is_refused_by_name(run: Run) -> None:
    check_copies(run.plan, run.handles)
    with pytest.raises(PolicyRefused) as caught:
        check_copies(run.plan, run.handles, Caps(content_bytes=5, entries=100))
    assert caught.value.problems[0].code == "grant_too_large"
    assert caught.value.path == run.grant.pointer


def test_the_steps_of_the_plan_put_what_they_say(run: Run) -> None:
    snapshots: dict[int, Snapshot] = {}
    puts = [step for step in run.plan.guest_steps if isinstance(step, GuestPut)]
    sent = [b"".join(put_content(run.plan, step, run.handles, snapshots)) for step in puts]
    assert unpacked(sent[0]) == {"": 0o700, "disk": 0o700, "rw": 0o700}
    assert unpacked(sent[1]) == run.guest
    assert snapshots[0].shipped.keys() == run.guest.keys()
    asked = get_request(run.grant, limits_for(snapshots[0]))
    assert (asked.path, asked.at_most_bytes) == ("/run/mxc/rw/0", 6 + (1 << 30))
