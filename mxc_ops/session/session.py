"""`Session`: a sandbox that lives on between commands, for Python."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from backends.base import SandboxRequest
from backends.errors import ConfigError, LaunchFailed, Problem
from backends.frozen import frozen
from backends.sessions import Scope
from backends.told_errors import told_error
from mxc_ops.ends import Ends
from mxc_ops.one_shot import Prepared
from mxc_ops.policy_builder import Policy
from mxc_ops.result import Result
from mxc_ops.session import copying
from mxc_ops.session.command import CommandPlan, NoHandles, SessionCommands
from mxc_ops.session.control import Control, connect
from mxc_ops.session.copying import MAX_MIB, Copied
from mxc_ops.session.entry import Entry
from mxc_ops.session.errors import no_such_job, suspended
from mxc_ops.session.event_log import read_events
from mxc_ops.session.ids import PREFIXES
from mxc_ops.session.jobs import order_of
from mxc_ops.session.network_changes import NetworkChanges
from mxc_ops.session.nursery import begin
from mxc_ops.session.reaching import why_unreachable
from mxc_ops.session.record import Lease
from mxc_ops.session.service import Sessions
from mxc_ops.session.snapshots import Snapshot, snapshots
from mxc_ops.session.states import admit
from mxc_ops.sources import as_request

if TYPE_CHECKING:
    from typing import Self, Unpack

    from backends.sessions import Settled
    from mxc_ops.ends import HandedOver, StreamArguments
    from mxc_ops.spawned import Process

__all__ = ["Forks", "Session"]

_ANSWER_S = 30.0


class Session:
    """A sandbox that was started, or found again.

    ::

        with Session.open("vm") as session:
            session.exec("echo hello > /tmp/greeting")
            print(session.exec("cat /tmp/greeting").stdout)

    As a context manager it ends the sandbox; without one, the sandbox stays until it is deprovisioned, by
    whoever knows its id: ``Session.attach(id)``. All methods may be called from any thread.
    """

    def __init__(self, entry: Entry, service: Sessions) -> None:
        """Use `open` or `attach`."""
        self._entry = entry
        self._service = service

    @classmethod
    def open(
        cls,
        containment: str | Policy,
        policy: Policy | None = None,
        *,
        name: str = "",
        lease: Lease | None = None,
    ) -> Session:
        """Provision and start. Raises what `mxc_ops.run` raises before a command starts.

        Parameters
        ----------
        containment: in which containment the policy, by default the one that grants nothing, is to hold; or
            the policy itself, which says that too.
        """
        if isinstance(containment, Policy):
            policy = containment
        else:
            policy = (policy or Policy()).replace(containment=containment)
        service = Sessions()
        if policy.containment in PREFIXES:
            begin(policy.containment)
        entry = service.provision(policy, name=name, lease=lease)
        try:
            return cls(service.start(entry.id), service)
        except BaseException:
            service.deprovision(entry.id, discard=True)
            raise

    @classmethod
    def attach(cls, text: str) -> Session:
        """A sandbox of ours by its id, the beginning of one, or its name.

        Raises `LifecycleError`: ``stale_id``, ``not_provisioned``, ``malformed_id``.
        """
        service = Sessions()
        return cls(service.store.open(text), service)

    @property
    def id(self) -> str:
        return self._entry.id

    @property
    def containment(self) -> str:
        return self._entry.record.containment

    @property
    def document(self) -> Mapping[str, Any]:
        """The canonical document that it was provisioned with."""
        return self._entry.record.document

    def exec(
        self,
        command: str | Sequence[str],
        *,
        policy: Policy | None = None,
        **ends: Unpack[StreamArguments],
    ) -> Result:
        """Run one command and wait for it; any number may run at once.

        Parameters
        ----------
        command: a line for the shell, or an argument vector.
        policy: environment, working directory, terminal and timeout of this command; what else it says is
            fixed since the sandbox was provisioned. By default they are the sandbox's own.
        ends: as for `mxc_ops.run`.

        Raises `LifecycleError` (``not_started``, ``stale_id``), `LaunchFailed`, `PolicyRefused`.
        """
        with self.prepared(command, policy) as prepared:
            return prepared.run(Ends(**ends))

    async def aexec(
        self,
        command: str | Sequence[str],
        *,
        policy: Policy | None = None,
        **ends: Unpack[StreamArguments],
    ) -> Result:
        """The same without blocking the event loop; cancelling kills the command."""
        from mxc_ops.one_shot_async import arun_prepared

        return await arun_prepared(lambda: self.prepared(command, policy), Ends(**ends))

    def spawn(
        self,
        command: str | Sequence[str],
        *,
        policy: Policy | None = None,
        **ends: Unpack[HandedOver],
    ) -> Process:
        """Start one and return at once; streams are pipes unless descriptors are handed over."""
        from mxc_ops.spawned import Process

        return Process(self.prepared(command, policy), Ends(**ends))

    def stop(self, *, discard: bool = False) -> Settled:
        """End everything in it; its policy stays, and it may be started again.

        A virtual machine's copies of read-write grants are brought back, unless `discard` says not to; the
        answer is what was in the way. Raises `LifecycleError`, and `CopyBackFailed`: then it still runs, to
        be stopped again.
        """
        stopped = self._service.stop(self.id, discard=discard)
        self._entry = stopped.entry
        return stopped.settled

    def start(self, snapshot: str = "") -> None:
        """Start it anew, or where it was when that snapshot of it was taken."""
        self._entry = self._service.start(self.id, snapshot)

    def close(self, *, discard: bool = False) -> Settled:
        """Stop, as `stop` does, and deprovision."""
        return self._service.deprovision(self.id, discard=discard)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def snapshot(self, name: str = "") -> Snapshot:
        """Keep it as it is now, under a name of its own; by default a number.

        Raises `LifecycleError` (``not_started``, ``stale_id``), `PolicyRefused` (``snapshot_taken``),
        `LaunchFailed`.
        """
        return self._service.snapshot(self.id, name)

    def snapshots(self) -> list[Snapshot]:
        """The oldest first."""
        return snapshots(self._service.store.open(self.id))

    def remove_snapshot(self, name: str) -> None:
        self._service.remove_snapshot(self.id, name)

    def fork(self, count: int = 1, *, snapshot: str = "") -> Forks:
        """So many copies of it as it is now, or as it was then, each of them running; all of them, or none.

        A virtual machine's copies go on with everything that runs in it. Of the other containments' the
        private files are copied and no process, and grants are shared: `Forks.scope` says which.

        Raises `LifecycleError` (``not_started``, ``stale_id``), `LaunchFailed`.
        """
        forked = self._service.fork(self.id, count, snapshot)
        return Forks(tuple(Session(entry, self._service) for entry in forked.entries), forked.scope)

    def policy(self, **changes: Any) -> Policy:
        """The sandbox's own, with another environment, directory, terminal or timeout for one command.

        `env` is added to the sandbox's own.
        """
        own = self._own_policy
        if "env" in changes and own.env is not None:
            changes["env"] = {**own.env, **changes["env"]}
        return own.replace(**changes)

    @cached_property
    def _own_policy(self) -> Policy:
        return Policy.from_config(dict(self.document))

    def prepared(
        self, command: str | Sequence[str] | None, policy: Policy | SandboxRequest | None = None
    ) -> Prepared:
        """A command that may be launched once, as of `mxc_ops.one_shot.prepare`.

        `policy` may be the whole request; `command` is None then.
        """
        entry = self._running()
        request = as_request(policy or self._own_policy, command)
        backend: Any = SessionCommands()
        return Prepared(backend, request, None, CommandPlan(entry, request), NoHandles(), request.warnings)

    def detach(self, command: Sequence[str], **changes: Any) -> dict[str, Any]:
        """Start a command that nobody waits for; what `jobs` tells of it.

        Raises `LaunchFailed`, `LifecycleError`, `ConfigError` for secrets that cannot be read.
        """
        return self._ask("run", **order_of(as_request(self.policy(**changes), list(command))))

    def jobs(self) -> list[dict[str, Any]]:
        """The detached commands of this start, those that have ended among them."""
        return self._ask("ps")["jobs"]

    def job(self, number: int) -> dict[str, Any]:
        """Raises `LaunchFailed` for a number that nobody has."""
        found = next((job for job in self.jobs() if job["job"] == number), None)
        if found is None:
            raise no_such_job(self.id, number)
        return found

    def wait(self, number: int) -> dict[str, Any]:
        """Once that command has ended."""
        self.job(number)
        return self._ask("wait", job=number, timeout_s=None)

    def kill(self, number: int, signal_number: int) -> dict[str, Any]:
        """Reaches all that it has started; 0 sends none. Raises `ConfigError` for what is no signal."""
        if signal_number not in (0, *signal.valid_signals()):
            raise ConfigError(Problem("no_such_signal", "", f"{signal_number} is no signal"))
        self.job(number)
        return self._ask("kill", job=number, signal=signal_number)

    def log(self, number: int, channel: str, after: int = 0) -> tuple[bytes, int]:
        """What is kept of a detached command's output (``out`` or ``err``), and where it ends.

        `after`: without what comes before this place; both places are counted from the stream's beginning.
        """
        while True:
            before = self.job(number)["dropped"][channel]
            data = self._log_files(number, channel)
            if self.job(number)["dropped"][channel] == before:  # else a part went while we read
                return data[max(0, after - before) :], before + len(data)

    def change_network(
        self, *, allow: Sequence[str] = (), deny: Sequence[str] = (), revoke: Sequence[str] = ()
    ) -> None:
        """Let it reach something else from now on, also when it is started again: all of it, or nothing.

        Destinations are written as ``example.test:443`` or ``192.0.2.0/24:53/udp``. Those to `allow` must lie
        within the policy's ceiling; `revoke` takes back what was allowed, as it was written. Raises
        `PolicyRefused`, `ConfigError`, `LifecycleError` (``stale_id``), `LaunchFailed`.
        """
        self._entry = self._service.change_network(
            self.id, NetworkChanges(*map(tuple, (allow, deny, revoke)))
        )
        self.__dict__.pop("_own_policy", None)

    def events(self) -> list[dict[str, Any]]:
        """What its network decided, the oldest first."""
        return read_events(self._service.store.open(self.id))

    def put(self, host_path: str, guest_path: str, *, max_mib: int = MAX_MIB) -> Copied:
        """Copy a file or directory into the sandbox; see `copying.put`. Commands run on meanwhile."""
        return copying.put(self._agent, host_path, guest_path, max_mib)

    def get(self, guest_path: str, host_path: str, *, max_mib: int = MAX_MIB) -> Copied:
        """Copy a file or directory out of the sandbox; see `copying.get`."""
        return copying.get(self._agent, guest_path, host_path, max_mib)

    def _agent(self) -> socket.socket:
        entry = self._running()
        try:
            return connect(entry.record.run_folder, "agent")
        except OSError as error:
            raise why_unreachable(entry) from error

    def _log_files(self, number: int, channel: str) -> bytes:
        parts: list[bytes] = []
        for name in (f"{number}.{channel}.old", f"{number}.{channel}"):
            path = f"{self._entry.record.run_folder}/{name}"
            with suppress(FileNotFoundError), open(path, "rb") as file:
                parts.append(file.read())
        return b"".join(parts)

    def port(self, inside: int, host: int = 0) -> int:
        """Open a port of the host's loopback that leads to this port of the sandbox's; the host's number.

        Parameters
        ----------
        inside: who listens there need not be there yet. Anybody on this host may connect.
        host: 0 takes any that is free.

        It is open until it is closed, or the sandbox is stopped. Raises `PolicyRefused`
        (``port_not_allowed``) for a sandbox whose policy has no `host_loopback`, `LaunchFailed`
        (``port_taken``), `LifecycleError` (``not_started``, ``stale_id``).
        """
        return self._ask_port("open-port", even_suspended=False, host=host, inside=inside)["opened"]

    def ports(self) -> list[dict[str, Any]]:
        """Those that are open, the oldest first: ``host``, ``inside``, ``connections``, ``lastFailure``."""
        return self._ask_port("ports")["ports"]

    def close_port(self, host: int) -> None:
        """Its connections are cut. Raises `LaunchFailed` (``no_such_port``)."""
        self._ask_port("close-port", host=host)

    def _ask_port(self, do: str, *, even_suspended: bool = True, **order: Any) -> dict[str, Any]:
        answer = self._ask(do, even_suspended=even_suspended, **order)
        if "problem" in answer:
            raise told_error(answer["problem"])
        return answer

    def suspend(self) -> None:
        """Have everything in it stand still; twice is once. Stopped so, it can be stopped, or resumed."""
        self._ask("suspend", even_suspended=True)

    def resume(self) -> None:
        """What was suspended goes on; a virtual machine's clock is set."""
        self._ask("resume", even_suspended=True)

    def _running(self, *, even_suspended: bool = False) -> Entry:
        entry = self._entry = self._service.store.open(self.id)
        admit("exec", entry.shown, entry.id)
        if not even_suspended and entry.is_suspended:
            raise suspended(entry.id)
        entry.touch()
        return entry

    def _ask(
        self,
        do: str,
        *,
        timeout_s: float | None = _ANSWER_S,
        even_suspended: bool = False,
        **order: Any,
    ) -> dict[str, Any]:
        entry = self._running(even_suspended=even_suspended)
        try:
            control = Control(entry.record.run_folder)
        except OSError as error:
            raise why_unreachable(entry) from error
        with control:
            answer = dict(control.ask(do, timeout_s=timeout_s, **order))
        if "refused" in answer:
            raise LaunchFailed(Problem("command_refused", "CMD", str(answer["refused"]["message"])))
        return answer


@frozen
class Forks:
    """Copies of a sandbox; `scope` is what each of them has of it (see `backends.sessions.Scope`)."""

    sessions: tuple[Session, ...]
    scope: Scope
