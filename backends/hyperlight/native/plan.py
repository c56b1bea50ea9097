"""From a request and the host's facts to everything that one run by the packages does (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from backends.base import FilesystemView, SandboxRequest, Timeout
from backends.bubblewrap.facts import BaselineEntry, Helper
from backends.errors import BackendUnavailable, PolicyRefused, Problem
from backends.frozen import frozen
from backends.guest_etc import HOSTNAME, INSIDE_ID
from backends.hyperlight.native.device import device_group
from backends.hyperlight.native.facts import Device, NativeFacts, Packages, Place
from backends.hyperlight.native.limits import MachineSize, machine_size, plan_worker_limits
from backends.hyperlight.native.refusals import FIX, native_problems
from backends.launched.identity import Identity, choose_identity
from backends.launched.parts import PlannedGrant, PlannedGuard, PlannedMask, check_request, grants_as_list
from backends.linux.limits import LimitPlan
from backends.plan_parts import limits_as_list, timeout_as_dict

if TYPE_CHECKING:
    from backends.network.plan import NetworkPlan

__all__ = ["WORKER_PROFILE", "NativePlan", "plan_native"]

WORKER_PROFILE = "strict"
"""The worker's system calls, whatever the document names: the program makes none."""

_PYTHON = ("-I", "-S", "-B", "-X", "utf8", "-c")


@frozen
class NativePlan:
    """All that a run does, as data; a `backends.launched.parts.LaunchedPlan` of the worker.

    `grants` are what the worker reads, `argv` starts it but for its own text and descriptors, and
    `environment` is its own, which is empty. `source`, `program_argv` and `program_environment` are the
    program's. `group` is the host's group that the worker is given to open the device.
    """

    helper: Helper
    launcher: str
    launcher_key: str
    options: tuple[str, ...]
    packages: Packages
    device: Device | None
    group: int | None
    grants: tuple[PlannedGrant, ...]
    masks: tuple[PlannedMask, ...]
    guards: tuple[PlannedGuard, ...]
    identity: Identity
    argv: tuple[str, ...]
    cwd: str
    environment: tuple[tuple[str, str], ...]
    size: MachineSize
    source: str
    program_argv: tuple[str, ...]
    program_environment: tuple[tuple[str, str], ...]
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
        return f"NativePlan({self.as_dict()!r})"  # without environment values: they may end up in a log

    def as_dict(self) -> dict[str, object]:
        """JSON-safe; environment values are left out, for a plan may be logged."""
        return {
            "backend": "hyperlight",
            "driver": "native",
            "helper": {"path": self.helper.path, "version": self.helper.version},
            "launcher": {"path": self.launcher, "key": self.launcher_key},
            "options": list(self.options),
            "packages": {"environment": self.packages.environment, "versions": list(self.packages.versions)},
            "device": self.device.path if self.device else None,
            "group": self.group,
            "reads": grants_as_list(self.grants),
            "identity": {"kind": self.identity.kind, "uid": self.identity.uid, "gid": self.identity.gid},
            "worker": list(self.argv),
            "machine": {
                "module": self.packages.module,
                "heapMib": self.size.heap,
                "stackMib": self.size.stack,
            },
            "argv": [self.program_argv[0], self.source, *self.program_argv[1:]],
            "cwd": self.cwd,
            "environment": [name for name, _ in self.program_environment] + list(self.secret_names),
            "limits": limits_as_list(self.limits.outcomes),
            "seccomp": {"profile": self.seccomp, "hash": self.seccomp_hash},
            "landlockAbi": self.landlock_abi,
            "network": None,
            "tty": self.tty,
            "timeout": timeout_as_dict(self.timeout),
            "enforced": dict(self.enforced),
            "decisions": list(self.decisions),
            "warnings": list(self.warnings),
        }


