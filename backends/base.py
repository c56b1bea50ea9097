"""What a backend is given and what it answers: data only, and the `Backend` protocol.

The way of one run (design §2)::
    SandboxRequest ─▶ backend.observe ─▶ Observed(facts, handles)
                   ─▶ policy: resolve filesystem ─▶ FilesystemView        (pure, in mxc_ops.policy)
                   ─▶ backend.plan(request, facts, view) ─▶ plan          (pure)
                   ─▶ backend.launch(plan, handles, streams) ─▶ Running ─▶ Ended

Pointers (JSON pointers, or API argument names) let a refusal deep inside name the field the user wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from backends.digest import Fingerprint
from backends.ended import Ended
from backends.features import Asked, Capabilities
from backends.frozen import frozen
from backends.hyperlight.settings import HyperlightSettings
from backends.network.policy import NO_NETWORK, NetworkPolicy
from backends.virtual_machine import Image, System, VirtualMachine


class Access(Enum):
    """What a filesystem entry asks for; ordered from most to least permissive."""

    READ_WRITE = "readwrite"
    READ_ONLY = "readonly"
    DENIED = "denied"

    @property
    def strictness(self) -> int:
        return _STRICTNESS[self]


_STRICTNESS = {Access.READ_WRITE: 0, Access.READ_ONLY: 1, Access.DENIED: 2}


@frozen
class Grant:
    """One entry of `filesystem`: the path exactly as the user wrote it."""

    path: str
    access: Access
    pointer: str
    optional: bool = False


@frozen
class SecretSource:
    """Where the value of an environment variable comes from when it must not stand in the document."""

    file: str | None = None
    fd: int | None = None


@frozen
class Environment:
    """`entries`: exactly what the workload gets, as (name, value). `secrets`: names filled from elsewhere."""

    entries: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, SecretSource], ...] = ()

    def __repr__(self) -> str:
        return f"Environment({', '.join(name for name, _ in (*self.entries, *self.secrets))})"


@frozen
class Limits:
    """What the workload may use at most; `None` is "not asked for".

    `best_effort` names those that may go unenforced, by their document spelling (``memoryMib``).
    """

    memory_mib: int | None = None
    pids: int | None = None
    cpus: float | None = None
    cpu_seconds: int | None = None
    file_size_mib: int | None = None
    open_files: int | None = None
    tmp_mib: int | None = None
    best_effort: frozenset[str] = frozenset()


@frozen
class Timeout:
    """Wall-clock deadline. After `after_ms` (0: none) the signal is sent, `grace_ms` later all is killed."""

    after_ms: int = 0
    grace_ms: int = 0
    signal: str = "TERM"


class StdinMode(Enum):
    INHERIT = "inherit"
    NONE = "none"
    FILE = "file"
    TEXT = "text"


@frozen
class Stdin:
    """Where the workload's standard input comes from; `content` is the path (FILE) or the text (TEXT)."""

    mode: StdinMode = StdinMode.INHERIT
    content: str = ""


@frozen
class SandboxRequest:
    """One run, whatever the backend: what the canonical document says, in our own words.

    Exactly one of `shell` (a command line for ``/bin/sh -c``, or whatever text ``vm.command`` says) and
    `args` (an argument vector) is set. `user` and `group` are the host ids that the workload runs under when
    the caller names them. `image` is what a container's root is made of, `system` what that should be.
    `document_hash` identifies the policy for provenance: ``sha256:…`` over the canonical document.
    """

    containment: str
    shell: str | None = None
    args: tuple[str, ...] = ()
    cwd: str | None = None
    environment: Environment = Environment()
    grants: tuple[Grant, ...] = ()
    network: NetworkPolicy = NO_NETWORK
    asked: tuple[Asked, ...] = ()
    limits: Limits = Limits()
    timeout: Timeout = Timeout()
    stdin: Stdin = Stdin()
    tty: bool = False
    seccomp: str = "default"
    user: int | None = None
    group: int | None = None
    vm: VirtualMachine | None = None
    hyperlight: HyperlightSettings | None = None
    system: System = System()
    image: Image | None = None
    container_id: str = ""
    document_hash: Fingerprint = Fingerprint(str)
    warnings: tuple[str, ...] = ()  # what the user should know about the document although it is run
    pointers: Mapping[str, str] = MappingProxyType({})
    """Where the document says a thing, by our field name (``cwd`` → ``/process/cwd``), for error messages."""


class ObjectKind(Enum):
    DIRECTORY = "directory"
    FILE = "file"
    OTHER = "other"  # socket, fifo, device


class PathState(Enum):
    """Outcome of looking a path up (spec: policy-semantics.md §1.2)."""

    OBJECT = "object"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@frozen
class SymlinkHop:
    """A symbolic link met while resolving a path: `link` (absolute, its parents real) points to `target`."""

    link: str
    target: str


