"""Whose files an image's are while it is unpacked: ids of the host that are nobody's, never root's.

All of an image's owners are kept, so unpacking takes as many ids as an image may have, in a user namespace:
root takes a range that no file of the host gives to anybody, a user those that /etc/subuid grants.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from backends.errors import BackendUnavailable, Problem
from backends.frozen import frozen
from backends.linux.id_ranges import ID_FILES, overlaps
from backends.linux.subordinate_ids import caller_names, ranges_of
from vm_images.oci.limits import MAX_ID
from vm_images.tools import find_tool, run_tool

__all__ = ["PREP_FIX", "ImageUsers", "image_users"]

PREP_FIX = "mxc-ops prep host --backend wslc --feature build --yes"
_ROOTLESS = "mxc-ops prep host --backend lxc --feature rootless --yes"
_COUNT = MAX_ID + 1
_FIRST, _LAST = 1_900_065_536, 2_000_000_000
"""Where root's range is looked for: behind the one that workloads have (`backends.linux.uid_range`)."""
_MAP_S = 30


@frozen
class ImageUsers:
    """A user namespace: `namespace` is a descriptor of it, `root` the (uid, gid) that its root is outside."""

    namespace: int
    root: tuple[int, int]


@contextmanager
def image_users() -> Generator[ImageUsers]:
    """A user namespace with all the ids that an image may have. It ends with the last process in it.

    Raises `BackendUnavailable` where the caller has not so many ids, or may make no user namespace.
    """
    is_root = os.geteuid() == 0
    first = _free_range() if is_root else _granted()
    # It is born into its namespace, and ends when it reads no more, so also when we die.
    holder = subprocess.Popen(
        [find_tool("unshare", fix=PREP_FIX), "--user", "sh", "-c", "echo && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            said = holder.communicate()[1].decode(errors="replace").strip()
            message = f"user namespaces cannot be made here, and unpacking an image takes one: {said}"
            raise BackendUnavailable(Problem("image_namespace", "", message, fix=_ROOTLESS))
        if is_root:
            _write_maps(holder.pid, first)
        else:
            _have_maps_written(holder.pid, first)
        namespace = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        holder.communicate()
    try:
        yield ImageUsers(namespace, first if is_root else (os.geteuid(), os.getegid()))
    finally:
        os.close(namespace)


def _write_maps(pid: int, first: tuple[int, int]) -> None:
    for name, start in zip(("uid_map", "gid_map"), first, strict=True):
        try:
            Path(f"/proc/{pid}/{name}").write_text(f"0 {start} {_COUNT}\n")
        except OSError as error:
            message = f"the ids {start} to {start + MAX_ID} cannot be mapped: {error.strerror}"
            fix = "import it where root has all ids: not in a container that has but some"
            raise BackendUnavailable(Problem("image_namespace", "", message, fix=fix)) from error


def _have_maps_written(pid: int, first: tuple[int, int]) -> None:
    own = (os.geteuid(), os.getegid())
    for name, ours, start in zip(("newuidmap", "newgidmap"), own, first, strict=True):
        ranges = [0, ours, 1, 1, start, MAX_ID]
        run_tool([find_tool(name, fix=_ROOTLESS), str(pid), *map(str, ranges)], deadline_s=_MAP_S)


def _free_range() -> tuple[int, int]:
    texts = {file: _text(file) for file in ID_FILES}
    for first in range(_FIRST, _LAST, _COUNT):
        if not overlaps(texts, first, _COUNT):
            return first, first
    message = (
        f"the host gives all ids from {_FIRST} to {_LAST} to somebody, and unpacking an image takes {_COUNT}"
    )
    raise BackendUnavailable(Problem("image_ids", "", message, fix=f"look at {', '.join(ID_FILES)}"))


def _text(file: str) -> str:
    try:
        return Path(file).read_text(errors="replace")
    except OSError:
        return ""


def _granted() -> tuple[int, int]:
    names = caller_names()
    found = ranges_of(names, MAX_ID)
    if found is not None:
        return found
    message = f"/etc/subuid and /etc/subgid grant {names[0]} no {MAX_ID} ids, which unpacking an image takes"
    fix = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {names[0]}, or import it as root"
    raise BackendUnavailable(Problem("no_subordinate_ids", "", message, fix=fix))
