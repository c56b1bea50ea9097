"""Start QEMU inside its confinement, and own it from then on (effectful).

QEMU is the workload of our own launcher inside bubblewrap, so it is under everything that a bubblewrap
sandbox is under: it ends when its control socket is closed, which happens when this process ends in whatever
way, and its pid namespace takes every process of it along.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, MSG_DONTWAIT, SHUT_WR, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair
from collections.abc import Sequence
from contextlib import suppress

from backends import process
from backends.errors import LaunchFailed, Problem
from backends.inside.codec import decode_message, encode, spec_memfd
from backends.inside.protocol import MESSAGE_BYTES, EndedMessage, Failed, InsideSpec, OutsideSpec, Step
from backends.launched.identity import Identity
from backends.linux.cgroups import CgroupFacts, SandboxCgroup
from backends.linux.child_descriptors import ChildDescriptors
from backends.linux.landlock import nothing_writable
from backends.linux.uid_range import Lease, UidRange, lease
from backends.qemu.confinement import Confinement, options

__all__ = ["ConfinedQemu"]

_MOST_STDERR = 16384


class ConfinedQemu:
    """A started QEMU. `pidfd` is readable when it and everything of its confinement is gone."""

    def __init__(
        self,
        confinement: Confinement,
        accelerator: str,
        argv: Sequence[str],
        give: Sequence[int],
        owners: Sequence[int] = (),
    ) -> None:
        """Start it.

        Parameters
        ----------
        argv: QEMU's, from `machine.arguments`.
        give: the descriptors that it names; they stay the caller's to close.
        owners: pidfds of processes, besides this one, that end it by ending; the caller's to close, too.

        Raises `LaunchFailed` when nothing can be started, `BackendUnavailable` when no uid is free.
        """
        self._lease: Lease | None = None
        self._group: SandboxCgroup | None = None
        self._control: socket | None = None
        self._stderr = -1
        self._killed = False
        self._owner = os.getpid()
        child_only = ChildDescriptors()
        try:
            self._child = self._start(confinement, accelerator, argv, give, owners, child_only)
        except BaseException as error:
            self._give_back()
            if isinstance(error, OSError | ValueError):
                raise _not_started(str(error)) from error
            raise
        finally:
            child_only.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def pidfd(self) -> int:
        return self._child.pidfd

    def kill(self) -> None:
        """End everything; a second call is for an init that does not obey, and kills that."""
        if self._killed:
            process.kill_child_of(self._child)
        self._killed = True
        if self._control is not None:
            with suppress(OSError):
                self._control.shutdown(SHUT_WR)

    def collect(self) -> str:
        """After `pidfd` became readable: reap, give back uid and groups; answers QEMU's last words.

        Why it ended comes before what it wrote to standard error.
        """
        words = self._last_words()
        process.reap(self._child)
        self._give_back()
        return words

    def read_hits(self) -> dict[str, bool]:
        """Controller → whether the limit of the whole process was hit so far."""
        return self._group.read_hits() if self._group is not None else {}

    def __del__(self) -> None:
        child = getattr(self, "_child", None)
        if child is None:
            return
        if os.getpid() == self._owner and self._control is not None:
            self.kill()
        os.close(child.pidfd)

    def _start(
        self,
        confinement: Confinement,
        accelerator: str,
        argv: Sequence[str],
        give: Sequence[int],
        owners: Sequence[int],
        child_only: ChildDescriptors,
    ) -> process.Spawned:
        identity = confinement.identity
        if identity.kind == "range":
            self._lease = lease(UidRange(identity.uid, identity.count))
        if confinement.limits.cgroup:
            facts = CgroupFacts(confinement.cgroup_version, dict(confinement.cgroup_parents))
            self._group = SandboxCgroup(facts, confinement.limits.cgroup)
        self._control, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
        control = child_only.add(theirs.detach())
        self._stderr, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        child_only.add(stderr)
        null = child_only.add(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        inside = InsideSpec(
            control=control,
            argv=tuple(argv),
            owners=(child_only.add(os.pidfd_open(os.getpid())), *owners),
            hold=(self._lease.lock,) if self._lease else (),
            give=tuple(give),
            rlimits=tuple((number, value, value) for number, value in confinement.limits.rlimits),
            landlock=nothing_writable(),
        )
        inside_spec = child_only.add(spec_memfd(encode(inside)))
        program = child_only.add(os.open(confinement.launcher, os.O_RDONLY | os.O_CLOEXEC))
        words = "\0".join((*options(argv[0], accelerator, confinement.places), ""))
        options_fd = child_only.memfd(words.encode("utf-8", "surrogateescape"))
        cgroups = [child_only.add(fd) for fd in self._group.open_join_fds()] if self._group else []
        keep = {*give, options_fd, program, inside_spec, *inside.owners, *inside.hold}
        outside = OutsideSpec(
            parent_pid=os.getpid(),
            control=control,
            argv=(
                *(confinement.helper.path, "--args", str(options_fd), "--"),
                *(f"/proc/self/fd/{program}", "inside", str(inside_spec)),
            ),
            cgroups=tuple(cgroups),
            identity=_host_ids(identity, self._lease) if identity.staged else None,
            keep=tuple(sorted(keep)),
        )
        outside_spec = child_only.add(spec_memfd(encode(outside)))
        launcher = (confinement.launcher, "outside", str(outside_spec))
        return process.spawn(
            launcher, (null, stderr, stderr), sorted({*child_only.fds, *give, *owners, *inside.hold})
        )

    def _last_words(self) -> str:
        parts: list[str] = []
        with suppress(BlockingIOError, ConnectionResetError):
            while self._control is not None and (data := self._control.recv(MESSAGE_BYTES, MSG_DONTWAIT)):
                message = decode_message(data)
                if isinstance(message, Failed):
                    parts.append(f"{_step(message.step)}: {os.strerror(message.errno)}")
                elif isinstance(message, EndedMessage) and not self._killed:
                    parts.append(_status(os.waitstatus_to_exitcode(message.status)))
        with suppress(BlockingIOError):
            if text := os.read(self._stderr, _MOST_STDERR).decode("utf-8", "replace").strip():
                parts.append(text)
        return "; ".join(parts)

    def _give_back(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1
        if self._lease is not None:
            os.close(self._lease.lock)
            self._lease = None
        if self._group is not None:
            self._group.remove()
            self._group = None


def _host_ids(identity: Identity, taken: Lease | None) -> tuple[int, int]:
    return (taken.uid, taken.uid) if taken else (identity.uid, identity.gid)


def _step(step: Step) -> str:
    return (
        "QEMU could not be executed"
        if step is Step.EXEC
        else f"its confinement failed at {step.name.lower()}"
    )


def _status(code: int) -> str:
    return f"it ended by signal {-code}" if code < 0 else f"it ended with status {code}"


def _not_started(why: str) -> LaunchFailed:
    return LaunchFailed(Problem("qemu_not_started", "", f"QEMU could not be started: {why}"))