@frozen
class HostPath:
    """What one path of the policy is on the host. Pure data; the open descriptor travels beside the plan.

    For ABSENT, `canonical` is where the object would be (existing part resolved, the rest folded).
    `readable` / `writable` are the caller's real rights (delegation), also when we run as root for somebody.
    `others` are further names of the object, or of objects below it, that a more permissive tree (another
    grant, the baseline) shows: hard links, second mounts; `links_unaccounted`: some may not have been found.
    `kernel_mounts` are mount points of procfs, sysfs and the like at or below a granted path.
    `slot` is the key of the open descriptor among the handles; `parents` are the directories between a
    stricter entry and the read-write grant that it lies in.
    """

    grant: Grant
    state: PathState
    canonical: str
    kind: ObjectKind | None = None
    device: int = 0
    inode: int = 0
    uid: int = 0
    gid: int = 0
    mode: int = 0
    readable: bool = False
    writable: bool = False
    hops: tuple[SymlinkHop, ...] = ()
    others: tuple[OtherName, ...] = ()
    links_unaccounted: bool = False
    kernel_mounts: tuple[str, ...] = ()
    slot: int | None = None
    parents: tuple[OtherName, ...] = ()
    error: str = ""


@frozen
class OtherName:
    """Another host path that matters to a denied or read-only one: a further name of the object, or of
    something below it, or a parent. `slot`, `object` and `owner` are as in `ViewEntry`."""

    path: str
    kind: ObjectKind
    why: str  # "hard link" | "second mount" | "parent"
    slot: int | None = None
    object: tuple[int, int] = (0, 0)
    owner: tuple[int, int] = (0, 0)


class Effect(Enum):
    """What one entry of the ordered view does to the sandbox's tree."""

    BIND_READ_ONLY = "read-only"
    BIND_READ_WRITE = "read-write"
    MASK_FILE = "mask file"
    MASK_DIRECTORY = "mask directory"
    SYMLINK = "symlink"


@frozen
class ViewEntry:
    """One step, applied in order: later entries cover earlier ones.

    `path` is where it appears inside. `slot` names the descriptor of the object that is bound or masked,
    `object` is its (device, inode), `owner` its (uid, gid) on the host. For SYMLINK, `target` is its text.
    `traversable` marks a masked directory that must let the workload pass to a granted path below it.
    """

    effect: Effect
    path: str
    pointer: str
    slot: int | None = None
    target: str = ""
    kind: ObjectKind | None = None
    owner: tuple[int, int] = (0, 0)
    object: tuple[int, int] = (0, 0)
    traversable: bool = False


@frozen
class FilesystemView:
    """The resolved policy: what to mount, shallow to deep, and how each written path ended up.

    `denied`: every name of what is denied, there or not, for a sandbox whose system is not the host's."""

    entries: tuple[ViewEntry, ...] = ()
    decisions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


@frozen
class Streams:
    """Descriptors the workload gets as 0, 1 and 2. They stay the caller's to close. `tty`: 0 is a terminal's
    slave side that shall become the workload's controlling terminal."""

    stdin: int
    stdout: int
    stderr: int
    tty: bool = False


@frozen
class Observed:
    """Facts (pure data, may be stored and compared) and the open descriptors that belong to them."""

    facts: Any
    paths: tuple[HostPath, ...]
    handles: Handles


class Handles(Protocol):
    """Open descriptors by slot; closing is idempotent and closes all."""

    def fileno(self, slot: int) -> int: ...
    def close(self) -> None: ...


class Running(Protocol):
    """A workload that was started. All calls may come from any thread."""

    @property
    def pid(self) -> int: ...
    @property
    def pidfd(self) -> int:
        """Readable when the sandbox, with every process in it, is gone. Owned by this object."""
        ...

    @property
    def wrapping_up(self) -> bool:
        """Whether the command has ended by itself, and what it left is being brought to where it belongs: no
        deadline counts any more then."""
        ...

    def signal(self, signal_number: int) -> None:
        """Send a signal to every process of the workload (not to its init)."""
        ...

    def expire(self, signal_number: int) -> None:
        """The same, because the command's time is up: whatever it still does, it has not ended normally."""
        ...

    def kill(self) -> None:
        """Kill everything at once; returns before all is gone, `wait` tells when."""
        ...

    def wait(self, timeout_s: float | None = None) -> Ended | None:
        """Wait for the end and clean up; None when the time ran out first. Later calls return the same."""
        ...


class Backend(Protocol):
    """One containment. Modules provide an instance named `BACKEND`; see `backends.registry`."""

    @property
    def capabilities(self) -> Capabilities: ...
    def observe(self, request: SandboxRequest) -> Observed: ...
    def plan(self, request: SandboxRequest, facts: Any, view: FilesystemView) -> Any: ...
    def launch(
        self, plan: Any, handles: Handles, streams: Streams, secrets: tuple[tuple[str, str], ...] = ()
    ) -> Running:
        """Start what was planned. `secrets` are environment entries whose values no plan may hold."""
        ...


@runtime_checkable
class KeepsReady(Protocol):
    """A `Backend` that can keep sandboxes ready for later runs of this process."""

    def keep_ready(self, plan: Any, size: int) -> None:
        """Keep `size` sandboxes ready for plans that need just such ones as `plan`; 0 ends them.

        Returns when they are ready, or gone. Raises what `launch` raises.
        """
        ...
