"""The files of an image, opened for one start of QEMU (effectful)."""

from __future__ import annotations

import fcntl
import os

from backends.errors import BackendUnavailable, LaunchFailed, Problem
from backends.qemu.machine import Part
from backends.virtual_machine import Image

__all__ = ["Parts", "hold_folder", "hold_image", "open_parts"]


class Parts:
    """`fds`: part or disk name → descriptor. A context manager that closes them."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        while self.fds:
            os.close(self.fds.popitem()[1])


def open_parts(image: Image, *, boots: bool) -> Parts:
    """Open kernel and initrd (for a machine that boots) and the root file system.

    Raises `LaunchFailed` when one is not there.
    """
    parts = Parts()
    wanted = {Part.KERNEL.value: image.kernel, Part.INITRD.value: image.initrd} if boots else {}
    if image.rootfs:
        wanted["rootfs"] = image.rootfs
    try:
        for name, path in wanted.items():
            parts.fds[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        parts.__exit__()
        message = f"image {image.name!r} cannot be read: {error}"
        fix = f"mxc-ops image build {image.name}"
        raise LaunchFailed(Problem("image_not_readable", "", message, fix=fix)) from error
    return parts


def hold_image(image: Image) -> int:
    """Keep an image from being removed until the descriptor is closed, which is the caller's to do.

    Raises `BackendUnavailable`, worth another look-up, when it was removed meanwhile.
    """
    return hold_folder(os.path.dirname(image.kernel), image.name, f"mxc-ops image build {image.name}")


def hold_folder(folder: str, name: str, fix: str) -> int:
    """The same for the folder of any image of the store; `name` and `fix` are for the error."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(fd), os.lstat(folder)):
                raise FileNotFoundError
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        message = f"the image {name!r} was removed a moment ago"
        raise BackendUnavailable(Problem("image_removed", "", message, fix=fix), retryable=True) from error
    return fd
