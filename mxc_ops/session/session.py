"""`Session`: a sandbox that lives on between commands, for Python."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mxc_ops.channels import DEFAULT_CAP_BYTES
from mxc_ops.ends import Ends
from mxc_ops.one_shot import Prepared
from mxc_ops.policy_builder import Policy
from mxc_ops.result import Result
from mxc_ops.session.command import CommandPlan, NoHandles, SessionCommands
from mxc_ops.session.entry import Entry
from mxc_ops.session.record import Lease
from mxc_ops.session.service import Sessions
from mxc_ops.session.states import admit
from mxc_ops.sources import as_request

if TYPE_CHECKING:
    from typing import Self, Unpack

    from mxc_ops.ends import StreamArguments

__all__ = ["Session"]


class Session:
    """A sandbox that was started, or found again.

    ::

        with Session.open(Policy(containment="vm")) as session:
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
    def open(cls, policy: Policy, *, name: str = "", lease: Lease | None = None) -> Session:
        """Provision and start. Raises what `mxc_ops.run` raises before a command starts."""
        service = Sessions()
        entry = service.provision(policy, name=name, lease=lease)
        try:
            return cls(service.start(entry.id), service)
        except BaseException:
            service.deprovision(entry.id)
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
        with self._prepared(command, policy) as prepared:
            return prepared.run(_ends(ends))

    def stop(self) -> None:
        """End everything in it; its policy stays, and it may be started again."""
        self._entry = self._service.stop(self.id)

    def start(self) -> None:
        self._entry = self._service.start(self.id)

    def close(self) -> None:
        """Stop and deprovision."""
        self._service.deprovision(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepared(self, command: str | Sequence[str], policy: Policy | None) -> Prepared:
        entry = self._entry = self._service.store.open(self.id)
        admit("exec", entry.shown, entry.id)
        entry.touch()
        policy = policy or Policy.from_config(dict(entry.record.document))
        request = as_request(policy, command)
        backend: Any = SessionCommands()
        return Prepared(backend, request, None, CommandPlan(entry, request), NoHandles(), request.warnings)


def _ends(given: StreamArguments) -> Ends:
    return Ends(
        given.get("input"),
        given.get("stdin"),
        given.get("stdout"),
        given.get("stderr"),
        given.get("on_stdout"),
        given.get("on_stderr"),
        given.get("max_output_bytes", DEFAULT_CAP_BYTES),
    )
