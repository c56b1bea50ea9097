"""Files of the machine that an object's code runs in."""

from __future__ import annotations

import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestError, GuestRefused
from backends.errors import LaunchFailed, Problem
from backends.guest_etc import INSIDE_ID
from backends.guest_files.tar_reader import ArchiveRefused, StreamLimits, read_archive
from backends.guest_files.tar_writer import END, Member, header, padding
from backends.inside.agent_protocol import GuestFiles, Step
from backends.qemu.loop_thread import submit
from mxc_ops.session import copying
from mxc_ops.session.copy_errors import DESTINATION, SOURCE, guest_refused, not_copied
from mxc_ops.session.copying import MAX_MIB

if TYPE_CHECKING:
    from mxc_ops.session.copying import Copied

__all__ = ["Files"]

_CONNECT_S = 10.0
_MIB = 1 << 20
_CHUNK = 256 << 10
_OURS = (INSIDE_ID, INSIDE_ID)


class Files:
    """As of `Hyperlight.files`: ``files["data.csv"] = b"…"``, ``files["/etc/hostname"]``, `put`, `get`.

    Paths are the guest's; one that is not absolute lies in the working directory of the code. No symbolic
    link of the guest's is followed. All of it may be used while code runs, from any thread. Raises
    `LaunchFailed` and `PolicyRefused`, which name the path at fault.
    """

    def __init__(
        self, ready: Callable[[], object], connect: Callable[[], socket.socket], folder: str
    ) -> None:
        """`ready` sees to it that there is a machine, `connect` leads to its agent."""
        self._ready = ready
        self._connect = connect
        self._folder = folder

    def __setitem__(self, path: str, content: bytes) -> None:
        """Have a file there, in the place of any that was; the directory must be there."""
        self._ready()
        submit(self._write(self._absolute(path), bytes(content))).result()

    def __getitem__(self, path: str) -> bytes:
        """The content of a file of at most 64 MiB."""
        self._ready()
        return submit(self._read(self._absolute(path), 64 * _MIB)).result()

    def put(self, host_path: str, guest_path: str, *, max_mib: int = MAX_MIB) -> Copied:
        """Copy a file or directory of the host in; see `mxc_ops.Session.put`."""
        self._ready()
        return copying.put(self._connect, host_path, self._absolute(guest_path), max_mib)

    def get(self, guest_path: str, host_path: str, *, max_mib: int = MAX_MIB) -> Copied:
        """Copy a file or directory out, onto the host; see `mxc_ops.Session.get`."""
        self._ready()
        return copying.get(self._connect, self._absolute(guest_path), host_path, max_mib)

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._folder.rstrip('/')}/{path}"

    async def _write(self, path: str, content: bytes) -> None:
        folder, _, name = path.rpartition("/")
        if name in ("", ".", "..") or "\0" in path:
            raise not_copied(DESTINATION, path, "is no path of a file")
        entry = header(Member(f"./{name}", stat.S_IFREG | 0o644, _OURS, 0, len(content)))
        archive = b"".join([entry, content, padding(len(content)), END])
        files = GuestFiles(folder or "/", owner=_OURS, at_most_bytes=len(content), replace=True)
        connection = await GuestConnection.open(self._connect(), deadline_s=_CONNECT_S)
        try:
            pieces = (archive[start : start + _CHUNK] for start in range(0, len(archive), _CHUNK))
            await connection.put(files, pieces)
        except GuestRefused as error:
            raise guest_refused(DESTINATION, path, error, len(content)) from error
        except GuestError as error:
            raise _lost(error) from error
        finally:
            await connection.close()

    async def _read(self, path: str, most: int) -> bytes:
        limits = StreamLimits(content_bytes=most, file_bytes=most, entries=1, name_bytes=4096)
        connection = await GuestConnection.open(self._connect(), deadline_s=_CONNECT_S)
        try:
            content = bytearray()
            async for piece in connection.get(GuestFiles(path, at_most_bytes=most, at_most_entries=1)):
                content += piece
                if len(content) > most + _MIB:
                    raise not_copied(SOURCE, path, "is not what the guest tells of it")
            entry, pieces = next(read_archive(iter([bytes(content)]), limits))
            if not stat.S_ISREG(entry.mode):
                raise not_copied(SOURCE, path, "is no file")
            return b"".join(pieces)
        except GuestRefused as error:
            if error.step is Step.OPEN:
                raise guest_refused(SOURCE, path, error, most) from error
            large = error.step is Step.TOO_MUCH and error.subject == "."
            why = f"holds more than {most // _MIB} MiB" if large else "is no file"
            raise not_copied(SOURCE, path, why, fix="files.get(PATH, HOST_PATH)") from error
        except (ArchiveRefused, StopIteration) as error:
            raise not_copied(SOURCE, path, f"is not taken: {error}", code="archive_refused") from error
        except GuestError as error:
            raise _lost(error) from error
        finally:
            await connection.close()


def _lost(error: GuestError) -> LaunchFailed:
    message = f"the machine ended, or was exchanged, meanwhile: {error}"
    return LaunchFailed(Problem("sandbox_ended", "", message), retryable=True)
