"""The files behind a machine's data disks: grants, a container's image, what it writes (effectful)."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack

from backends.base import Handles
from backends.errors import LaunchFailed, PolicyRefused, Problem
from backends.guest_files.disk import build_disk
from backends.linux.delegation import as_caller, calling_user
from backends.qemu.memory_file import copy_data
from backends.qemu.parts import hold_folder
from backends.qemu.template_plan import GRANTS, GRANTS_BYTES
from backends.vm.container import UPPER, PlannedContainer
from backends.vm.plan import VmPlan

__all__ = ["NO_DISKS", "MachineDisks", "open_disks"]

_FORMAT_S = 30
_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"
_FORMAT = ("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard")


class MachineDisks:
    """Open files by the names of disks, and how many bytes of each matter.

    `held` are locks on a container's image, which keep it from being removed.
    """

    def __init__(
        self,
        fds: dict[str, int],
        used_bytes: dict[str, int],
        warnings: tuple[str, ...] = (),
        held: Iterable[int] = (),
    ) -> None:
        """The descriptors are its own from now on."""
        self.fds = fds
        self.used_bytes = used_bytes
        self.warnings = warnings
        self.held = list(held)

    def copy(self, storage: str = "") -> MachineDisks:
        """The same open files once more, under descriptors of the copy's own; what is written is copied.

        Parameters
        ----------
        storage: the directory that the disk for what is written lies in.

        Raises `LaunchFailed` when it is full; nothing is left open then.
        """
        made = MachineDisks({}, dict(self.used_bytes))
        try:
            for name, fd in self.fds.items():
                made.fds[name] = _copied(fd, storage) if name == UPPER.name else _duplicate(fd)
            made.held = [_duplicate(fd) for fd in self.held]
        except BaseException:
            made.close()
            raise
        return made

    def hold(self, container: PlannedContainer) -> None:
        """Keep the container's image from being removed. Raises `BackendUnavailable` when it was."""
        self.held.append(_held(container))

    def close(self) -> None:
        """Idempotent."""
        while self.fds:
            os.close(self.fds.popitem()[1])
        while self.held:
            os.close(self.held.pop())


NO_DISKS = MachineDisks({}, {})
"""Of a machine all of whose disks are holes."""


def open_disks(plan: VmPlan, handles: Handles) -> MachineDisks:
    """Make and open what the plan's machine needs; the caller closes it.

    Raises `LaunchFailed`, `PolicyRefused` for a storage that cannot be used, `BackendUnavailable` for an
    image that was removed.
    """
    fds: dict[str, int] = {}
    used: dict[str, int] = {}
    warnings: tuple[str, ...] = ()
    held: list[int] = []
    with ExitStack() as undo:
        undo.callback(lambda: MachineDisks(fds, used, held=held).close())
        if plan.files.read_only:
            disk = build_disk(plan.files, handles, size_bytes=GRANTS_BYTES)
            fds[GRANTS.name], used[GRANTS.name] = disk.fd, disk.used_bytes
            warnings = disk.warnings
        if plan.container is not None:
            container = plan.container
            held.append(_held(container))
            fds[container.root.name] = _open_image(container)
            used[container.root.name] = (
                os.fstat(fds[container.root.name]).st_blocks * 512
            )  # holes are not copied
            if container.storage:
                fds[UPPER.name] = _make_upper(container, plan.pointers.get("wslc", "/wslc"))
                used[UPPER.name] = UPPER.size_bytes
        undo.pop_all()
    return MachineDisks(fds, used, warnings, held)


def _held(container: PlannedContainer) -> int:
    image = container.image
    fix = f"mxc-ops image pull {image.reference}"
    return hold_folder(os.path.dirname(image.rootfs), image.reference, fix)


def _copied(fd: int, storage: str) -> int:
    try:
        copy = _unnamed(storage)
        try:
            copy_data(fd, copy)
            os.fchmod(copy, 0o666)
        except BaseException:
            os.close(copy)
            raise
    except OSError as error:
        message = f"what the container has written is not copied in {storage!r}: {error.strerror}"
        raise LaunchFailed(Problem("disk_not_copied", "", message)) from error
    return copy


def _unnamed(folder: str) -> int:
    """A file that goes with its last descriptor, made with the rights of whoever calls us."""
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    return as_caller(calling_user(), lambda _: os.open(folder, flags, 0o600))


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _open_image(container: PlannedContainer) -> int:
    try:
        return os.open(container.image.rootfs, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        message = f"the container image {container.image.reference!r} cannot be read: {error.strerror}"
        fix = f"mxc-ops image verify {container.image.key}"
        raise LaunchFailed(Problem("image_not_readable", "", message, fix=fix)) from error


def _make_upper(container: PlannedContainer, pointer: str) -> int:
    """An empty file system in a file that never has a name, so that it goes with the machine."""
    where = f"{pointer}/storagePath" if pointer.startswith("/") else f"{pointer}.storage"
    try:
        fd = _unnamed(container.storage)
    except OSError as error:
        message = f"no file can be made in {container.storage!r}: {error.strerror}"
        raise PolicyRefused(Problem("storage_unusable", where, message, expected="a directory")) from error
    try:
        os.ftruncate(fd, UPPER.size_bytes)
        done = subprocess.run(
            [*_FORMAT, f"/proc/self/fd/{fd}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_FORMAT_S,
            pass_fds=(fd,),
            env={"PATH": _SBIN},
            check=False,
        )
        if done.returncode != 0:
            raise _not_formatted(done.stderr.strip()[-300:])
        os.fchmod(fd, 0o666)  # a virtual machine without any rights of its own opens it anew
    except (OSError, subprocess.SubprocessError) as error:
        os.close(fd)
        raise _not_formatted(str(error)) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _not_formatted(why: str) -> LaunchFailed:
    fix = "mxc-ops prep host --backend wslc --yes"
    return LaunchFailed(
        Problem("storage_not_formatted", "", f"the container's disk is not made: {why}", fix=fix)
    )
