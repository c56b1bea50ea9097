"""What the host and the launcher say to each other: the specs it reads, the messages on its control socket.

The launcher is one static program with several modes. *Outside* it runs on the host, joins control groups,
makes the stage of mounts, drops to the sandbox's identity and becomes bubblewrap. *Inside* it is process 1 of
the sandbox: it starts the workload under the last restrictions, reaps, forwards signals and reports the end.

A spec is a header and tagged records, little-endian, handed over in a sealed memfd so that it shows up in no
command line and no environment. The control socket is a ``SOCK_SEQPACKET`` pair; every message has one size.
``wire.h`` is the other side of this file.
"""

from __future__ import annotations

from enum import IntEnum

from backends.frozen import frozen

MAGIC = 0x4C43584D  # "MXCL"
VERSION = 1
MAX_SPEC_BYTES = 8 << 20
MESSAGE_BYTES = 40

EXIT_SETUP_FAILED = 125
EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127


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
    ROOT_IMAGE = 17
    ROOT_MEMORY = 18
    ROOT_OVERLAY = 19
    ROOT_ENTRY = 20
    HIDE = 21
    USERS = 22
    NETWORK = 23
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
class ContainerIds:
    """What is `inside` in a container, as user and as group, is `uid` and `gid` on the host."""

    inside: int
    uid: int
    gid: int


@frozen
class UserNamespace:
    """One that a caller who is not root has for the sandbox to be made in, as root of that.

    `mappers` are the paths of newuidmap and newgidmap, which write the maps: each of the `ids` must be the
    caller's own or granted (subuid(5)). What a spec calls ids of the host are then ids of this namespace.
    """

    ids: tuple[ContainerIds, ...]
    mappers: tuple[str, str]


@frozen
class StageEntry:
    """Something made in the stage: `mode` tells, as of ``stat``, a directory, a file or a symbolic link.

    `path` is relative to the stage. `content` is a file's, or what a link leads to. What the image has under
    that name is replaced, unless both are directories; what is missing above it is made.
    """

    path: str
    mode: int
    content: str = ""


@frozen
class StageRoot:
    """A container's root, at ``STAGE/root``: an image below, memory above it, gone with its last process.

    `image` is an inherited descriptor of an erofs file, or, in a user namespace, of the folder that it was
    unpacked to. What is written takes at most `size_bytes`; as much have ``STAGE/tmp`` and ``STAGE/shm``,
    which everybody may write to. `root` and `workload` are the ids of both layers. `hidden` are names of
    which the container sees nothing; then the `entries` are made. Control groups are out of sight of what is
    started.
    """

    image: int
    size_bytes: int
    root: ContainerIds
    workload: ContainerIds
    hidden: tuple[str, ...] = ()
    entries: tuple[StageEntry, ...] = ()


@frozen
class OutsideSpec:
    """What the launcher does on the host before it becomes `argv` (``argv[0]`` is an absolute path).

    `parent_pid` is the process that starts it: without it nothing is started. `control` is the launcher's end
    of the control socket, kept open for the inside. `cgroups` are descriptors, open for writing, of
    ``cgroup.procs`` or ``tasks`` files. `stage` (for root only) is an existing directory that a private tmpfs
    is mounted on; with `users` it may be one to be made below ``/run``. `identity` is the host (uid, gid) to
    drop to. `in_network` is a namespace to go into, and `in_users` the one that this belongs to, where it is
    not the host's; `users` is then what that one was made with. Only 0, 1, 2, `control` and `keep` survive.
    """

    parent_pid: int
    control: int
    argv: tuple[str | bytes, ...]
    cgroups: tuple[int, ...] = ()
    stage: str = ""
    users: UserNamespace | None = None
    root: StageRoot | None = None
    mounts: tuple[StageMount, ...] = ()
    identity: tuple[int, int] | None = None
    in_users: int | None = None
    in_network: int | None = None
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

    `owners` are pidfds: when one of these processes ends, so does the sandbox. `user` (uid, gid, as they are
    inside) is whom process 1 becomes first of all, and with it the workload; None: they are whom it was
    started as.
    `hold` are descriptors kept open until the end and never seen by the workload; `give` are handed to it
    under the same numbers. With `unstopped`, process 1 has it go on whenever somebody stops it. `stderr`
    becomes its descriptor 2 (None: 2 as it is). With `tty`, descriptor 0 becomes its controlling terminal.
    `rlimits` are (resource, soft, hard); `seccomp` is a BPF program.
    ``argv[0]`` without a slash is looked up in the PATH of `env`, whose entries are (name, value), given
    exactly as they are. `masks` are (O_PATH descriptor, path) of every denied object: unless that is what is
    masked at the path, the workload is not started. `guards` are paths whose covering mounts must stay: when
    one goes, the sandbox ends.
    """

    control: int
    argv: tuple[str | bytes, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    umask: int = 0o022
    stderr: int | None = None
    owners: tuple[int, ...] = ()
    tty: bool = False
    hold: tuple[int, ...] = ()
    give: tuple[int, ...] = ()
    rlimits: tuple[tuple[int, int, int], ...] = ()
    landlock: LandlockRules | None = None
    seccomp: bytes = b""
    masks: tuple[tuple[int, str], ...] = ()
    guards: tuple[str, ...] = ()
    user: tuple[int, int] | None = None
    unstopped: bool = False


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
