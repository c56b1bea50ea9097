"""Why a filesystem policy cannot be granted: every rule that refuses one, with its fix. Pure."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence

from backends.base import Access, HostPath, ObjectKind, PathState
from backends.errors import Problem
from backends.pathnames import fold, within
from mxc_ops.policy.places import Place, nearest_place

__all__ = ["find_problems"]

_KERNEL_TREES = ("/proc", "/dev", "/sys")


def find_problems(
    paths: Sequence[HostPath], final: Sequence[Access], places: Mapping[str, Place]
) -> list[Problem]:
    """All reasons to refuse `paths`, at most one each; `final` and `places` as `tighten` answers them."""
    denying = any(path.grant.access is Access.DENIED for path in paths)
    problems: list[Problem] = []
    for path, access in zip(paths, final, strict=True):
        found = _spelling(path) or _kernel_tree(path)
        if found is None and path.state is PathState.UNKNOWN:
            found = _unknown(path, denying)
        if found is None and path.state is PathState.ABSENT:
            found = _absent(path, places)
        if found is None and path.state is PathState.OBJECT:
            found = _unaccounted(path, access) if access is Access.DENIED else _grant(path, access, places)
        if found is not None:
            problems.append(found)
    return problems


def _spelling(path: HostPath) -> Problem | None:
    written, pointer = path.grant.path, path.grant.pointer
    if not written.startswith("/"):
        return Problem(
            "path_relative",
            pointer,
            f"{written!r} is relative; what it names would depend on where the run is started",
            expected="an absolute path",
            fix=f"write {path.canonical!r}",
        )
    if _ambiguous(path):
        return Problem(
            "path_ambiguous",
            pointer,
            f"{written!r} goes up with '..' after a link or a missing name: it can be read in two ways",
            expected="a path without '..'",
            fix=f"write {path.canonical!r} if that is meant",
        )
    if not all(_is_text(name) for name in _names(path)):
        return Problem(
            "path_not_utf8",
            pointer,
            f"{written!r} leads to names that are not valid UTF-8 ({path.canonical!r})",
            fix="rename what it leads to, or remove the entry",
        )
    return None


def _ambiguous(path: HostPath) -> bool:
    """Whether a ``..`` follows a link or a missing name: text and kernel may then disagree."""
    names = path.grant.path.split("/")
    if ".." not in names or path.state is PathState.ABSENT:
        return ".." in names
    upto = len(names) - names[::-1].index("..")  # the last `..` and all before it
    return bool(path.hops) and any(fold("/".join(names[:end])) == path.hops[0].link for end in range(upto))


def _names(path: HostPath) -> Iterator[str]:
    yield path.canonical
    for hop in path.hops:
        yield from (hop.link, hop.target)
    for other in path.others:
        yield other.path


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kernel_tree(path: HostPath) -> Problem | None:
    """`/` and the kernel's own trees: the sandbox has its own, and the host's would undo it."""
    pointer, written = path.grant.pointer, path.grant.path
    denied = path.grant.access is Access.DENIED
    if path.canonical == "/":
        if path.state is not PathState.OBJECT:
            return None
        why = (
            "denying '/' would hide the system's programs; everything that is not granted is denied anyway"
            if denied
            else "granting '/' would undo the sandbox's own view of the system"
        )
        return Problem(
            "path_root", pointer, why, fix="remove the entry, or list the directories that are meant"
        )
    passed = [path.canonical, written, *(hop.link for hop in path.hops)]
    tree = next((tree for tree in _KERNEL_TREES for name in passed if within(name, tree)), None)
    if tree is None or (denied and tree == "/sys"):  # no sandbox has a /sys
        return None
    why = (
        f"the sandbox has a {tree} of its own, in which entries of the host's cannot be denied"
        if denied
        else f"{tree} is an interface to the kernel, not storage, and cannot be granted"
    )
    return Problem("path_kernel_interface", pointer, f"{written!r}: {why}", fix="remove the entry")


def _unknown(path: HostPath, denying: bool) -> Problem:
    written = path.grant.path
    message = f"{written!r} ({path.grant.access.value}) could not be resolved to an object: {path.error}"
    if denying:
        message += "; as paths are denied, it cannot be ruled out that it is another name of a denied object"
    quoted = _quoted(written)
    return Problem(
        "path_unresolved", path.grant.pointer, message, fix=f"namei -l {quoted} shows where it ends"
    )


def _absent(path: HostPath, places: Mapping[str, Place]) -> Problem | None:
    pointer, written = path.grant.pointer, path.grant.path
    if path.grant.access is not Access.DENIED:
        if path.grant.optional:
            return None
        return Problem(
            "path_missing",
            pointer,
            f"{written!r} does not exist",
            expected="an existing file or directory, or an entry of mxcOps.optionalPaths",
            fix=f"mkdir -p {_quoted(path.canonical)}",
        )
    above = nearest_place(path.canonical, places)
    if above is None or above.access is not Access.READ_WRITE:
        return None
    return Problem(
        "denied_path_missing",
        pointer,
        f"{written!r} is denied and does not exist, but the sandbox could create it:"
        f" {above.path!r} is granted read-write ({above.pointer})",
        fix=f"mkdir -p {_quoted(path.canonical)}",
    )


def _grant(path: HostPath, access: Access, places: Mapping[str, Place]) -> Problem | None:
    pointer, written = path.grant.pointer, path.grant.path
    if path.kind is ObjectKind.OTHER and (stat.S_ISCHR(path.mode) or stat.S_ISBLK(path.mode)):
        return Problem(
            "path_device",
            pointer,
            f"{written!r} is a device, and devices do not work in granted paths",
            fix="remove the entry; /dev/null, zero, full, random, urandom and tty are always there",
        )
    kernel = [point for point in path.kernel_mounts if _open_to(point, places)]
    if kernel:
        return Problem(
            "path_kernel_interface",
            pointer,
            f"{written!r} contains an interface to the kernel, not storage: {', '.join(map(repr, kernel))}",
            fix=f"umount {_quoted(kernel[0])}, or list it in deniedPaths",
        )
    return _delegation(path, access) or _unaccounted(path, access)


def _open_to(point: str, places: Mapping[str, Place]) -> bool:
    above = nearest_place(point, places)
    return above is not None and above.access is not Access.DENIED


def _delegation(path: HostPath, access: Access) -> Problem | None:
    if path.readable and (path.writable or access is Access.READ_ONLY):
        return None
    rights = "read" if access is Access.READ_ONLY else "read+write"
    narrower = path.readable and path.grant.access is Access.READ_WRITE
    return Problem(
        "delegation_refused",
        path.grant.pointer,
        f"{path.grant.path!r}: the invoking user does not have {rights} access, so it cannot be delegated to"
        " the sandbox",
        fix="list it in readonlyPaths"
        if narrower
        else f"ls -ld {_quoted(path.canonical)} shows who has access",
    )


def _unaccounted(path: HostPath, access: Access) -> Problem | None:
    if not path.links_unaccounted:
        return None
    return Problem(
        "links_unaccounted",
        path.grant.pointer,
        f"{path.grant.path!r} is {access.value}, but it, or something in it, has further names (hard links or"
        " second mounts) that could not all be looked for in the granted paths",
        fix="copy the files instead of hard linking them, or grant a smaller directory",
    )


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)
