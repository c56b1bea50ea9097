"""The effectful step: descriptors, control groups and uids are made, and the launcher is started on them.

Neither the policy nor the environment appears in any command line: options, command and environment travel in
sealed memfds (spec: upstream-gaps.md P6).
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from stat import S_IFMT, S_ISFIFO
from typing import TYPE_CHECKING

from backends import process
from backends.base import Handles, Streams
from backends.errors import LaunchFailed, Problem
from backends.frozen import frozen
from backends.inside.codec import encode, spec_memfd
from backends.inside.protocol import IdMap, InsideSpec, OutsideSpec, StageMount, StageRoot, UserNamespace
from backends.launched.parts import STAGE, LaunchedPlan, PlannedGrant
from backends.launched.running import Explain, LaunchedRunning
from backends.linux import landlock, limits, seccomp
from backends.linux.cgroups import CgroupFacts, SandboxCgroup
from backends.linux.child_descriptors import ChildDescriptors
from backends.linux.numbers import RUN_DIRECTORY
from backends.linux.uid_range import Lease, UidRange, lease

if TYPE_CHECKING:
    from backends.network.opening import Network

__all__ = ["Arranged", "Arrangement", "launch"]

_FIRST_FREE = 3


@frozen
class Arranged:
    """What is there when the program around the launcher is arranged for.

    `inside` are the words that start the launcher as process 1. `grants` says for each of the plan's where it
    is to be found: a path of the stage, or a descriptor's number. `leases` are the uids taken for this run.
    """

    child_only: ChildDescriptors
    inside: tuple[str, ...]
    grants: tuple[str, ...]
    leases: tuple[Lease, ...]


@frozen
class Arrangement:
    """How the namespaces are made: the program, and, for a container, the root that it is given.

    With `takes_terminal`, the workload's terminal is in the stage as well, after the grants.
    """

    argv: tuple[str, ...]
    root: StageRoot | None = None
    takes_terminal: bool = False


def launch(
    plan: LaunchedPlan,
    handles: Handles,
    streams: Streams,
    secrets: tuple[tuple[str, str], ...],
    arrange: Callable[[Arranged], Arrangement],
    explain: Explain,
    *,
    uids: tuple[UidRange, ...] = (),
    users: UserNamespace | None = None,
    becomes: tuple[int, int] | None = None,
    give: tuple[int, ...] = (),
    group: int | None = None,
) -> LaunchedRunning:
    """Start the planned sandbox; its failures to set itself up surface in `wait`.

    Parameters
    ----------
    handles: the descriptors observed together with the plan's facts.
    streams: what the workload gets as 0, 1 and 2.
    secrets: environment entries whose values no plan may hold.
    arrange: gives the program that makes the namespaces.
    explain: turns the launcher's report, or that program's last words, into an error.
    uids: the ranges to take one uid of each from, for this sandbox alone; where the identity is of a range,
        the first is the workload's.
    users: what the sandbox is made in, for a caller who is not root and has it made by us; its network
        belongs to that, too.
    give: descriptors that the workload gets under their own numbers, to serve us by: nobody may stop it then.
        They stay the caller's.
    becomes: (uid, gid) inside that process 1 drops to; None: the launcher drops to the identity outside.
    group: the host's gid that a workload of a leased uid has, instead of one of its own.

    Raises `LaunchFailed` when the host refuses what was planned, `BackendUnavailable` when no uid is free.
    """
    started = _Launch(plan, handles, streams, secrets, give, group)
    try:
        return started.start(arrange, explain, uids, users, becomes)
    except BaseException as error:
        started.give_back()
        if isinstance(error, OSError | ValueError):
            message = f"the sandbox could not be started: {error}"
            raise LaunchFailed(Problem("launch_failed", "", message)) from error
        raise
    finally:
        started.close_child_only()


class _Launch:
    """What one launch holds until its sandbox does."""

    def __init__(
        self,
        plan: LaunchedPlan,
        handles: Handles,
        streams: Streams,
        secrets: tuple[tuple[str, str], ...],
        give: tuple[int, ...],
        group: int | None,
    ) -> None:
        self._plan = plan
        self._give = give
        self._gid = group
        self._handles = handles
        self._streams = streams
        self._secrets = secrets
        self._child_only = ChildDescriptors()
        self._leases: list[Lease] = []
        self._group: SandboxCgroup | None = None
        self._control: socket | None = None
        self._diagnostics = self._diagnostics_end = -1
        self._network: Network | None = None
        self._users: UserNamespace | None = None

    def start(
        self,
        arrange: Callable[[Arranged], Arrangement],
        explain: Explain,
        uids: tuple[UidRange, ...],
        users: UserNamespace | None,
        becomes: tuple[int, int] | None,
    ) -> LaunchedRunning:
        plan, streams = self._plan, self._streams
        self._users = users
        for choice in uids:
            self._leases.append(lease(choice))
        if plan.limits.cgroup:
            facts = CgroupFacts(plan.cgroup_version, plan.cgroup_parents)
            self._group = SandboxCgroup(facts, plan.limits.cgroup)
        if plan.network is not None:
            from backends.network.opening import open_network

            self._network = open_network(plan.network, plan.launcher, users)
        self._control, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
        control = self._child_only.add(theirs.detach())
        self._diagnostics, self._diagnostics_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if plan.identity.is_other:
            _let_reopen(streams, self._host_ids()[0], os.fstat(self._diagnostics).st_dev)
        outside = self._outside_spec(control, arrange, becomes)
        argv = (plan.launcher, "outside", str(self._child_only.add(spec_memfd(encode(outside)))))
        keep = {*self._child_only.fds, *(taken.lock for taken in self._leases)}
        keep |= {self._handles.fileno(part.slot) for part in (*plan.grants, *plan.masks)} | {*self._give}
        keep |= set(self._namespaces())
        child = process.spawn(argv, (streams.stdin, streams.stdout, self._diagnostics_end), sorted(keep))
        return LaunchedRunning(
            plan.limits.outcomes,
            explain,
            child,
            self._control,
            self._diagnostics,
            self._group,
            self._leases,
            self._network,
        )

    def give_back(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._diagnostics >= 0:
            os.close(self._diagnostics)
        for taken in self._leases:
            os.close(taken.lock)
        if self._group is not None:
            self._group.remove()
        if self._network is not None:
            self._network.close()

    def close_child_only(self) -> None:
        if self._diagnostics_end >= 0:
            os.close(self._diagnostics_end)
        self._child_only.close()

    def _owners(self) -> list[int]:
        """Whoever ends the sandbox by ending: we, and who holds its network."""
        gate = [] if self._network is None else [fcntl(self._network.gate, F_DUPFD_CLOEXEC, _FIRST_FREE)]
        return [os.pidfd_open(os.getpid()), *gate]

    def _namespaces(self) -> list[int]:
        """Those that are there before the sandbox is."""
        if self._network is None:
            return []
        users = self._network.users
        return [self._network.namespace, *(() if users is None else (users,))]

    def _host_ids(self) -> tuple[int, int]:
        identity = self._plan.identity
        if identity.kind == "range":
            uid = self._leases[0].uid
            return uid, uid if self._gid is None else self._gid
        return identity.uid, identity.gid

    def _outside_spec(
        self, control: int, arrange: Callable[[Arranged], Arrangement], becomes: tuple[int, int] | None
    ) -> OutsideSpec:
        plan, child_only, handles = self._plan, self._child_only, self._handles
        ids = self._host_ids()
        mounts: list[StageMount] = []
        places: list[str] = []
        for grant in plan.grants:
            fd = handles.fileno(grant.slot)
            _verify(grant, fd)
            places.append(f"{STAGE}/{len(mounts)}" if plan.identity.staged else str(fd))
            if plan.identity.staged:
                mounts.append(_stage_mount(grant, fd, ids))
        # The launcher is executed through its descriptor: no path of it is needed, or visible, inside.
        program = child_only.add(os.open(plan.launcher, os.O_RDONLY | os.O_CLOEXEC))
        inside = child_only.add(spec_memfd(encode(self._inside_spec(control, becomes))))
        words = (f"/proc/self/fd/{program}", "inside", str(inside))
        arrangement = arrange(Arranged(child_only, words, tuple(places), tuple(self._leases)))
        if arrangement.takes_terminal:
            mounts.append(_terminal(self._streams.stdin))
        if self._users is None and (mounts or arrangement.root is not None):
            _make_stage_directory()
        cgroups = [child_only.add(fd) for fd in self._group.open_join_fds()] if self._group else []
        keep = {fd for fd in child_only.fds if fd not in cgroups} | {taken.lock for taken in self._leases}
        keep |= {handles.fileno(mask.slot) for mask in plan.masks} | {*self._give}
        if not plan.identity.staged:
            keep |= {handles.fileno(grant.slot) for grant in plan.grants}
        return OutsideSpec(
            parent_pid=os.getpid(),
            control=control,
            argv=arrangement.argv,
            cgroups=tuple(cgroups),
            stage=STAGE if mounts or arrangement.root is not None else "",
            users=self._users,
            root=arrangement.root,
            mounts=tuple(mounts),
            identity=ids if plan.identity.staged and becomes is None else None,
            in_users=self._network.users if self._network else None,
            in_network=self._network.namespace if self._network else None,
            keep=tuple(sorted(keep - {control})),
        )

    def _inside_spec(self, control: int, becomes: tuple[int, int] | None) -> InsideSpec:
        plan, child_only = self._plan, self._child_only
        stderr = child_only.add(fcntl(self._streams.stderr, F_DUPFD_CLOEXEC, _FIRST_FREE))
        return InsideSpec(
            control=control,
            argv=plan.argv,
            env=plan.environment + self._secrets,
            cwd=plan.cwd,
            stderr=stderr,
            owners=tuple(child_only.add(fd) for fd in self._owners()),
            tty=self._streams.tty,
            give=self._give,
            unstopped=bool(self._give),
            hold=tuple(taken.lock for taken in self._leases),
            rlimits=tuple(limits.hold(number, value) for number, value in plan.limits.rlimits),
            landlock=landlock.rules(plan.landlock_abi, readable=("/",), writable=plan.writable_trees),
            seccomp=seccomp.program(plan.seccomp),
            guards=tuple(guard.path for guard in plan.guards),
            masks=tuple((self._handles.fileno(mask.slot), mask.path) for mask in plan.masks),
            user=becomes,
        )


def _stage_mount(grant: PlannedGrant, fd: int, ids: tuple[int, int]) -> StageMount:
    status = os.fstat(fd)
    id_map = IdMap(*grant.owner, *ids) if grant.owner is not None else None
    return StageMount(fd, status.st_dev, status.st_ino, S_IFMT(status.st_mode), not grant.writable, id_map)


def _terminal(stdin: int) -> StageMount:
    status = os.fstat(stdin)
    return StageMount(0, status.st_dev, status.st_ino, S_IFMT(status.st_mode), read_only=False)


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
    for directory in (RUN_DIRECTORY, STAGE):
        with suppress(FileExistsError):
            os.mkdir(directory, mode=0o755)
            os.chmod(directory, 0o755)  # noqa: S103 - sandboxes' uids pass through, whatever our umask is
