"""The hypervisor's device, and who may open it."""

from __future__ import annotations

import os
import stat

from backends.errors import BackendUnavailable, PolicyRefused, Problem
from backends.hyperlight.native.facts import Device
from backends.launched.identity import Identity

__all__ = ["DEVICES", "device_group", "observe_device"]

DEVICES = ("/dev/mshv", "/dev/kvm")
"""As the packages look for them: where both are there, the first is theirs."""

_READ_WRITE = os.R_OK | os.W_OK
_FIX = "mxc-ops prep host --backend hyperlight --yes"


def observe_device() -> Device | None:
    """The one that the packages would open; None where there is none."""
    for path in DEVICES:
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISCHR(status.st_mode):
            made = f"{status.st_ino:x}-{status.st_ctime_ns:x}"
            usable = os.access(path, _READ_WRITE)
            mode = stat.S_IMODE(status.st_mode)
            return Device(path, status.st_uid, status.st_gid, mode, status.st_rdev, usable, made)
    return None


def device_group(device: Device, identity: Identity, pointer: str) -> int | None:
    """The group that a worker of this identity is given to open the device, None where it needs none. Pure.

    Raises `BackendUnavailable` where only root may open it, and `PolicyRefused` for a user that the document
    names and that may not: nobody else's group is given to that one.
    """
    rights = f"{device.path} is of uid {device.uid}, gid {device.gid}, mode {device.mode:04o}"
    if identity.kind == "range":
        if device.mode & 0o006 == 0o006:
            return None
        if device.mode & 0o060 == 0o060 and device.gid != 0:
            return device.gid
        message = f"{rights}: a sandbox never runs as root, and nobody else may open it"
        raise BackendUnavailable(Problem("device_not_shared", device.path, message, fix=_FIX))
    if identity.kind == "named":
        if not _may(device, identity.uid, identity.gid):
            message = f"{rights}: uid {identity.uid}, gid {identity.gid} may not open it"
            fix = f'leave the user out, or name one with "group": {device.gid}'
            raise PolicyRefused(Problem("user_refused", pointer, message, fix=fix))
        return None
    if not device.usable:
        message = f"{rights}: you may not open it"
        raise BackendUnavailable(Problem("device_not_shared", device.path, message, fix=_FIX))
    return None


def _may(device: Device, uid: int, gid: int) -> bool:
    bits = device.mode & 7
    if uid == device.uid:
        bits = device.mode >> 6 & 7
    elif gid == device.gid:
        bits = device.mode >> 3 & 7
    return bits & 6 == 6  # read and write
