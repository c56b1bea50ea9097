"""Request and facts → one container. Pure: the same on any host and in golden tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from backends.base import Effect, FilesystemView, SandboxRequest, Timeout
from backends.errors import BackendUnavailable, ConfigError, PolicyRefused, Problem
from backends.frozen import frozen
from backends.guest_files.reserved import reserved_problems
from backends.inside.protocol import StageEntry, UserNamespace
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
from backends.linux.uid_range import UidRange
from backends.lxc import apparmor
from backends.lxc.config import config_lines, plan_mounts, writable_trees
from backends.lxc.facts import FIX, LxcFacts
from backends.network import for_plans
from backends.plan_parts import limits_as_list, timeout_as_dict
from backends.virtual_machine import SHELL, Image

if TYPE_CHECKING:
    from backends.network.plan import NetworkPlan

__all__ = ["LxcPlan", "make_plan"]

_OVERHEAD_PROCESSES = 2  # lxc-start and our process 1 share the container's control group


@frozen
class LxcPlan:
    """All that a launch does, as data. Words of `config` beginning with ``@`` are filled in at launch.

    `entries` are made in the stage before the container starts; of `hidden` names the image shows nothing.
    `pointers` are the request's, so that a launch that fails can still name the field the user wrote.
    """

    starter: str
    version: str
    launcher: str
    launcher_key: str
    image: Image
    config: tuple[str, ...]
    entries: tuple[StageEntry, ...]
    hidden: tuple[str, ...]
    grants: tuple[PlannedGrant, ...]
    masks: tuple[PlannedMask, ...]
    guards: tuple[PlannedGuard, ...]
    identity: Identity
    uid_range: UidRange | None
    users: UserNamespace | None
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
        return f"LxcPlan({self.as_dict()!r})"  # without environment values: they may end up in a log

    def as_dict(self) -> dict[str, object]:
        """JSON-safe; environment values are left out, for a plan may be logged."""
        return {
            "backend": "lxc",
            "helper": {"path": self.starter, "version": self.version},
            "launcher": {"path": self.launcher, "key": self.launcher_key},
            "image": {"name": self.image.name, "key": self.image.key, "system": str(self.image.system)},
            "config": list(self.config),
            "made": [
                {"path": entry.path, "mode": f"{entry.mode:07o}", "content": entry.content}
                for entry in self.entries
            ],
            "hidden": list(self.hidden),
            "grants": grants_as_list(self.grants),
            "guards": [guard.path for guard in self.guards],
            "identity": {"kind": self.identity.kind, "uid": self.identity.uid, "gid": self.identity.gid},
            "userNamespace": _users_as_list(self.users),
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


def _users_as_list(users: UserNamespace | None) -> list[dict[str, int]] | None:
    if users is None:
        return None
    return [{"inside": one.inside, "uid": one.uid, "gid": one.gid} for one in users.ids]


def make_plan(request: SandboxRequest, facts: LxcFacts, view: FilesystemView) -> LxcPlan:
    """Lay out one container.

    Raises `PolicyRefused` for what cannot be held (limits, identity, seccomp profile, cwd, grants over the
    container's own system), `ConfigError` without an image, `BackendUnavailable` when the host lacks the uid
    range that containers need.
    """
    check_request(request, facts.seccomp)
    problems = tuple(reserved_problems(view.entries))
    if problems:
        raise PolicyRefused(problems)
    identity = choose_identity(request, facts.caller, facts.uid_range)
    if identity.kind == "caller":
        identity = Identity("mapped", identity.uid, identity.gid)
    image, uid_range = _image(request), _uid_range(facts)
    limits = plan_limits(request.limits, facts.cgroups, _OVERHEAD_PROCESSES)
    grants = tuple(plan_grants(view.entries, identity))
    network = for_plans.plan_for(request.network, facts.network, root=facts.caller[0] == 0)
    mounts = plan_mounts(view.entries, view.denied, for_plans.etc_files(network))
    return LxcPlan(
        starter=facts.starter,
        version=facts.version,
        launcher=facts.launcher,
        launcher_key=facts.launcher_key,
        image=image,
        config=config_lines(
            mounts, apparmor=facts.apparmor, denied=view.denied, has_network=network is not None
        ),
        entries=mounts.entries,
        hidden=view.denied,
        grants=grants,
        masks=tuple(plan_masks(view.entries)),
        guards=tuple(plan_guards(view.entries)),
        identity=identity,
        uid_range=uid_range,
        users=facts.users,
        argv=request.args if request.args else (*SHELL, request.shell or ""),
        cwd=request.cwd or "/",
        environment=for_plans.with_proxy(request.environment.entries, network, empty_no_proxy=True),
        secret_names=tuple(name for name, _ in request.environment.secrets),
        limits=limits,
        cgroup_parents=facts.cgroups.parents,
        cgroup_version=facts.cgroups.version,
        seccomp=request.seccomp,
        seccomp_hash=(facts.seccomp or {}).get(request.seccomp, ""),
        landlock_abi=facts.landlock_abi,
        writable_trees=(*writable_trees(view.denied), *(grant.path for grant in grants if grant.writable)),
        network=network,
        tty=request.tty,
        timeout=request.timeout,
        enforced=tuple(_enforced(view, facts, identity, request, network)),
        decisions=view.decisions,
        warnings=(*view.warnings, *limits.warnings, *_warnings(facts)),
        pointers=request.pointers,
    )


def _image(request: SandboxRequest) -> Image:
    pointer = request.pointers.get("system", "/lxc")
    if request.image is None:
        raise ConfigError(Problem("image_missing", pointer, "the container's image was not looked up"))
    if request.image.rootfs_format != "erofs":
        raise ConfigError(
            Problem(
                "image_without_root",
                pointer,
                f"the image {request.image.name!r} has no erofs root file system",
                expected="an image whose recipe has packages, such as 'base'",
            )
        )
    return request.image


def _uid_range(facts: LxcFacts) -> UidRange | None:
    """Where a container of root's gets its ids; another caller's has the ids of `users`."""
    if facts.caller[0] == 0 and facts.uid_range is None:
        message = "a container's ids need a range of uids, and none is recorded"
        raise BackendUnavailable(Problem("no_uid_range", "", message, fix=FIX))
    return facts.uid_range


def _enforced(
    view: FilesystemView,
    facts: LxcFacts,
    identity: Identity,
    request: SandboxRequest,
    network: NetworkPlan | None,
) -> Iterator[tuple[str, str]]:
    yield "filesystem", "mount namespace" + (" and Landlock" if facts.landlock_abi else "")
    if any(entry.effect in MASKS for entry in view.entries):
        yield "filesystem.deniedPaths", "read-only masks without permissions, watched; hidden in the image"
    elif view.denied:
        yield "filesystem.deniedPaths", "hidden in the image"
    if any(entry.effect is Effect.BIND_READ_WRITE for entry in view.entries):
        size = request.limits.file_size_mib
        held = f"each file at most {size} MiB (RLIMIT_FSIZE)" if size else "no limit asked for"
        yield "disk in read-write grants", f"{held}; the total is not held"
    yield from for_plans.how_held(
        network, "a network namespace of its own without any interface but loopback"
    )
    yield "ui", "no display, bus or clipboard socket is reachable"
    yield "system calls", f"seccomp allow-list, profile {request.seccomp}"
    whose = "nobody's" if facts.users is None else "the caller's and a granted one"
    yield "privileges", f"no capabilities, no_new_privs, ids mapped to {whose}"
    if facts.apparmor:
        yield "AppArmor", f"profile {facts.apparmor}"
    yield "identity", identity.describe()
    yield "processes", "own pid, ipc, uts, cgroup and user namespaces"


def _warnings(facts: LxcFacts) -> Iterator[str]:
    if not facts.landlock_abi:
        yield f"this kernel has no Landlock: mounts alone hold the filesystem policy (see: {FIX})"
    if facts.apparmor_on and facts.caller[0] != 0:
        yield "AppArmor is on, and tells root alone what is loaded: the container runs without a profile"
    elif facts.apparmor_on and not facts.apparmor:
        yield (
            f"AppArmor is on, and its profile {apparmor.PROFILE} is not loaded: the container runs without"
            f" one (fix: {apparmor.FIX})"
        )
