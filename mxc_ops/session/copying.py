"""Files and directories into a sandbox that runs, and out of it (blocking; commands run on meanwhile)."""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from enum import Enum

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestError, GuestRefused
from backends.agent.from_loop import from_loop
from backends.errors import LaunchFailed, Problem, UsageError
from backends.frozen import frozen
from backends.guest_etc import INSIDE_ID
from backends.guest_files.tar_reader import ArchiveRefused, StreamLimits, read_archive
from backends.inside.agent_protocol import GuestFiles, Step
from backends.qemu.loop_thread import submit
from backends.qemu.off_loop import off_loop, on_thread
from mxc_ops.session.copy_errors import DESTINATION, SOURCE, guest_refused, not_copied
from mxc_ops.session.copy_source import MOST_ENTRIES, HostSource
from mxc_ops.session.copy_target import HostTarget, receive

__all__ = ["MAX_MIB", "Copied", "get", "put"]

MAX_MIB = 1024
"""What one copy may hold unless its caller says otherwise."""
_MIB = 1 << 20
_CONNECT_S = 10.0
_NAME_BYTES = 64 << 20
_LOOK = StreamLimits(content_bytes=0, file_bytes=0, entries=1, name_bytes=4096)
_LOOK_MOST = 65536

Connect = Callable[[], socket.socket]


@frozen
class Copied:
    """`bytes` of content, in so many files, directories and links."""

    bytes: int
    entries: int


class _There(Enum):
    NOTHING = "nothing"
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


def put(connect: Connect, host_path: str, guest_path: str, max_mib: int = MAX_MIB) -> Copied:
    """Copy from the host into a sandbox, as ``cp -r`` would; all of it is the workload's there.

    Parameters
    ----------
    connect: to the sandbox's agent.
    host_path: a file, a directory, or a link, which is put as one.
    guest_path: an existing directory, into which it goes under its name; else what it becomes. A symbolic
        link inside is never followed.
    max_mib: the most that is taken.

    Directories inside stay, with the permissions of those that they are joined with; files and links are
    replaced. Raises `LaunchFailed` and `PolicyRefused` naming the path at fault: what the caller cannot read,
    and what is no file, link or directory, before anything is put.
    """
    path, most = _absolute(guest_path), _bytes(max_mib)
    return submit(_put(connect, _host(host_path), path, most)).result()


def get(connect: Connect, guest_path: str, host_path: str, max_mib: int = MAX_MIB) -> Copied:
    """Copy from a sandbox onto the host, as ``cp -r`` would; all of it is the caller's.

    Parameters
    ----------
    connect: to the sandbox's agent, which is not trusted.
    guest_path: a file or directory. Links below are made as links, hard links become files of their own; the
        agent leaves out sockets, pipes, devices and what is mounted below, and does not pass through a link.
    host_path: an existing directory, into which it goes under its name; else what it becomes. A symbolic link
        in its place is not followed.
    max_mib: the most that is taken.

    Nothing is in its place before all of it has come. Raises `LaunchFailed`, `PolicyRefused`.
    """
    path, most = _absolute(guest_path), _bytes(max_mib)
    limits = StreamLimits(content_bytes=most, file_bytes=most, entries=MOST_ENTRIES, name_bytes=_NAME_BYTES)
    asked = GuestFiles(path, at_most_bytes=most, at_most_entries=MOST_ENTRIES)
    with HostTarget(_host(host_path), path.rpartition("/")[2]) as target, _download(connect, asked) as chunks:
        try:
            return Copied(*receive(chunks, target, limits))
        except GuestRefused as error:
            raise guest_refused(SOURCE, path, error, most) from error
        except GuestError as error:
            raise _lost(error) from error
        except ArchiveRefused as error:
            raise not_copied(SOURCE, path, f"is not taken: {error}", code="archive_refused") from error


@contextmanager
def _download(connect: Connect, asked: GuestFiles) -> Generator[Iterator[bytes]]:
    """Its chunks, for the calling thread."""
    opening: Future[tuple[GuestConnection, asyncio.AbstractEventLoop]] = submit(_opened(connect))
    try:
        connection, loop = opening.result()
    except GuestError as error:
        raise _lost(error) from error
    try:
        yield from_loop(connection.get(asked), loop)
    finally:
        submit(connection.close()).result()


async def _opened(connect: Connect) -> tuple[GuestConnection, asyncio.AbstractEventLoop]:
    connection = await GuestConnection.open(connect(), deadline_s=_CONNECT_S)
    return connection, asyncio.get_running_loop()


