"""A guest's memory as a file: what is copied, what stays a hole, what a seal holds against."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.qemu.memory_file import (
    copy_data,
    data_ranges,
    save_nonzero,
    seal,
    sealed_copy,
    sparse_file,
)

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

PAGE = 4096
HOLE, ZEROS, DATA = "hole", "zeros", "data"
RUNS = st.lists(st.tuples(st.sampled_from((HOLE, ZEROS, DATA)), st.integers(1, 300)), min_size=1, max_size=8)


@contextmanager
def memory(runs: Sequence[tuple[str, int]]) -> Generator[int]:
    """A memfd of these runs of pages; every page of data is another one, the last byte alone may say so."""
    fd = sparse_file("memory", sum(pages for _, pages in runs) * PAGE)
    try:
        place = 0
        for content, pages in runs:
            for number in range(place, place + pages):
                if content is DATA:
                    os.pwrite(fd, (number + 1).to_bytes(8, "big"), number * PAGE + PAGE - 8)
                elif content is ZEROS:
                    os.pwrite(fd, bytes(PAGE), number * PAGE)
            place += pages
        yield fd
    finally:
        os.close(fd)


def open_descriptors() -> list[str]:
    return [path.name for path in Path("/proc/self/fd").iterdir()]


def whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def merged(runs: Sequence[tuple[str, int]], kept: tuple[str, ...]) -> list[tuple[int, int]]:
    """(start, end) of what is one of `kept`, neighbours as one."""
    found: list[tuple[int, int]] = []
    place = 0
    for content, pages in runs:
        start, place = place, place + pages * PAGE
        if content not in kept:
            continue
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, place))
    return found


@given(RUNS)
def test_a_copy_is_equal_and_has_the_same_holes(runs: list[tuple[str, int]]) -> None:
    with memory(runs) as source, memory([(HOLE, 1)]) as target:
        copy_data(source, target)
        assert whole(target) == whole(source)
        assert list(data_ranges(source)) == merged(runs, (ZEROS, DATA))
        assert list(data_ranges(target)) == list(data_ranges(source))


@given(RUNS)
def test_saving_keeps_the_content_and_makes_holes_of_zeros(runs: list[tuple[str, int]]) -> None:
    with memory(runs) as source, memory([(HOLE, 1)]) as target:
        save_nonzero(source, target)
        assert whole(target) == whole(source)
        assert list(data_ranges(target)) == merged(runs, (DATA,))


@given(st.binary(max_size=3 * PAGE), st.integers(0, 2 * PAGE))
def test_no_size_is_rounded(content: bytes, hole: int) -> None:
    with memory([(HOLE, 1)]) as source, memory([(HOLE, 1)]) as copied, memory([(HOLE, 1)]) as saved:
        os.ftruncate(source, len(content) + hole)
        os.pwrite(source, content, hole)
        copy_data(source, copied)
        save_nonzero(source, saved)
        assert whole(copied) == whole(saved) == bytes(hole) + content


def sealed() -> int:
    with memory([(DATA, 3), (HOLE, 2)]) as source:
        return sealed_copy(source)


def test_a_sealed_copy_cannot_be_changed_by_anybody_who_has_it() -> None:
    fd = sealed()
    before = whole(fd)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        for opened in (fd, again):
            for change in (
                lambda opened=opened: os.pwrite(opened, b"x", 0),
                lambda opened=opened: os.ftruncate(opened, PAGE),
                lambda opened=opened: os.ftruncate(opened, 100 * PAGE),
                lambda opened=opened: os.posix_fallocate(opened, 0, 100 * PAGE),
                lambda opened=opened: mmap.mmap(opened, PAGE, mmap.MAP_SHARED, mmap.PROT_WRITE),
            ):
                with pytest.raises(OSError) as caught:
                    change()
                assert caught.value.errno in (errno.EPERM, errno.EACCES)
        assert whole(fd) == before
    finally:
        os.close(again)
        os.close(fd)


def test_a_private_mapping_of_a_sealed_copy_changes_nothing() -> None:
    fd = sealed()
    before = whole(fd)
    with mmap.mmap(fd, 3 * PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        mapped[:] = b"x" * len(mapped)
        assert whole(fd) == before
    os.close(fd)


def test_a_seal_is_final() -> None:
    """Not even what seals it can be loosened, or put on a second time."""
    fd = sealed()
    with pytest.raises(PermissionError):
        seal(fd)
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert seals == fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    os.close(fd)


def test_memory_that_somebody_can_still_write_to_is_not_sealed() -> None:
    with memory([(DATA, 1)]) as fd, mmap.mmap(fd, PAGE):
        with pytest.raises(OSError) as caught:
            seal(fd)
        assert caught.value.errno == errno.EBUSY


def test_a_copy_that_fails_leaves_no_descriptor() -> None:
    before = open_descriptors()
    folder = os.open("/", os.O_RDONLY)
    with pytest.raises(OSError):
        sealed_copy(folder)
    os.close(folder)
    assert open_descriptors() == before


def test_new_memory_takes_no_memory() -> None:
    fd = sparse_file("memory", 1 << 40)
    status = os.fstat(fd)
    assert (status.st_size, status.st_blocks) == (1 << 40, 0)
    os.close(fd)
