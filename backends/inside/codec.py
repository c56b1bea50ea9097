"""The launcher's specs as bytes, its messages back. What they mean: `backends.inside.protocol`."""

from __future__ import annotations

import fcntl
import os
import struct

from backends.inside.protocol import (
    MAGIC,
    MAX_SPEC_BYTES,
    MESSAGE_BYTES,
    VERSION,
    EndedMessage,
    Failed,
    InsideSpec,
    LandlockPath,
    Message,
    OutsideSpec,
    StageMount,
    StageRoot,
    Started,
    Step,
)

__all__ = ["decode_message", "encode", "signal_message", "spec_memfd"]

_MODE_OUTSIDE = 1
_MODE_INSIDE = 2

_TAG_PARENT = 1
_TAG_CONTROL = 2
_TAG_CGROUP = 3
_TAG_STAGE = 4
_TAG_MOUNT = 5
_TAG_IDENTITY = 6
_TAG_KEEP = 7
_TAG_ARG = 8
_TAG_ENV = 9
_TAG_ROOT = 10
_TAG_ENTRY = 11
_TAG_CONTENT = 12
_TAG_HIDDEN = 13
_TAG_USERS = 14
_TAG_MAPPER = 15
_TAG_HOLD = 16
_TAG_STDERR = 17
_TAG_TTY = 18
_TAG_UMASK = 19
_TAG_CWD = 20
_TAG_RLIMIT = 21
_TAG_LANDLOCK = 22
_TAG_LANDLOCK_PATH = 23
_TAG_SECCOMP = 24
_TAG_MASK = 25
_TAG_OWNER = 26
_TAG_GUARD = 27
_TAG_GIVE = 28
_TAG_USER = 29
_TAG_UNSTOPPED = 30
_TAG_IN_USERS = 31
_TAG_IN_NETWORK = 32

_MOUNT_READ_ONLY = 1
_MOUNT_IDMAPPED = 2

_KIND_STARTED = 1
_KIND_FAILED = 2
_KIND_ENDED = 3
_KIND_SIGNAL = 16

_HEADER = struct.Struct("<IIII")
_RECORD = struct.Struct("<II")
_U32 = struct.Struct("<I")
_MOUNT = struct.Struct("<IIQQIIIII")
_ROOT = struct.Struct("<IQIIIIIIII")
_IDS = struct.Struct("<IIII")
_RLIMIT = struct.Struct("<IQQ")
_LANDLOCK = struct.Struct("<IQQQ")
_LANDLOCK_PATH = struct.Struct("<QI")
_MESSAGE = struct.Struct("<IiiIQQQ")


def encode(spec: OutsideSpec | InsideSpec) -> bytes:
    """The spec as the launcher reads it.

    Raises ValueError for a string with NUL and for a spec over 8 MiB.
    """
    outside = isinstance(spec, OutsideSpec)
    body = b"".join(_outside_records(spec) if outside else _inside_records(spec))
    size = _HEADER.size + len(body)
    if size > MAX_SPEC_BYTES:
        raise ValueError(
            f"command and environment take {size} bytes; at most {MAX_SPEC_BYTES} can be handed over"
        )
    return _HEADER.pack(MAGIC, VERSION, _MODE_OUTSIDE if outside else _MODE_INSIDE, size) + body