async def _put(connect: Connect, host_path: str, guest_path: str, most: int) -> Copied:
    source = HostSource(host_path, most)
    try:
        await on_thread(source.__enter__)
        async with _connected(connect) as connection:
            place, with_top = await _destination(connection, source, guest_path)
            files = GuestFiles(
                place,
                owner=(INSIDE_ID, INSIDE_ID),
                at_most_bytes=most,
                at_most_entries=2 * MOST_ENTRIES,  # directories may come twice
                replace=True,
            )
            try:
                await connection.put(files, off_loop(source.archive(with_top=with_top)))
            except GuestRefused as error:
                raise guest_refused(DESTINATION, place, error, most) from error
        return Copied(source.content_bytes, source.entries)
    except GuestError as error:
        raise _lost(error) from error
    finally:
        source.close()


@asynccontextmanager
async def _connected(connect: Connect) -> AsyncGenerator[GuestConnection]:
    connection = await GuestConnection.open(connect(), deadline_s=_CONNECT_S)
    try:
        yield connection
    finally:
        await connection.close()


async def _destination(connection: GuestConnection, source: HostSource, path: str) -> tuple[str, bool]:
    """(where it goes inside, whether the archive holds the source itself: not for a directory that is there).

    The sandbox may change it all meanwhile, or lie: then its own files are elsewhere among its own files.
    """
    there = await _look(connection, path)
    if there is _There.DIRECTORY and source.name:
        path = f"{path.rstrip('/')}/{source.name}"
        there = await _look(connection, path)
    elif there is _There.NOTHING:
        above = path.rpartition("/")[0] or "/"
        if await _look(connection, above) is not _There.DIRECTORY:
            raise not_copied(DESTINATION, above, "is no directory inside the sandbox")
    elif there is _There.LINK:
        why = "is a symbolic link inside the sandbox, which is not followed"
        fix = f"name what it leads to: mxc-ops session exec ID -- readlink -f {path}"
        raise not_copied(DESTINATION, path, why, fix=fix)
    if source.is_directory and there in (_There.FILE, _There.LINK):
        raise not_copied(DESTINATION, path, "is there already inside the sandbox, and no directory")
    if not source.is_directory and there is _There.DIRECTORY:
        raise not_copied(DESTINATION, path, "is a directory inside the sandbox already")
    return path, there is not _There.DIRECTORY


async def _look(connection: GuestConnection, path: str) -> _There:
    """What is there inside, from how the agent answers a GET that may bring nothing.

    Raises `LaunchFailed` for what cannot be looked at, or is neither file, directory nor link.
    """
    download = connection.get(GuestFiles(path, at_most_bytes=0, at_most_entries=1))
    content = bytearray()
    try:
        async for piece in download:
            content += piece
            if len(content) > _LOOK_MOST:
                raise not_copied(DESTINATION, path, "is not what the sandbox tells of it")
    except GuestRefused as error:
        return _refusal(path, error)
    finally:
        await download.aclose()
    try:
        entry, _ = next(read_archive(iter([bytes(content)]), _LOOK))
    except (ArchiveRefused, StopIteration) as error:
        raise not_copied(DESTINATION, path, "is not what the sandbox tells of it") from error
    return _There.DIRECTORY if stat.S_ISDIR(entry.mode) else _There.FILE


def _refusal(path: str, error: GuestRefused) -> _There:
    if error.step is not Step.OPEN:  # it was opened, and told which part of it was too much, or not readable
        return _There.FILE if error.subject == "." else _There.DIRECTORY
    match error.errno:
        case errno.ENOENT:
            return _There.NOTHING
        case errno.ELOOP:
            return _There.LINK
        case _:
            raise guest_refused(DESTINATION, path, error, 0)


def _absolute(path: str) -> str:
    """A guest path without empty parts. Raises `UsageError`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/") or ".." in parts or "\0" in path:
        message = f"{path!a} is no path inside a sandbox"
        raise UsageError(Problem("usage", "ID:PATH", message, expected="an absolute path without .."))
    return "/" + "/".join(parts)


def _host(path: str) -> str:
    if not path or "\0" in path:
        raise UsageError(Problem("usage", "PATH", f"{path!a} is no path of a file"))
    return path


def _bytes(max_mib: int) -> int:
    if max_mib <= 0:
        raise UsageError(Problem("usage", "--max", f"{max_mib} is no number of MiB", expected="at least 1"))
    return max_mib * _MIB


def _lost(error: GuestError) -> LaunchFailed:
    message = f"the sandbox ended, or was stopped, while it was copied: {error}"
    return LaunchFailed(Problem("sandbox_ended", "", message), retryable=True)
