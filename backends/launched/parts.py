"""What the launcher is given of a policy, whatever makes the namespaces around it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from backends.base import Effect, SandboxRequest, Timeout, ViewEntry
from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen
from backends.launched.identity import Identity
from backends.linux.limits import LimitPlan
from backends.linux.numbers import RUN_DIRECTORY
from backends.pathnames import within

if TYPE_CHECKING:
    from backends.network.plan import NetworkPlan

__all__ = [
    "MASKS",
    "STAGE",
    "LaunchedPlan",
    "PlannedGrant",
    "PlannedGuard",
    "PlannedMask",
    "check_request",
    "grants_as_list",
    "plan_grants",
    "plan_guards",
    "plan_masks",
]

STAGE = f"{RUN_DIRECTORY}/stage"
"""Where a root launch mounts what it was given descriptors of: its grants are 0, 1, … in it."""

MASKS = (Effect.MASK_FILE, Effect.MASK_DIRECTORY)
_BINDS = (Effect.BIND_READ_ONLY, Effect.BIND_READ_WRITE)


@frozen
class PlannedGrant:
    """A host object to bind: found again at launch by `slot`, and verified to be `object` (device, inode).

    `token` stands in a plan's options where its place will be. `owner` is the (uid, gid) whose files the
    workload may use as its own, by an idmapped mount; None binds without a mapping.
    """

    slot: int
    token: str
    path: str
    pointer: str
    writable: bool
    object: tuple[int, int]
    owner: tuple[int, int] | None


@frozen
class PlannedMask:
    """A denied object, by `slot`, and the path where a mask must be found to cover it."""

    slot: int
    path: str
    pointer: str


@frozen
class PlannedGuard:
    """A path that something stricter covers; without it, the sandbox must not go on."""

    path: str
    pointer: str


class LaunchedPlan(Protocol):
    """What every plan has that `backends.launched.launch` carries out."""

    @property
    def launcher(self) -> str: ...
    @property
    def grants(self) -> tuple[PlannedGrant, ...]: ...
    @property
    def masks(self) -> tuple[PlannedMask, ...]: ...
    @property
    def guards(self) -> tuple[PlannedGuard, ...]: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def argv(self) -> tuple[str, ...]: ...
    @property
    def cwd(self) -> str: ...
    @property
    def environment(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def limits(self) -> LimitPlan: ...
    @property
    def cgroup_parents(self) -> Mapping[str, str]: ...
    @property
    def cgroup_version(self) -> str: ...
    @property
    def seccomp(self) -> str: ...
    @property
    def landlock_abi(self) -> int: ...
    @property
    def writable_trees(self) -> tuple[str, ...]: ...
    @property
    def network(self) -> NetworkPlan | None: ...
    @property
    def tty(self) -> bool: ...
    @property
    def timeout(self) -> Timeout: ...
    @property
    def pointers(self) -> Mapping[str, str]: ...


def check_request(request: SandboxRequest, profiles: Iterable[str] | None) -> None:
    """Raises `PolicyRefused` for a relative working directory and for a seccomp profile that nobody knows."""
    cwd = request.cwd or "/"
    if not cwd.startswith("/"):
        raise PolicyRefused(
            Problem(
                "relative_cwd",
                request.pointers.get("cwd", "/process/cwd"),
                f"the working directory {cwd!r} is not absolute",
                expected="an absolute path inside the sandbox",
            )
        )
    known = None if profiles is None else tuple(profiles)
    if known is not None and request.seccomp not in known:
        raise PolicyRefused(
            Problem(
                "unknown_seccomp_profile",
                request.pointers.get("seccomp", "/mxcOps/seccomp"),
                f"no seccomp profile is called {request.seccomp!r}",
                expected=", ".join(known),
            )
        )


def plan_grants(entries: Iterable[ViewEntry], identity: Identity) -> Iterator[PlannedGrant]:
    for index, entry in enumerate(entries):
        if entry.effect in _BINDS:
            assert entry.slot is not None  # the resolver binds only objects that were opened
            yield PlannedGrant(
                slot=entry.slot,
                token=f"@grant:{index}",
                path=entry.path,
                pointer=entry.pointer,
                writable=entry.effect is Effect.BIND_READ_WRITE,
                object=entry.object,
                owner=entry.owner if identity.maps_owners else None,
            )


def plan_masks(entries: Iterable[ViewEntry]) -> Iterator[PlannedMask]:
    for entry in entries:
        if entry.effect in MASKS and entry.slot is not None:
            yield PlannedMask(entry.slot, entry.path, entry.pointer)


def plan_guards(entries: Iterable[ViewEntry]) -> Iterator[PlannedGuard]:
    """Masks, and what is read-only below something read-write: the host can replace the names under them."""
    writable: list[str] = []
    for entry in entries:
        if entry.effect is Effect.BIND_READ_WRITE:
            writable.append(entry.path)
        nested = any(within(entry.path, tree) for tree in writable)
        if entry.effect in MASKS or (entry.effect is Effect.BIND_READ_ONLY and nested):
            yield PlannedGuard(entry.path, entry.pointer)


def grants_as_list(grants: Iterable[PlannedGrant]) -> list[dict[str, object]]:
    return [
        {
            "slot": grant.slot,
            "path": grant.path,
            "access": "readwrite" if grant.writable else "readonly",
            "owner": list(grant.owner) if grant.owner else None,
        }
        for grant in grants
    ]
