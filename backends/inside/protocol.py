"""What the host and the launcher say to each other: the specs it reads, the messages on its control socket.

The launcher is one static program with two modes. *Outside* it runs on the host, joins control groups, makes
the stage of mounts, drops to the sandbox's identity and becomes bubblewrap. *Inside* it is process 1 of the
sandbox: it starts the workload under the last restrictions, reaps, forwards signals and reports the end.

A spec is a header and tagged records, little-endian, handed over in a sealed memfd so that it shows up in no
command line and no environment. The control socket is a ``SOCK_SEQPACKET`` pair; every message has one size.
``wire.h`` is the other side of this file.
"""

from __future__ import annotations

import fcntl
import os
import struct
from enum import IntEnum

from backends.frozen import frozen

MAGIC = 0x4C43584D  # "MXCL"
VERSION = 1
MAX_SPEC_BYTES = 8 << 20
MESSAGE_BYTES = 40

EXIT_SETUP_FAILED = 125
EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127

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
_TAG_CALLER = 26
_TAG_GUARD = 27
_TAG_GIVE = 28

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
_RLIMIT = struct.Struct("<IQQ")
_LANDLOCK = struct.Struct("<IQQQ")
_LANDLOCK_PATH = struct.Struct("<QI")
_MESSAGE = struct.Struct("<IiiIQQQ")


class Step(IntEnum):
    """Where the launcher was when something failed."""

    SPEC = 1
    PARENT_GONE = 2
    SIGNALS = 3
    CGROUP = 4
    DUMPABLE = 5
    STAGE_NAMESPACE = 6
    STAGE_TMPFS = 7
    MOUNT_CHANGED = 8
    MOUNT_OPEN = 9
    MOUNT_ID_MAP = 10
    MOUNT_ATTRIBUTES = 11
    MOUNT_POINT = 12
    MOUNT_MOVE = 13
    IDENTITY = 14
    DESCRIPTORS = 15
    EXEC_SANDBOX = 16
    NOT_INIT = 32
    FORK = 33
    SESSION = 34
    TERMINAL = 35
    STDERR = 36
    CWD = 37
    RLIMIT = 38
    NO_NEW_PRIVS = 39
    LANDLOCK = 40
    LANDLOCK_PATH = 41
    SECCOMP = 42
    EXEC = 43
    EVENTS = 44
    MASK_CHANGED = 45
    GUARD_LOST = 46


@frozen
class IdMap:
    """Files of `owner_*` (ids on the host) appear as, and are written by, `sandbox_*` (ids on the host)."""

    owner_uid: int
    owner_gid: int
    sandbox_uid: int
    sandbox_gid: int


@frozen
class StageMount:
    """One grant, mounted at ``STAGE/<its index>``, nosuid and nodev, submounts included.

    `fd` is an inherited ``O_PATH`` descriptor; `device`, `inode` and `file_type` (the ``S_IFMT`` bits) are
    what was checked: anything else there now is a failure. `id_map` None mounts without changing ids.
    """

    fd: int
    device: int
    inode: int
    file_type: int
    read_only: bool
    id_map: IdMap | None = None


@frozen
class OutsideSpec:
    """What the launcher does on the host before it becomes `argv` (``argv[0]`` is an absolute path).

    `parent_pid` is the process that starts it: without it nothing is started. `control` is the launcher's end
    of the control socket, kept open for the inside. `cgroups` are descriptors, open for writing, of
    ``cgroup.procs`` or ``tasks`` files. `stage` (root only) is an existing directory that a private tmpfs is
    mounted on. `identity` is the host (uid, gid) to drop to. Only 0, 1, 2, `control` and `keep` survive.
    """

    parent_pid: int
    control: int
    argv: tuple[str | bytes, ...]
    cgroups: tuple[int, ...] = ()
    stage: str = ""
    mounts: tuple[StageMount, ...] = ()
    identity: tuple[int, int] | None = None
    keep: tuple[int, ...] = ()


@frozen
class LandlockPath:
    """Access (``LANDLOCK_ACCESS_FS_*`` bits) below `path`, as seen inside; `optional`: it may be missing."""

    path: str
    access: int
    optional: bool = False


@frozen
class LandlockRules:
    """A ruleset for the newest interface known; the launcher leaves out what the running kernel lacks.

    Below `minimum_abi` it fails instead (0: a kernel without Landlock is accepted). Regular files and devices
    that are the workload's standard streams stay reopenable with the rights they were opened with.
    """

    handled_fs: int
    handled_net: int
    scoped: int
    paths: tuple[LandlockPath, ...]
    minimum_abi: int = 0


@frozen
class InsideSpec:
    """What process 1 of the sandbox starts, and under which last restrictions.

    `caller` is a pidfd: when that process ends, so does the sandbox. `hold` are descriptors kept open until
    then and never seen by the workload; `give` are handed to it under the same numbers. `stderr` becomes its
    descriptor 2 (None: 2 as it is). With `tty`, descriptor 0 becomes its controlling terminal. `rlimits` are
    (resource, soft, hard); `seccomp` is a BPF program. ``argv[0]`` without a slash is looked up in the PATH
    of `env`, whose entries are (name, value), given exactly as they are. `masks` are (O_PATH descriptor,
    path) of every denied object: unless that is what is masked at the path, the workload is not started.
    `guards` are paths whose covering mounts must stay: when one goes, the sandbox ends.
    """

    control: int
    argv: tuple[str | bytes, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    umask: int = 0o022
    stderr: int | None = None
    caller: int | None = None
    tty: bool = False
    hold: tuple[int, ...] = ()
    give: tuple[int, ...] = ()
    rlimits: tuple[tuple[int, int, int], ...] = ()
    landlock: LandlockRules | None = None
    seccomp: bytes = b""
    masks: tuple[tuple[int, str], ...] = ()
    guards: tuple[str, ...] = ()


@frozen
class Started:
    """The workload's program runs. `landlock_abi` is the interface its ruleset was applied with (0: none)."""

    landlock_abi: int


@frozen
class Failed:
    """Set-up failed and nothing of the workload ran; `index` counts mounts, cgroups, rlimits or paths."""

    step: Step
    errno: int
    index: int


@frozen
class EndedMessage:
    """The workload ended: `status` as ``waitpid`` gives it; usage over every process of the sandbox."""

    status: int
    user_us: int
    system_us: int
    max_rss_kib: int


Message = Started | Failed | EndedMessage


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
    if spec.stage:
        records.append(_text(_TAG_STAGE, spec.stage))
    records += [_record(_TAG_MOUNT, _mount(mount)) for mount in spec.mounts]
    if spec.identity is not None:
        records.append(_record(_TAG_IDENTITY, _U32.pack(spec.identity[0]) + _U32.pack(spec.identity[1])))
    records += [_number(_TAG_KEEP, fd) for fd in spec.keep]
    records += [_text(_TAG_ARG, argument) for argument in spec.argv]
    return records


def _inside_records(spec: InsideSpec) -> list[bytes]:
    records = [_number(_TAG_CONTROL, spec.control)]
    records += [_number(_TAG_HOLD, fd) for fd in spec.hold]
    records += [_number(_TAG_GIVE, fd) for fd in spec.give]
    if spec.stderr is not None:
        records.append(_number(_TAG_STDERR, spec.stderr))
    if spec.caller is not None:
        records.append(_number(_TAG_CALLER, spec.caller))
    if spec.tty:
        records.append(_record(_TAG_TTY, b""))
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