def plan_native(request: SandboxRequest, facts: NativeFacts, view: FilesystemView) -> NativePlan:
    """Lay out one run.

    Raises `PolicyRefused` with everything that the packages cannot hold, and `BackendUnavailable` where they
    do not run here, or the host lacks what confines them.
    """
    problems = native_problems(request)
    if problems:
        raise PolicyRefused(problems)
    check_request(request, facts.seccomp)
    packages, helper = _working(request, facts)
    identity = choose_identity(request, facts.caller, facts.uid_range)
    device = facts.device
    pointer = request.pointers.get("user", "/mxcOps/user")
    group = None if device is None else device_group(device, identity, pointer)
    size = machine_size(request.limits)
    limits = plan_worker_limits(request.limits, size, facts.cgroups)
    grants = tuple(_read(packages.places))
    return NativePlan(
        helper=helper,
        launcher=facts.launcher,
        launcher_key=facts.launcher_key,
        options=tuple(_options(facts.libraries, grants, identity, device)),
        packages=packages,
        device=device,
        group=group,
        grants=grants,
        masks=(),
        guards=(),
        identity=identity,
        argv=(packages.interpreter, *_PYTHON),
        cwd="/",
        environment=(),
        size=size,
        source=request.shell or "",
        program_argv=("-c", *request.args),
        program_environment=request.environment.entries,
        secret_names=tuple(name for name, _ in request.environment.secrets),
        limits=limits,
        cgroup_parents=facts.cgroups.parents,
        cgroup_version=facts.cgroups.version,
        seccomp=WORKER_PROFILE,
        seccomp_hash=facts.seccomp.get(WORKER_PROFILE, ""),
        landlock_abi=facts.landlock_abi,
        writable_trees=(),
        network=None,
        tty=False,
        timeout=request.timeout,
        enforced=tuple(_enforced(view, facts, packages, identity, group)),
        decisions=view.decisions,
        warnings=(*view.warnings, *limits.warnings),
        pointers=request.pointers,
    )


def _working(request: SandboxRequest, facts: NativeFacts) -> tuple[Packages, Helper]:
    if facts.why or facts.packages is None or facts.helper is None:
        pointer = request.pointers.get("driver", "/mxcOps/hyperlight/driver")
        message = f"no sandbox of Hyperlight's packages runs here: {facts.why}"
        fix = f"{FIX}, or: mxc-ops doctor --backend hyperlight"
        raise BackendUnavailable(Problem("native_not_working", pointer, message, fix=fix))
    return facts.packages, facts.helper


def _read(places: Iterable[Place]) -> Iterator[PlannedGrant]:
    for slot, place in enumerate(places):
        yield PlannedGrant(
            slot, f"@grant:{slot}", place.inside, "", writable=False, object=place.object, owner=None
        )


def _options(
    libraries: Iterable[BaselineEntry],
    grants: Iterable[PlannedGrant],
    identity: Identity,
    device: Device | None,
) -> Iterator[str]:
    yield from ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net")
    yield from ("--unshare-cgroup-try", "--disable-userns", "--uid", str(INSIDE_ID), "--gid", str(INSIDE_ID))
    yield from ("--hostname", HOSTNAME, "--new-session", "--as-pid-1", "--cap-drop", "ALL")
    yield from ("--dir", "/usr", "--dir", "/etc")  # written out, for bubblewrap makes implied parents 0700
    for entry in libraries:
        if entry.target:
            yield from ("--symlink", entry.target, entry.path)
        else:
            yield from ("--ro-bind", entry.path, entry.path)
    for grant in grants:
        yield from ("--ro-bind" if identity.staged else "--ro-bind-fd", grant.token, grant.path)
    yield from ("--proc", "/proc", "--dev", "/dev")
    if device is not None:
        yield from ("--dev-bind", device.path, device.path)
    yield from ("--remount-ro", "/dev", "--remount-ro", "/")


def _enforced(
    view: FilesystemView, facts: NativeFacts, packages: Packages, identity: Identity, group: int | None
) -> Iterator[tuple[str, str]]:
    device = facts.device.path if facts.device else "their hypervisor"
    yield (
        "isolation",
        f"a micro-VM of its own, by Hyperlight's packages ({packages.versions[0]}) and {device}",
    )
    yield "filesystem", "the machine has no files"
    if view.denied or view.entries:
        yield "filesystem.deniedPaths", "nothing of the host is in the machine"
    yield "network", "the machine has none, and its worker an empty network namespace"
    yield "ui", "the machine has no display"
    yield (
        "system calls",
        f"none: the machine has no kernel; its worker's by seccomp, profile {WORKER_PROFILE}",
    )
    yield "privileges", "the machine has none; no capabilities and no_new_privs for its worker"
    yield (
        "worker",
        f"bubblewrap with nothing but shared libraries, an interpreter, the packages and {device}, whose"
        " ioctls are not filtered",
    )
    member = f", as a member of group {group}, which {device} is of" if group is not None else ""
    yield "identity", f"the worker is {identity.describe()}{member}"
