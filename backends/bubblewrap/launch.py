"""The effectful step: descriptors, control groups and a uid are made, and bubblewrap is started on them.

Neither the policy nor the environment appears in any command line: options, command and environment travel in
sealed memfds (spec: upstream-gaps.md P6).
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair
from fcntl import F_DUPFD_CLOEXEC, fcntl
from resource import RLIM_INFINITY, RLIMIT_CPU, getrlimit
from stat import S_IFMT, S_ISFIFO

from backends import process
from backends.base import Handles, Streams
from backends.bubblewrap.plan import BubblewrapPlan, PlannedGrant
from backends.bubblewrap.running import BubblewrapRunning
from backends.errors import LaunchFailed, Problem
from backends.inside.protocol import IdMap, InsideSpec, OutsideSpec, StageMount, encode, spec_memfd
from backends.linux import landlock, seccomp
from backends.linux.cgroups import CgroupFacts, SandboxCgroup
from backends.linux.child_descriptors import ChildDescriptors
from backends.linux.uid_range import RUN_DIRECTORY, Lease, UidRange, lease

_STAGE = f"{RUN_DIRECTORY}/stage"
_FIRST_FREE = 3


def launch(
    plan: BubblewrapPlan, handles: Handles, streams: Streams, secrets: tuple[tuple[str, str], ...]
) -> BubblewrapRunning:
    """Start the planned sandbox; its failures to set itself up surface in `wait`.

    Parameters
    ----------
    plan: from `make_plan`.
    handles: the descriptors observed together with the plan's facts.
    streams: what the workload gets as 0, 1 and 2.
    secrets: environment entries whose values no plan may hold.

    Raises `LaunchFailed` when the host refuses what was planned, `BackendUnavailable` when no uid is free.
    """
    child_only = ChildDescriptors()
    group: SandboxCgroup | None = None
    taken: Lease | None = None
    control: socket | None = None
    diagnostics = diagnostics_end = -1
    try:
        if plan.identity.kind == "range":
            taken = lease(UidRange(plan.identity.uid, plan.identity.count))
        if plan.limits.cgroup:
            group = SandboxCgroup(CgroupFacts(plan.cgroup_version, plan.cgroup_parents), plan.limits.cgroup)
        control, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
        control_inside = child_only.add(theirs.detach())
        diagnostics, diagnostics_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if plan.identity.staged:
            _let_reopen(streams, _host_ids(plan, taken)[0], os.fstat(diagnostics).st_dev)
        outside = _outside_spec(plan, handles, streams, secrets, child_only, group, taken, control_inside)
        argv = (plan.launcher, "outside", str(child_only.add(spec_memfd(encode(outside)))))
        keep = child_only.fds + ([taken.lock] if taken else [])
        objects = [handles.fileno(part.slot) for part in (*plan.grants, *plan.masks)]
        child = process.spawn(
            argv, (streams.stdin, streams.stdout, diagnostics_end), sorted({*keep, *objects})
        )
        return BubblewrapRunning(plan, child, control, diagnostics, group, taken)
    except BaseException as error:
        if control is not None:
            control.close()
        if diagnostics >= 0:
            os.close(diagnostics)
        if taken is not None:
            os.close(taken.lock)
        if group is not None:
            group.remove()
        if isinstance(error, OSError | ValueError):
            raise LaunchFailed(
                Problem("launch_failed", "", f"the sandbox could not be started: {error}")
            ) from error
        raise
    finally:
        if diagnostics_end >= 0:
            os.close(diagnostics_end)
        child_only.close()


def _outside_spec(
    plan: BubblewrapPlan,
    handles: Handles,
    streams: Streams,
    secrets: tuple[tuple[str, str], ...],
    child_only: ChildDescriptors,
    group: SandboxCgroup | None,
    taken: Lease | None,
    control: int,
) -> OutsideSpec:
    tokens = {file.token: str(child_only.memfd(file.content.encode())) for file in plan.files}
    identity = _host_ids(plan, taken)
    mounts: list[StageMount] = []
    for grant in plan.grants:
        fd = handles.fileno(grant.slot)
        _verify(grant, fd)
        if plan.identity.staged:
            tokens[grant.token] = f"{_STAGE}/{len(mounts)}"
            mounts.append(_stage_mount(grant, fd, identity))
        else:
            tokens[grant.token] = str(fd)
    if mounts:
        _make_stage_directory()
    options = [tokens.get(option, option) if option.startswith("@") else option for option in plan.options]
    options_fd = child_only.memfd("\0".join((*options, "")).encode("utf-8", "surrogateescape"))
    program = child_only.add(os.open(plan.launcher, os.O_RDONLY | os.O_CLOEXEC))
    inside = child_only.add(
        spec_memfd(encode(_inside_spec(plan, handles, streams, secrets, child_only, control, taken)))
    )
    cgroups = [child_only.add(fd) for fd in group.open_join_fds()] if group else []
    keep = {fd for fd in child_only.fds if fd not in cgroups} | ({taken.lock} if taken else set[int]())
    keep |= {handles.fileno(mask.slot) for mask in plan.masks}
    if not plan.identity.staged:
        keep |= {handles.fileno(grant.slot) for grant in plan.grants}
    return OutsideSpec(
        parent_pid=os.getpid(),
        control=control,
        # The launcher is executed through its descriptor: no path of it is needed, or visible, inside.
        argv=(
            plan.helper,
            *("--args", str(options_fd), "--"),
            *(f"/proc/self/fd/{program}", "inside", str(inside)),
        ),
        cgroups=tuple(cgroups),
        stage=_STAGE if mounts else "",
        mounts=tuple(mounts),
        identity=identity if plan.identity.staged else None,
        keep=tuple(sorted(keep - {control})),
    )


def _inside_spec(
    plan: BubblewrapPlan,
    handles: Handles,
    streams: Streams,
    secrets: tuple[tuple[str, str], ...],
    child_only: ChildDescriptors,
    control: int,
    taken: Lease | None,
) -> InsideSpec:
    stderr = child_only.add(fcntl(streams.stderr, F_DUPFD_CLOEXEC, _FIRST_FREE))
    return InsideSpec(
        control=control,
        argv=plan.argv,
        env=plan.environment + secrets,
        cwd=plan.cwd,
        stderr=stderr,
        caller=child_only.add(os.pidfd_open(os.getpid())),
        tty=streams.tty,
        hold=(taken.lock,) if taken else (),
        rlimits=tuple(_rlimit(number, value) for number, value in plan.limits.rlimits),
        landlock=landlock.rules(plan.landlock_abi, readable=("/",), writable=plan.writable_trees),
        seccomp=seccomp.program(plan.seccomp),
        guards=tuple(guard.path for guard in plan.guards),
        masks=tuple((handles.fileno(mask.slot), mask.path) for mask in plan.masks),
    )


def _rlimit(number: int, value: int) -> tuple[int, int, int]:
    """(number, soft, hard). Where our own hard limit is lower, it holds already, and cannot be raised.

    At its hard limit of CPU time a process is killed; at the soft one it gets SIGXCPU, which tells.
    """
    soft, hard = value, value + 1 if number == RLIMIT_CPU else value
    ours = getrlimit(number)[1]
    return (number, soft, hard) if ours == RLIM_INFINITY else (number, min(soft, ours), min(hard, ours))


def _host_ids(plan: BubblewrapPlan, taken: Lease | None) -> tuple[int, int]:
    return (taken.uid, taken.uid) if taken else (plan.identity.uid, plan.identity.gid)


def _stage_mount(grant: PlannedGrant, fd: int, ids: tuple[int, int]) -> StageMount:
    status = os.fstat(fd)
    id_map = IdMap(*grant.owner, *ids) if grant.owner is not None else None
    return StageMount(fd, status.st_dev, status.st_ino, S_IFMT(status.st_mode), not grant.writable, id_map)


def _verify(grant: PlannedGrant, fd: int) -> None:
    """The descriptor must be of the object that was planned with."""
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != grant.object:
        raise LaunchFailed(
            Problem("object_changed", grant.pointer, f"{grant.path} is not the object that was checked"),
            retryable=True,
        )


def _let_reopen(streams: Streams, uid: int, pipes: int) -> None:
    """Let a workload that is not ours open its own streams by name, as in ``echo >/dev/stderr``.

    Parameters
    ----------
    uid: the workload's, on the host.
    pipes: device number of unnamed pipes. Those can be opened to all: nobody reaches one but through the
        /proc/PID/fd of a process that holds it. Named pipes and the caller's own terminal stay as they are.
    """
    for fd in (streams.stdin, streams.stdout, streams.stderr):
        status = os.fstat(fd)
        if S_ISFIFO(status.st_mode) and status.st_dev == pipes:
            os.fchmod(fd, 0o666)
    if streams.tty:
        os.fchown(streams.stdin, uid, -1)


def _make_stage_directory() -> None:
    """An empty directory that each root launch mounts its own tmpfs on, in a mount namespace of its own."""
    for directory in (RUN_DIRECTORY, _STAGE):
        try:
            os.mkdir(directory, mode=0o755)
            os.chmod(directory, 0o755)  # noqa: S103 - sandboxes' uids pass through, whatever our umask is
        except FileExistsError:
            continue
