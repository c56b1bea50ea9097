"""Request and facts → the exact bubblewrap invocation. Pure: the same on any host and in golden tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from backends.base import Effect, FilesystemView, SandboxRequest, Timeout, ViewEntry
from backends.bubblewrap.facts import FIX, OWN_LINKS, BubblewrapFacts
from backends.frozen import frozen
from backends.guest_etc import HOSTNAME, INSIDE_ID
from backends.launched.identity import Identity, choose_identity
from backends.launched.parts import (
    MASKS,
    PlannedGrant,
    PlannedGuard,
    PlannedMask,
    check_request,
    grants_as_list,
    plan_grants,
    plan_guards,
    plan_masks,
)
from backends.linux.limits import LimitPlan, plan_limits
from backends.network import for_plans
from backends.plan_parts import limits_as_list, timeout_as_dict
from backends.virtual_machine import SHELL

if TYPE_CHECKING:
    from backends.network.plan import NetworkPlan

OVERHEAD_PROCESSES = 2  # bwrap's monitor and our init share the sandbox's control group


@frozen
class PlannedFile:
    """A file made from nothing: `token` stands in the options where its descriptor's number will be."""

    token: str
    content: str


@frozen
class BubblewrapPlan:
    """All that a launch does, as data. Options beginning with ``@`` stand for descriptors and stage paths.

    `pointers` are the request's, so that a launch that fails can still name the field the user wrote.
    """

    helper: str
    helper_version: str
    launcher: str
    launcher_key: str
    options: tuple[str, ...]
    files: tuple[PlannedFile, ...]
    grants: tuple[PlannedGrant, ...]
    masks: tuple[PlannedMask, ...]
    guards: tuple[PlannedGuard, ...]
    identity: Identity
    argv: tuple[str, ...]
    cwd: str
    environment: tuple[tuple[str, str], ...]
    secret_names: tuple[str, ...]
    limits: LimitPlan
    cgroup_parents: Mapping[str, str]
    cgroup_version: str
    seccomp: str
    seccomp_hash: str
    landlock_abi: int
    writable_trees: tuple[str, ...]
    network: NetworkPlan | None
    tty: bool
    timeout: Timeout
    enforced: tuple[tuple[str, str], ...]
    decisions: tuple[str, ...]
    warnings: tuple[str, ...]
    pointers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"BubblewrapPlan({self.as_dict()!r})"  # without environment values: they may end up in a log

    def as_dict(self) -> dict[str, object]:
        """JSON-safe; environment values are left out, for a plan may be logged."""
        return {
            "backend": "bubblewrap",
            "helper": {"path": self.helper, "version": self.helper_version},
            "launcher": {"path": self.launcher, "key": self.launcher_key},
            "options": list(self.options),
            "files": {file.token: file.content for file in self.files if file.content},
            "grants": grants_as_list(self.grants),
            "guards": [guard.path for guard in self.guards],
            "identity": {"kind": self.identity.kind, "uid": self.identity.uid, "gid": self.identity.gid},
            "argv": list(self.argv),
            "cwd": self.cwd,
            "environment": [name for name, _ in self.environment] + list(self.secret_names),
            "limits": limits_as_list(self.limits.outcomes),
            "seccomp": {"profile": self.seccomp, "hash": self.seccomp_hash},
            "landlockAbi": self.landlock_abi,
            "network": for_plans.as_dict(self.network),
            "tty": self.tty,
            "timeout": timeout_as_dict(self.timeout),
            "enforced": dict(self.enforced),
            "decisions": list(self.decisions),
            "warnings": list(self.warnings),
        }


def make_plan(request: SandboxRequest, facts: BubblewrapFacts, view: FilesystemView) -> BubblewrapPlan:
    """Lay out one sandbox.

    Raises `PolicyRefused` for what the facts cannot hold (limits, identity, seccomp profile, cwd) and
    `BackendUnavailable` when the host lacks the uid range that a root launch needs.
    """
    check_request(request, facts.seccomp)
    identity = choose_identity(request, facts.caller, facts.uid_range)
    limits = plan_limits(request.limits, facts.cgroups, OVERHEAD_PROCESSES)
    grants = tuple(plan_grants(view.entries, identity))
    masks = [entry for entry in view.entries if entry.effect in MASKS]
    network = for_plans.plan_for(request.network, facts.network, root=facts.caller[0] == 0)
    etc = for_plans.etc_files(network)
    files = [PlannedFile(f"@file:{path}", content) for path, content in etc.items()]
    files += [PlannedFile(f"@mask:{entry.path}", "") for entry in masks if entry.effect is Effect.MASK_FILE]
    options = (
        *_isolation(has_network=network is not None),
        *_baseline(facts, etc),
        *_private(limits.tmp_bytes),
        *_policy(view.entries, grants, identity),
        *_read_only_remounts(masks),
    )
    return BubblewrapPlan(
        helper=facts.helper.path,
        helper_version=facts.helper.version,
        launcher=facts.launcher,
        launcher_key=facts.launcher_key,
        options=options,
        files=tuple(files),
        grants=grants,
        masks=tuple(plan_masks(view.entries)),
        guards=tuple(plan_guards(view.entries)),
        identity=identity,
        argv=request.args if request.args else (*SHELL, request.shell or ""),
        cwd=request.cwd or "/",
        environment=for_plans.with_proxy(request.environment.entries, network, empty_no_proxy=False),
        secret_names=tuple(name for name, _ in request.environment.secrets),
        limits=limits,
        cgroup_parents=facts.cgroups.parents,
        cgroup_version=facts.cgroups.version,
        seccomp=request.seccomp,
        seccomp_hash=(facts.seccomp or {}).get(request.seccomp, ""),
        landlock_abi=facts.landlock_abi,
        writable_trees=("/tmp", "/dev/shm", *(grant.path for grant in grants if grant.writable)),  # noqa: S108
        network=network,
        tty=request.tty,
        timeout=request.timeout,
        enforced=tuple(_enforced(view, facts, identity, request, network)),
        decisions=view.decisions,
        warnings=(*view.warnings, *limits.warnings, *_landlock_warning(facts)),
        pointers=request.pointers,
    )


