"""Images as a user has them for containers: unpacked, once, their files being of the container's root.

Who is not root mounts no image. What was unpacked is below the user's own data, each image in a folder that
is named by its content and by whose files are in it, and put there whole, by a rename.
"""

from __future__ import annotations

import os
import secrets
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from signal import SIGKILL, pidfd_send_signal

from backends import process
from backends.errors import BackendUnavailable, LaunchFailed, Problem
from backends.inside.codec import decode_message, encode, spec_memfd
from backends.inside.protocol import MESSAGE_BYTES, Failed, OutsideSpec, UserNamespace
from backends.inside.store import LAUNCHER, find_program, user_store
from backends.linux.child_descriptors import ChildDescriptors
from backends.lxc.facts import FIX
from backends.lxc.users import namespace_problem, own_namespace
from backends.virtual_machine import Image

__all__ = ["collect", "open_unpacked"]

_ROOT = "root"
_GOING = ".going-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_SAID_BYTES = 4096


def open_unpacked(image: Image, users: UserNamespace, launcher: str, descriptors: ChildDescriptors) -> int:
    """The image's root, unpacked when it is not there yet. As long as a container has it open, it stays.

    Raises `LaunchFailed` when it cannot be unpacked, `OSError` when there is no place for it.
    """
    folder = _store()
    place = f"{folder}/{_name(image.content, users)}"
    found = _open(place, descriptors)
    if found is not None:
        return found
    with _changing(folder) as store:
        if not os.path.lexists(place):
            _unpack(image, users, launcher, store, place)
        found = _open(place, descriptors)
    assert found is not None  # nobody removes one meanwhile
    return found


def collect(contents: Collection[str]) -> list[str]:
    """Remove what was unpacked of images that are no more, or for other ids; what is in use stays.

    Parameters
    ----------
    contents: of the images that there are.

    Returns the names of what was removed. Raises `LaunchFailed` when something cannot be removed, and
    `BackendUnavailable` when that has become impossible.
    """
    folder = _store()
    if not os.path.isdir(folder) or not os.listdir(folder):
        return []
    users, launcher = own_namespace(), find_program(LAUNCHER)
    if launcher is None:
        message = "the launcher that runs inside containers is not built"
        raise BackendUnavailable(Problem("launcher_missing", "", message, fix=FIX))
    kept = {_name(content, users) for content in contents}
    removed: list[str] = []
    with _changing(folder) as store:
        for name in sorted(set(os.listdir(folder)) - kept):
            with _for_us_alone(f"{folder}/{name}") as is_free:
                if is_free:
                    # Renamed first, so that an interrupted removal leaves no half of an image.
                    going = f"{_GOING}{secrets.token_hex(8)}"
                    os.rename(f"{folder}/{name}", f"{folder}/{going}")
                    _as_root_of(users, launcher, ("remove", str(store), going), (store,), f"{folder}/{name}")
                    removed.append(name)
    return removed


def _store() -> str:
    return f"{user_store().rpartition('/')[0]}/unpacked"


def _name(content: str, users: UserNamespace) -> str:
    root = users.ids[0]
    return f"{content}-{root.uid}-{root.gid}"


def _open(place: str, descriptors: ChildDescriptors) -> int | None:
    try:
        held = descriptors.add(os.open(place, _FOLDER))
        flock(held, LOCK_SH | LOCK_NB)
        return descriptors.add(os.open(f"{place}/{_ROOT}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except (FileNotFoundError, BlockingIOError):
        return None


@contextmanager
def _changing(folder: str) -> Generator[int]:
    """The store, ours alone to change."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd = os.open(folder, _FOLDER)
    try:
        flock(fd, LOCK_EX)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _for_us_alone(place: str) -> Generator[bool]:
    """Whether no container has it open, and none will until the end."""
    fd = os.open(place, _FOLDER)
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def _unpack(image: Image, users: UserNamespace, launcher: str, store: int, place: str) -> None:
    folder, _, _ = place.rpartition("/")
    name = f"{_GOING}{secrets.token_hex(8)}"
    os.mkdir(f"{folder}/{name}", mode=0o700)
    descriptors = ChildDescriptors()
    try:
        source = descriptors.add(os.open(image.rootfs, os.O_RDONLY | os.O_CLOEXEC))
        target = descriptors.add(os.open(f"{folder}/{name}", _FOLDER))
        words = ("unpack", str(source), str(target))
        _as_root_of(users, launcher, words, (source, target), image.rootfs)
        os.rename(f"{folder}/{name}", place)
    except LaunchFailed:
        with suppress(LaunchFailed):  # then it is for `collect`, as after a kill
            _as_root_of(users, launcher, ("remove", str(store), name), (store,), place)
        raise
    finally:
        descriptors.close()


def _as_root_of(
    users: UserNamespace, launcher: str, words: tuple[str, ...], fds: tuple[int, ...], subject: str
) -> None:
    """Run the launcher as root of the namespace, and wait for its end.

    Parameters
    ----------
    words: what it is to do, with the `fds` that it gets under the same numbers.
    subject: what it is about, for the error.
    """
    descriptors = ChildDescriptors()
    control, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
    complaints, end = os.pipe2(os.O_CLOEXEC)
    try:
        null = descriptors.add(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        program = descriptors.add(os.open(launcher, os.O_RDONLY | os.O_CLOEXEC))
        spec = OutsideSpec(
            parent_pid=os.getpid(),
            control=descriptors.add(theirs.detach()),
            argv=(f"/proc/self/fd/{program}", *words),
            users=users,
            keep=tuple(sorted((program, *fds))),
        )
        argv = (launcher, "outside", str(descriptors.add(spec_memfd(encode(spec)))))
        child = process.spawn(argv, (null, null, descriptors.add(end)), sorted({*descriptors.fds, *fds}))
        descriptors.close()
        _await(child, control, complaints, words[0], subject)
    finally:
        descriptors.close()
        control.close()
        os.close(complaints)


def _await(child: process.Spawned, control: socket, complaints: int, what: str, subject: str) -> None:
    said = b""
    try:
        while piece := os.read(complaints, _SAID_BYTES):
            said = (said + piece)[:_SAID_BYTES]
    except BaseException:  # interrupted: it would go on
        pidfd_send_signal(child.pidfd, SIGKILL)
        raise
    finally:
        status = process.reap(child)
        os.close(child.pidfd)
    if status == 0:
        return
    why = said.decode("utf-8", "replace").strip() or f"the launcher ended with status {status}"
    report = control.recv(MESSAGE_BYTES)
    failed = decode_message(report) if report else None
    if isinstance(failed, Failed):
        raise LaunchFailed(namespace_problem(failed, why))
    from shlex import quote

    problem = Problem(
        f"{what}_image",
        subject,
        f"{subject} cannot be {_DONE[what]}: {why}",
        expected="a local file system with room, below XDG_DATA_HOME, else ~/.local/share",
        fix=f"df -h {quote(_store())}",
    )
    raise LaunchFailed(problem)


_DONE = {"unpack": "unpacked", "remove": "removed"}
