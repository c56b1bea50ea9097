"""What the host and the agent say to each other: frames over one byte stream (pure).

The agent is process 1 of a virtual machine or of a session's sandbox. A frame is a header {payload length,
kind, flags, stream} and at most 64 KiB, little-endian; a longer one ends the connection on either side.
Stream 0 is the connection itself; the host numbers each of its requests anew, from 1 on, and every answer
carries the request's stream. ``agent_wire.h`` is the other side of this file.

- ``HELLO`` may come at any time, between frames: everything of the connection before is dropped and its
  programs are killed. That is how a restored clone starts. The agent answers ``WELCOME``.
  Frames that come before that are of the connection before.
- ``PING`` → ``PONG``; ``IDENTITY``, ``NETWORK``, ``MOUNT``, ``HIDE``, ``SYNC`` → ``DONE``; ``REPORT`` →
  ``REPORTED``; each may end in ``FAILED`` instead. ``POWER_OFF`` has no answer but the end of the machine.
- ``EXEC`` → ``STARTED``, ``OUTPUT`` …, ``OUTPUT_END`` per channel, ``ENDED``; or ``FAILED``, and nothing ran.
- ``CONTAINER`` is answered as an EXEC. Its input and output (of STDOUT alone) are a connection to an agent of
  its own, process 1 of the container, which is spoken to as here. Whatever ends the one ends the other; of
  signals, only SIGKILL means anything. An agent that is no virtual machine's makes none.
- ``PUT`` takes a tar archive as ``INPUT`` …, ``INPUT_END`` → ``DONE``; ``GET`` answers one as ``OUTPUT`` …,
  ``OUTPUT_END``, ``DONE``.
- ``SYNC`` is done when what was written is on its disk and the next interpreter waits: a machine that
  is to be copied is at rest then.
- Flow control: each channel of a stream (input, stdout, stderr) may carry `WINDOW` bytes, then as many as
  the receiver grants: ``CREDIT`` to the agent (flags: the channel), ``INPUT_CREDIT`` to the host. Sending
  more ends the connection. To the agent, credit for more than a window in all is credit for one.
- A program that closes its input, or has ended, makes ``INPUT_CLOSED``: what is sent after that is dropped.
- ``OUTPUT_CLOSED`` (flags: the channel): nobody takes that output any more. The agent closes its end of the
  program's pipe, which then gets SIGPIPE as from any closed pipe, or hangs the terminal up; a GET ends in
  ``FAILED``. What is on the way meanwhile is dropped, and needs no credit.
- Frames of the host may cross the last answer of their stream: the agent drops them. Nothing of the agent
  comes after the last answer.
- ``ENDED`` follows when the program has exited and its output has ended, or 200 ms after the exit when some
  other process keeps the output open.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from backends.frozen import frozen

MAGIC = 0x4158434D  # "MCXA"
VERSION = 2
MAX_PAYLOAD = 65536
MAX_MESSAGE = 8 << 20
WINDOW = 262144
MAX_STREAMS = 1024
RANDOM_BYTES = 64
PORT_NAME = "mxc.agent"
"""Name of the virtio-serial port; the agent looks it up under /sys/class/virtio-ports."""


class Kind(IntEnum):
    HELLO = 1
    PING = 2
    IDENTITY = 3
    EXEC = 4
    INPUT = 5
    INPUT_END = 6
    CREDIT = 7
    RESIZE = 8
    SIGNAL = 9
    PUT = 10
    GET = 11
    MOUNT = 12
    REPORT = 13
    SYNC = 14
    POWER_OFF = 15
    OUTPUT_CLOSED = 16
    HIDE = 17
    NETWORK = 18
    CONTAINER = 19
    WELCOME = 128
    PONG = 129
    STARTED = 130
    OUTPUT = 131
    OUTPUT_END = 132
    INPUT_CREDIT = 133
    INPUT_CLOSED = 134
    ENDED = 135
    FAILED = 136
    DONE = 137
    REPORTED = 138


class Flag(IntFlag):
    MORE = 1
    EVERY = 2
    LAST = 4


class Channel(IntEnum):
    STDOUT = 1
    STDERR = 2


class Tag(IntEnum):
    ARG = 1
    ENV = 2
    CWD = 3
    USER = 4
    RLIMIT = 5
    UMASK = 6
    TTY = 7
    NO_INPUT = 8
    TIMEOUT = 9
    ZYGOTE = 10
    SECCOMP = 11
    CGROUP = 12
    PRIVILEGED = 13
    PORT = 14
    PATH = 32
    OWNER = 33
    AT_MOST = 34
    REPLACE = 35
    SOURCE = 48
    FILE_SYSTEM = 49
    MOUNT_FLAGS = 50
    SIZE = 51
    HIDDEN = 52
    UPPER = 53
    HOSTNAME = 54
    OWN_NETWORK = 55


class MountFlag(IntFlag):
    READ_ONLY = 1
    NO_SUID = 2
    NO_DEV = 4
    NO_EXEC = 8
    BIND = 16


class Step(IntEnum):
    """Where the agent was when a request failed."""

    MESSAGE = 1
    STREAMS = 2
    PIPES = 3
    TERMINAL = 4
    FORK = 5
    CGROUP = 6
    SESSION = 7
    IDENTITY = 8
    RLIMIT = 9
    CWD = 10
    SECCOMP = 11
    EXEC = 12
    ZYGOTE = 13
    OPEN = 14
    ARCHIVE = 15
    WRITE = 16
    READ = 17
    TOO_MUCH = 18
    MOUNT_POINT = 19
    MOUNT = 20
    RANDOM = 21
    CLOCK = 22
    HOSTNAME = 23
    MACHINE_ID = 24
    MAC = 25
    HIDE = 26
    CONNECT = 27
    NETWORK = 28
    CONTAINER = 29


class EndedFlag(IntFlag):
    TIMED_OUT = 1
    HIT_MEMORY = 2
    HIT_PIDS = 4


@frozen
class GuestIdentity:
    """What must differ between two clones.

    `realtime_ns` is the host's clock at the time of sending, `random` has 64 bytes, `machine_id` 32
    hexadecimal digits, `mac` 6 bytes (all zero: the network card keeps its own).
    """

    realtime_ns: int
    random: bytes
    machine_id: str
    mac: bytes
    hostname: str


@frozen
class GuestNetwork:
    """A machine's one card: of each family address, length of the prefix, and gateway there, or None.

    `resolv_conf` is the content of the file.
    """

    ipv4: tuple[str, int, str] | None
    ipv6: tuple[str, int, str] | None
    resolv_conf: str


@frozen
class GuestCommand:
    """One program for the agent to run.

    Parameters
    ----------
    args: argument vector; without a slash in the first, it is looked up in the PATH of `env`. With source:
        what ``sys.argv`` is to be, or ``process.argv``, whose first is node's own path whatever is given.
    env: exactly what the program gets.
    user: (uid, gid) inside; without `privileged` the program has no capabilities and cannot regain any; with
        it, root has all of them, and files give none to anybody else.
    rlimits: (resource, soft, hard).
    tty: (rows, columns) of a terminal that becomes its controlling one, its output is all on STDOUT.
    no_input: standard input is /dev/null.
    timeout: (after_ms, grace_ms, signal): the signal to all of it, then, after the grace, the end.
    zygote: source for the waiting interpreter, instead of a program: a fork of Python runs it as
        ``__main__``, a node becomes this one program and runs it as ``node -e`` would.
    seccomp: BPF program, the last restriction before the program starts.
    port: no program, but a way to this TCP port of the loopback that is inside: input goes there, what comes
        from there is STDOUT. It has started when it is connected, and ends when both sides have.
    cgroup: (file, content) written in a control group of its own, e.g. ``("pids.max", "64")``.
    beside: of a command that stands for what is imposed on others, variables that each of them has unless it
        has its own of that name.
    """

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    user: tuple[int, int] = (1000, 1000)
    rlimits: tuple[tuple[int, int, int], ...] = ()
    umask: int = 0o022
    tty: tuple[int, int] | None = None
    no_input: bool = False
    timeout: tuple[int, int, int] | None = None
    zygote: str | None = None
    seccomp: bytes = b""
    cgroup: tuple[tuple[str, str], ...] = ()
    privileged: bool = False
    port: int | None = None
    beside: tuple[tuple[str, str], ...] = ()


@frozen
class GuestMount:
    """Something mounted at `target` (absolute, made when missing, no symbolic link on the way).

    `file_system`: ``erofs``, ``squashfs`` or ``ext4`` of the block device `source`, or ``tmpfs``; with
    `MountFlag.BIND` the path `source` is bound, a file on a file. `size_bytes` limits a tmpfs.
    """

    target: str
    source: str = ""
    file_system: str = ""
    flags: MountFlag = MountFlag.NO_SUID | MountFlag.NO_DEV
    size_bytes: int = 0


@frozen
class GuestHide:
    """Names (absolute) whose objects no program may see from now on; whoever looks finds nothing to read.

    Symbolic links of the guest are followed: what a name means to its programs is hidden. An object's other
    names are hidden too. A folder can still be passed through to what is mounted in it later; a name that is
    nowhere is nothing to hide.
    """

    names: tuple[str, ...]


@frozen
class GuestContainer:
    """A container: a root, and processes, mounts, hostname and shared memory of its own.

    Parameters
    ----------
    root: the block device with its image, of `file_system` (``erofs``, ``squashfs`` or ``ext4``). Nothing is
        ever written to it.
    hostname: at most 64 bytes; stands in its /etc/hostname and /etc/hosts, too.
    upper: the block device, of ext4, that takes what is written, of one container at a time; "" is memory, at
        most `size_bytes` of it (0: half of the machine's). What it holds of an earlier one is there again.
    flags: of the root: READ_ONLY, NO_SUID, NO_DEV, NO_EXEC.
    own_network: it has a loopback and nothing else; else it shares the machine's network.
    cgroup: (file, content) of the control group that all of it is in.

    Its /proc, /sys and /dev are made over the image's. Of /proc, what is about the machine can only be read,
    and what only root may read cannot be read at all; /sys is read-only; /dev has no devices of the machine.
    What its own agent mounts are the machine's devices, and paths in /run/mxc are of a place that no process
    of the container can get to. There is no user namespace: a `privileged` command in it is root of the
    machine.
    """

    root: str
    hostname: str
    file_system: str = "erofs"
    upper: str = ""
    size_bytes: int = 0
    flags: MountFlag = MountFlag.NO_SUID | MountFlag.NO_DEV
    own_network: bool = False
    cgroup: tuple[tuple[str, str], ...] = ()


@frozen
class GuestFiles:
    """Where an archive is unpacked (PUT) or made (GET): below `path`, never through a symbolic link.

    A GET of a directory holds its entries, named relative to it (``./…``); of a file, that one entry. `owner`
    (uid, gid) is given to everything that is put, None keeps what the archive says. `replace` lets a PUT
    overwrite files. More than `at_most_bytes` of content or `at_most_entries` is a failure. Modes keep their
    lowest nine bits (folders the sticky one too). Hard links are put as links and got as files of their own;
    sockets, pipes, devices and what is mounted below `path` are not got, and refused when put.
    """

    path: str
    owner: tuple[int, int] | None = None
    at_most_bytes: int = 1 << 40
    at_most_entries: int = 1 << 31
    replace: bool = False


@frozen
class Frame:
    kind: Kind
    stream: int
    payload: bytes = b""
    flags: int = 0


@frozen
class Welcome:
    boot_us: int
    has_zygote: bool


@frozen
class GuestEnded:
    status: int
    flags: EndedFlag
    user_us: int
    system_us: int
    max_rss_kib: int


@frozen
class GuestFailed:
    step: Step
    errno: int
    subject: str


@frozen
class GuestDone:
    bytes: int
    entries: int


@frozen
class GuestReport:
    """Memory in bytes, times in microseconds."""

    memory_total: int
    memory_available: int
    cpu_us: int
    uptime_us: int
    streams: int
    processes: int