def _isolation(*, has_network: bool) -> tuple[str, ...]:
    """A sandbox with a network is started in its namespace, which belongs to somebody else."""
    return (
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *(() if has_network else ("--unshare-net",)),
        *("--unshare-cgroup-try", "--disable-userns"),
        *("--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID), "--hostname", HOSTNAME),
        *("--new-session", "--as-pid-1", "--cap-drop", "ALL"),
    )


def _baseline(facts: BubblewrapFacts, etc: Iterable[str]) -> Iterator[str]:
    yield from ("--dir", "/usr", "--dir", "/etc")  # written out, for bubblewrap makes implied parents 0700
    for entry in facts.baseline:
        if entry.target:
            yield from ("--symlink", entry.target, entry.path)
        else:
            yield from ("--ro-bind", entry.path, entry.path)
    for path in etc:
        yield from ("--perms", "0444", "--file", f"@file:{path}", path)


def _private(tmp_bytes: int) -> tuple[str, ...]:
    size = str(tmp_bytes)
    return (
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", size, "--tmpfs", "/dev/shm"),  # noqa: S108 - the sandbox's own
        *("--perms", "1777", "--size", size, "--tmpfs", "/tmp"),  # noqa: S108
        *("--dir", "/run", "--dir", "/var"),
        *(word for path, target in OWN_LINKS.items() for word in ("--symlink", target, path)),
    )


def _policy(
    entries: Iterable[ViewEntry], grants: Iterable[PlannedGrant], identity: Identity
) -> Iterator[str]:
    planned = iter(grants)
    for entry in entries:
        if entry.effect is Effect.SYMLINK:
            yield from ("--symlink", entry.target, entry.path)
        elif entry.effect is Effect.MASK_FILE:
            yield from ("--perms", "0000", "--ro-bind-data", f"@mask:{entry.path}", entry.path)
        elif entry.effect is Effect.MASK_DIRECTORY:
            yield from ("--perms", "0111" if entry.traversable else "0000", "--tmpfs", entry.path)
        else:
            grant = next(planned)
            bind = "--bind" if grant.writable else "--ro-bind"
            yield from (bind if identity.staged else f"{bind}-fd", grant.token, grant.path)


def _read_only_remounts(masks: Iterable[ViewEntry]) -> Iterator[str]:
    for mask in masks:
        if mask.effect is Effect.MASK_DIRECTORY:
            yield from ("--remount-ro", mask.path)
    yield from ("--remount-ro", "/dev", "--remount-ro", "/")


def _enforced(
    view: FilesystemView,
    facts: BubblewrapFacts,
    identity: Identity,
    request: SandboxRequest,
    network: NetworkPlan | None,
) -> Iterator[tuple[str, str]]:
    yield "filesystem", "mount namespace" + (" and Landlock" if facts.landlock_abi else "")
    if any(entry.effect in MASKS for entry in view.entries):
        yield "filesystem.deniedPaths", "read-only masks without permissions, watched"
    if any(entry.effect is Effect.BIND_READ_WRITE for entry in view.entries):
        size = request.limits.file_size_mib
        held = f"each file at most {size} MiB (RLIMIT_FSIZE)" if size else "no limit asked for"
        yield "disk in read-write grants", f"{held}; the total is not held"
    yield from for_plans.how_held(network, "empty network namespace")
    yield "ui", "no display, bus or clipboard socket is reachable"
    yield "system calls", f"seccomp allow-list, profile {request.seccomp}"
    yield "privileges", "no capabilities, no_new_privs, no nested user namespaces"
    yield "identity", identity.describe()
    yield "processes", "own pid, ipc, uts, cgroup and user namespaces"


def _landlock_warning(facts: BubblewrapFacts) -> tuple[str, ...]:
    if facts.landlock_abi:
        return ()
    return (f"this kernel has no Landlock: mounts alone hold the filesystem policy (see: {FIX})",)
