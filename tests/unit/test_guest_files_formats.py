"""Tar headers against Python's own reader, and back through the reader for guests; names of any bytes."""

from __future__ import annotations

import io
import os
import stat
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.guest_files.erofs import directory_data, directory_size
from backends.guest_files.merge import kept_name
from backends.guest_files.tar_reader import StreamLimits, read_archive
from backends.guest_files.tar_writer import END, Member, header, padding

_EXAMPLES = 3000 if os.environ.get("MXC_SOAK") == "1" else 200
names = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {0, 47} & set(name) and name not in (b".", b"..")
)
targets = st.binary(min_size=1, max_size=4000).filter(lambda name: 0 not in name)
times = st.integers(-(1 << 40) * 10**9, (1 << 40) * 10**9)
LIMITS = StreamLimits(1 << 30, 1 << 30, 1000, 1 << 20)


@settings(max_examples=_EXAMPLES)
@given(
    names, targets, times, st.integers(0, 0o777), st.binary(max_size=2000), st.sampled_from(["f", "l", "d"])
)
def test_what_is_written_is_read_again(
    name: bytes, target: bytes, mtime_ns: int, mode: int, content: bytes, kind: str
) -> None:
    member = Member(
        name=f"./{os.fsdecode(name)}",
        mode={"f": stat.S_IFREG, "l": stat.S_IFLNK, "d": stat.S_IFDIR}[kind] | mode,
        ids=(1000, 65534),
        mtime_ns=mtime_ns,
        size=len(content) if kind == "f" else 0,
        target=os.fsdecode(target) if kind == "l" else "",
    )
    body = content + padding(len(content)) if kind == "f" else b""
    stream = header(Member(".", stat.S_IFDIR | 0o755, (0, 0))) + header(member) + body + END
    found = [(entry, b"".join(parts)) for entry, parts in read_archive(iter([stream]), LIMITS)]
    entry, read = found[1]
    assert (f"./{entry.path}", entry.mode, entry.target) == (member.name, member.mode, member.target)
    assert entry.mtime_ns == mtime_ns
    assert read == (content if kind == "f" else b"")
    with tarfile.open(fileobj=io.BytesIO(stream), encoding="utf-8", errors="surrogateescape") as tar:
        _, info = tar.getmembers()
    assert (info.name.rstrip("/"), info.mode, info.uid, info.gid) == (
        member.name.rstrip("/"),
        mode,
        1000,
        65534,
    )
    assert info.linkname == member.target


@settings(max_examples=_EXAMPLES)
@given(st.binary(max_size=4096))
def test_bytes_that_mean_nothing_are_refused_and_nothing_worse(content: bytes) -> None:
    from backends.guest_files.tar_reader import ArchiveRefused

    try:
        for _ in read_archive(iter([content]), LIMITS):
            pass
    except ArchiveRefused as refused:
        assert str(refused)


@settings(max_examples=_EXAMPLES)
@given(st.data())
def test_a_damaged_archive_is_read_or_refused_and_nothing_worse(data: st.DataObject) -> None:
    from backends.guest_files.tar_reader import ArchiveRefused

    whole = bytearray(
        header(Member(".", stat.S_IFDIR | 0o755, (0, 0)))
        + header(Member("./" + "n" * 120, stat.S_IFREG | 0o644, (0, 0), 123456789, 5))
        + b"hello".ljust(512, b"\0")
        + header(Member("./l", stat.S_IFLNK | 0o777, (0, 0), target="t" * 200))
        + END
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for start in range(0, len(whole) - 511, 512):  # checksums that hold, for the damage to be read at all
        block = bytes(whole[start : start + 512])
        if block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 8 * 32
            whole[start + 148 : start + 156] = b"%06o\0 " % total
    try:
        for entry, body in read_archive(iter([bytes(whole)]), LIMITS):
            assert ".." not in entry.path.split("/")
            assert not entry.path.startswith("/")
            assert sum(map(len, body)) == entry.size
    except ArchiveRefused as refused:
        assert str(refused)


@settings(max_examples=_EXAMPLES)
@given(st.sets(names, max_size=60))
def test_the_size_of_a_directory_is_known_before_its_content(children: set[bytes]) -> None:
    everything = sorted({*children, b".", b".."})
    data = directory_data([(name, number, stat.S_IFREG) for number, name in enumerate(everything)])
    assert len(data) == directory_size(everything)


@given(names)
def test_a_kept_version_has_a_name_that_fits(name: bytes) -> None:
    kept = kept_name(f"d/{os.fsdecode(name)}", ".mxc-guest-0123456789abcdef")
    assert kept.endswith(".mxc-guest-0123456789abcdef")
    assert len(os.fsencode(kept)) <= 255 + len("d/")