def spec_memfd(encoded: bytes) -> int:
    """A sealed, close-on-exec memfd with the spec, positioned at its start. The caller closes it."""
    fd = os.memfd_create("spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(encoded)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.lseek(fd, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def decode_message(data: bytes) -> Message:
    """One message of the launcher. Raises ValueError when it is not one."""
    if len(data) != MESSAGE_BYTES:
        raise ValueError(f"a launcher message has {MESSAGE_BYTES} bytes, this one has {len(data)}")
    kind, value, errno, index, user_us, system_us, max_rss_kib = _MESSAGE.unpack(data)
    if kind == _KIND_STARTED:
        return Started(index)
    if kind == _KIND_FAILED:
        return Failed(Step(value), errno, index)
    if kind == _KIND_ENDED:
        return EndedMessage(value, user_us, system_us, max_rss_kib)
    raise ValueError(f"unknown launcher message {kind}")


def signal_message(number: int) -> bytes:
    """Ask process 1 of the sandbox to send a signal to every other process in it."""
    return _MESSAGE.pack(_KIND_SIGNAL, number, 0, 0, 0, 0, 0)


def _outside_records(spec: OutsideSpec) -> list[bytes]:
    records = [_number(_TAG_PARENT, spec.parent_pid), _number(_TAG_CONTROL, spec.control)]
    records += [_number(_TAG_CGROUP, fd) for fd in spec.cgroups]
    if spec.users is not None:
        records += [
            _record(_TAG_USERS, _IDS.pack(one.inside, one.inside, one.uid, one.gid)) for one in spec.users.ids
        ]
        records += [_text(_TAG_MAPPER, tool) for tool in spec.users.mappers]
    if spec.stage:
        records.append(_text(_TAG_STAGE, spec.stage))
    if spec.root is not None:
        records += _root_records(spec.root)
    records += [_record(_TAG_MOUNT, _mount(mount)) for mount in spec.mounts]
    if spec.identity is not None:
        records.append(_record(_TAG_IDENTITY, _U32.pack(spec.identity[0]) + _U32.pack(spec.identity[1])))
    if spec.in_users is not None:
        records.append(_number(_TAG_IN_USERS, spec.in_users))
    if spec.in_network is not None:
        records.append(_number(_TAG_IN_NETWORK, spec.in_network))
    records += [_number(_TAG_KEEP, fd) for fd in spec.keep]
    records += [_text(_TAG_ARG, argument) for argument in spec.argv]
    return records


def _root_records(root: StageRoot) -> list[bytes]:
    ids = [
        number for one in (root.root, root.workload) for number in (one.inside, one.inside, one.uid, one.gid)
    ]
    records = [_record(_TAG_ROOT, _ROOT.pack(root.image, root.size_bytes, *ids))]
    records += [_text(_TAG_HIDDEN, name) for name in root.hidden]
    for entry in root.entries:
        records.append(_record(_TAG_ENTRY, _U32.pack(entry.mode) + _terminated(entry.path)))
        records.append(_text(_TAG_CONTENT, entry.content))
    return records


def _inside_records(spec: InsideSpec) -> list[bytes]:
    records = [_number(_TAG_CONTROL, spec.control)]
    records += [_number(_TAG_HOLD, fd) for fd in spec.hold]
    records += [_number(_TAG_GIVE, fd) for fd in spec.give]
    if spec.stderr is not None:
        records.append(_number(_TAG_STDERR, spec.stderr))
    records += [_number(_TAG_OWNER, pidfd) for pidfd in spec.owners]
    if spec.tty:
        records.append(_record(_TAG_TTY, b""))
    if spec.unstopped:
        records.append(_record(_TAG_UNSTOPPED, b""))
    if spec.user is not None:
        records.append(_record(_TAG_USER, _U32.pack(spec.user[0]) + _U32.pack(spec.user[1])))
    records += [_number(_TAG_UMASK, spec.umask), _text(_TAG_CWD, spec.cwd)]
    records += [_record(_TAG_RLIMIT, _RLIMIT.pack(*limit)) for limit in spec.rlimits]
    if spec.landlock is not None:
        rules = spec.landlock
        head = _LANDLOCK.pack(rules.minimum_abi, rules.handled_fs, rules.handled_net, rules.scoped)
        records.append(_record(_TAG_LANDLOCK, head))
        records += [_landlock_path(path) for path in rules.paths]
    if spec.seccomp:
        records.append(_record(_TAG_SECCOMP, spec.seccomp))
    records += [_text(_TAG_GUARD, path) for path in spec.guards]
    records += [_record(_TAG_MASK, _U32.pack(fd) + _terminated(path)) for fd, path in spec.masks]
    records += [_text(_TAG_ARG, argument) for argument in spec.argv]
    records += [_text(_TAG_ENV, f"{name}={value}") for name, value in spec.env]
    return records


def _mount(mount: StageMount) -> bytes:
    flags = _MOUNT_READ_ONLY if mount.read_only else 0
    ids = mount.id_map
    if ids is None:
        owners = (0, 0, 0, 0)
    else:
        flags |= _MOUNT_IDMAPPED
        owners = (ids.owner_uid, ids.owner_gid, ids.sandbox_uid, ids.sandbox_gid)
    return _MOUNT.pack(mount.fd, mount.file_type, mount.device, mount.inode, flags, *owners)


def _landlock_path(path: LandlockPath) -> bytes:
    head = _LANDLOCK_PATH.pack(path.access, path.optional)
    return _record(_TAG_LANDLOCK_PATH, head + _terminated(path.path))


def _record(tag: int, payload: bytes) -> bytes:
    return _RECORD.pack(tag, len(payload)) + payload


def _number(tag: int, value: int) -> bytes:
    return _record(tag, _U32.pack(value))


def _text(tag: int, text: str | bytes) -> bytes:
    return _record(tag, _terminated(text))


def _terminated(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    if b"\0" in raw:
        raise ValueError("a string for the launcher holds a NUL character")
    return raw + b"\0"
