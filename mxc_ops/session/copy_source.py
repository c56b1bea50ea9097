"""What is put into a sandbox: a file, link or tree of ours, looked through before anything of it is sent.

No link is followed below what was named, nor in its place. What changes after it was looked through costs no
more than its own content: a file has the size that it has when it is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import suppress

from backends.frozen import frozen
from backends.guest_etc import INSIDE_ID
from backends.guest_files.beneath import Below, open_beneath
from backends.guest_files.tar_writer import END, Member, header, padding
from backends.guest_files.tree import MAX_DEPTH
from mxc_ops.session.copy_errors import SOURCE, host_failed, not_copied, several, too_much

__all__ = ["MOST_ENTRIES", "HostSource"]

MOST_ENTRIES = 1_000_000
_CHUNK = 256 << 10
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OURS = (INSIDE_ID, INSIDE_ID)
_FULL = 0o700


@frozen
class _Found:
    """`path` is relative to what was named ("" is that itself); `target` is a link's."""

    path: str
    status: os.stat_result
    target: str = ""


class HostSource:
    """A context manager, which is entered where it blocks nobody.

    Parameters
    ----------
    path: what to put.
    most_bytes: of content.

    Entering raises `LaunchFailed` naming what is missing, cannot be read, or is no file, link or directory,
    and `PolicyRefused` when it is more than that.
    """

    def __init__(self, path: str, most_bytes: int) -> None:
        self.path = path if path.strip("/") == "" else path.rstrip("/")
        self._most_bytes = most_bytes
        self._found: list[_Found] = []
        self._handle = -1
        self._below: Below | None = None

    def __enter__(self) -> HostSource:
        try:
            self._handle = os.open(self.path, _PATH)
        except OSError as error:
            raise host_failed(SOURCE, self.path, error) from error
        try:
            self._below = Below(self._handle if self.is_directory else -1, self._handle)
            self._look_through()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._below is not None:
            self._below.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    @property
    def name(self) -> str:
        """What it is called where it goes; "" for one without a name of its own, such as ``.``."""
        last = os.path.basename(self.path)
        return "" if last in (".", "..") else last

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(os.fstat(self._handle).st_mode)

    @property
    def content_bytes(self) -> int:
        return sum(found.status.st_size for found in self._found if stat.S_ISREG(found.status.st_mode))

    @property
    def entries(self) -> int:
        return len(self._found)

    def archive(self, *, with_top: bool) -> Iterator[bytes]:
        """The archive for the agent; everything is the workload's, no file has special permissions.

        Directories can be written to until they are complete, and get their own permissions then. `with_top`:
        with the directory itself, else only what is in it. Raises what entering does, for what has changed.
        """
        parts: list[bytes] = []
        held = 0
        for part in self._parts(with_top=with_top):
            parts.append(part)
            held += len(part)
            if held >= _CHUNK:
                yield b"".join(parts)
                parts, held = [], 0
        yield b"".join(parts)

    def _parts(self, *, with_top: bool) -> Iterator[bytes]:
        closed: list[Member] = []
        left = self._most_bytes
        for found in self._found:
            if not found.path and self.is_directory and not with_top:
                continue
            if stat.S_ISREG(found.status.st_mode):
                with suppress(FileNotFoundError):  # it was removed since
                    left -= yield from self._file(found, left)
                continue
            member = _member(found, found.status)
            if stat.S_ISDIR(member.mode) and member.mode & _FULL != _FULL:
                closed.append(member)
                member = Member(member.name, member.mode | _FULL, member.ids, member.mtime_ns)
            yield header(member)
        yield b"".join(map(header, reversed(closed)))
        yield END

    def _look_through(self) -> None:
        problems: list[tuple[str, str]] = []
        content = 0
        for found in self._walk(problems):
            mode = found.status.st_mode
            self._found.append(found)
            content += found.status.st_size if stat.S_ISREG(mode) else 0
            if content > self._most_bytes or len(self._found) > MOST_ENTRIES:
                raise too_much(SOURCE, self.path, self._most_bytes)
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
                problems.append((self._shown(found.path), "is neither a file, a link nor a directory"))
            elif stat.S_ISREG(mode):
                try:
                    os.close(self._open(found.path))
                except OSError as error:
                    problems.append((self._shown(found.path), _why(error)))
        if problems:
            raise several(SOURCE, problems)

    def _walk(self, problems: list[tuple[str, str]]) -> Iterator[_Found]:
        """Depth first, parents before children: the agent gives a directory its time when it is complete."""
        top = os.fstat(self._handle)
        target = os.readlink("", dir_fd=self._handle) if stat.S_ISLNK(top.st_mode) else ""
        yield _Found("", top, target)
        waiting = self._listed("", problems) if stat.S_ISDIR(top.st_mode) else []
        while waiting:
            found = waiting.pop()
            yield found
            if stat.S_ISDIR(found.status.st_mode):
                if found.path.count("/") >= MAX_DEPTH:
                    raise not_copied(SOURCE, self._shown(found.path), f"is more than {MAX_DEPTH} deep")
                waiting += self._listed(found.path, problems)

    def _listed(self, path: str, problems: list[tuple[str, str]]) -> list[_Found]:
        """What is in a directory, last name first."""
        try:
            opened = open_beneath(self._handle, path, _LISTING)
        except OSError as error:
            problems.append((self._shown(path), _why(error)))
            return []
        found: list[_Found] = []
        try:
            for name in sorted(os.listdir(opened), key=os.fsencode, reverse=True):
                with suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=opened, follow_symlinks=False)
                    target = os.readlink(name, dir_fd=opened) if stat.S_ISLNK(status.st_mode) else ""
                    found.append(_Found(f"{path}/{name}" if path else name, status, target))
        except OSError as error:
            problems.append((self._shown(path), _why(error)))
        finally:
            os.close(opened)
        return found

    def _open(self, path: str) -> int:
        assert self._below is not None  # entered
        return self._below.open_for_reading(path)

    def _file(self, found: _Found, most: int) -> Generator[bytes, None, int]:
        try:
            opened = self._open(found.path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise host_failed(SOURCE, self._shown(found.path), error) from error
        try:
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode):
                raise not_copied(SOURCE, self._shown(found.path), "became something else while it was read")
            if status.st_size > most:
                raise too_much(SOURCE, self.path, self._most_bytes)
            yield header(_member(found, status))
            yield from _content(opened, status.st_size)
        except OSError as error:
            raise host_failed(SOURCE, self._shown(found.path), error) from error
        finally:
            os.close(opened)
        return status.st_size

    def _shown(self, path: str) -> str:
        return f"{self.path.rstrip('/')}/{path}" if path else self.path


def _member(found: _Found, status: os.stat_result) -> Member:
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    mode = stat.S_IFMT(status.st_mode) | status.st_mode & 0o777
    name = f"./{found.path}" if found.path else "."
    return Member(name, mode, _OURS, status.st_mtime_ns, size, found.target)


def _content(opened: int, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes, with zeros for what is gone, and the padding."""
    left = size
    while left:
        part = os.read(opened, min(left, _CHUNK)) or bytes(min(left, _CHUNK))
        left -= len(part)
        yield part
    yield padding(size)


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror}"
