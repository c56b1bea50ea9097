"""`AsyncSession`: the same sandbox as `Session`'s, for an event loop that must not be blocked (asyncio)."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from backends.errors import MxcError
from backends.frozen import frozen
from backends.qemu.off_loop import on_thread
from backends.sessions import Scope
from mxc_ops.ends import Ends
from mxc_ops.one_shot import Prepared
from mxc_ops.policy_builder import Policy
from mxc_ops.session.control import connect
from mxc_ops.session.copying import MAX_MIB
from mxc_ops.session.reaching import why_unreachable
from mxc_ops.session.service import Sessions
from mxc_ops.session.session import Forks, Session

if TYPE_CHECKING:
    from typing import Self, Unpack

    from backends.base import SandboxRequest
    from backends.sessions import Settled
    from mxc_ops.ends import HandedOver, StreamArguments
    from mxc_ops.result import Result
    from mxc_ops.session.copying import Copied
    from mxc_ops.session.record import Lease
    from mxc_ops.session.snapshots import Snapshot
    from mxc_ops.session.spawned_async import AsyncProcess

__all__ = ["AsyncForks", "AsyncSession"]


class AsyncSession:
    """Made by `open` or `attach`.

    ::

        async with await AsyncSession.open("vm", policy) as session:
            results = await asyncio.gather(session.exec("one"), session.exec("two"))

    Each method is as that of `Session`; `exec` is its `aexec`. Whoever is cancelled in `exec` kills the
    command, and in `wait` leaves it alone. In any other method they wait for its end first: what `open`,
    `spawn`, `fork` and `port` have made ends then, what `detach` and `snapshot` have made stays.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @classmethod
    async def open(
        cls,
        containment: str | Policy,
        policy: Policy | None = None,
        *,
        name: str = "",
        lease: Lease | None = None,
    ) -> AsyncSession:
        def make() -> Session:
            return Session.open(containment, policy, name=name, lease=lease)

        return cls(await on_thread(make, drop=lambda made: made.close(discard=True)))

    @classmethod
    async def attach(cls, text: str) -> AsyncSession:
        return cls(await on_thread(lambda: Session.attach(text)))

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def containment(self) -> str:
        return self.session.containment

    @property
    def document(self) -> Mapping[str, Any]:
        return self.session.document

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        policy: Policy | None = None,
        **ends: Unpack[StreamArguments],
    ) -> Result:
        return await self.session.aexec(command, policy=policy, **ends)

    async def spawn(
        self,
        command: str | Sequence[str],
        *,
        policy: Policy | None = None,
        **ends: Unpack[HandedOver],
    ) -> AsyncProcess:
        from mxc_ops.session.spawned_async import AsyncProcess

        return await AsyncProcess.start(lambda: self.session.prepared(command, policy), Ends(**ends))

    async def stop(self, *, discard: bool = False) -> Settled:
        return await on_thread(lambda: self.session.stop(discard=discard))

    async def start(self, snapshot: str = "") -> None:
        await on_thread(lambda: self.session.start(snapshot))

    async def close(self, *, discard: bool = False) -> Settled:
        return await on_thread(lambda: self.session.close(discard=discard))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def snapshot(self, name: str = "") -> Snapshot:
        return await on_thread(lambda: self.session.snapshot(name))

    async def snapshots(self) -> list[Snapshot]:
        return await on_thread(self.session.snapshots)

    async def remove_snapshot(self, name: str) -> None:
        await on_thread(lambda: self.session.remove_snapshot(name))

    async def fork(self, count: int = 1, *, snapshot: str = "") -> AsyncForks:
        def end(forks: Forks) -> None:
            for one in forks.sessions:
                one.close(discard=True)

        forks = await on_thread(lambda: self.session.fork(count, snapshot=snapshot), drop=end)
        return AsyncForks(tuple(AsyncSession(one) for one in forks.sessions), forks.scope)

    def policy(self, **changes: Any) -> Policy:
        """Blocks for nothing."""
        return self.session.policy(**changes)

    async def prepared(
        self, command: str | Sequence[str] | None, policy: Policy | SandboxRequest | None = None
    ) -> Prepared:
        return await on_thread(lambda: self.session.prepared(command, policy), drop=Prepared.close)

    async def detach(self, command: Sequence[str], **changes: Any) -> dict[str, Any]:
        return await on_thread(lambda: self.session.detach(command, **changes))

    async def jobs(self) -> list[dict[str, Any]]:
        return await on_thread(self.session.jobs)

    async def job(self, number: int) -> dict[str, Any]:
        return await on_thread(lambda: self.session.job(number))

    async def wait(self, number: int) -> dict[str, Any]:
        from mxc_ops.session.control_async import ask_on_loop

        # On the loop: a thread could not be cancelled, and a few that wait would leave none for the rest.
        sock = await on_thread(lambda: self._control(number), drop=socket.socket.close)
        return dict(await ask_on_loop(sock, "wait", job=number))

    def _control(self, number: int) -> socket.socket:
        self.session.job(number)
        entry = Sessions().store.open(self.id)
        try:
            return connect(entry.record.run_folder, "control")
        except OSError as error:
            raise why_unreachable(entry) from error

    async def kill(self, number: int, signal_number: int) -> dict[str, Any]:
        return await on_thread(lambda: self.session.kill(number, signal_number))

    async def log(self, number: int, channel: str, after: int = 0) -> tuple[bytes, int]:
        return await on_thread(lambda: self.session.log(number, channel, after))

    async def put(self, host_path: str, guest_path: str, *, max_mib: int = MAX_MIB) -> Copied:
        return await on_thread(lambda: self.session.put(host_path, guest_path, max_mib=max_mib))

    async def get(self, guest_path: str, host_path: str, *, max_mib: int = MAX_MIB) -> Copied:
        return await on_thread(lambda: self.session.get(guest_path, host_path, max_mib=max_mib))

    async def port(self, inside: int, host: int = 0) -> int:
        def shut(opened: int) -> None:
            with suppress(MxcError):  # it went with the sandbox, which may be stopped by now
                self.session.close_port(opened)

        return await on_thread(lambda: self.session.port(inside, host), drop=shut)

    async def ports(self) -> list[dict[str, Any]]:
        return await on_thread(self.session.ports)

    async def close_port(self, host: int) -> None:
        await on_thread(lambda: self.session.close_port(host))

    async def change_network(
        self, *, allow: Sequence[str] = (), deny: Sequence[str] = (), revoke: Sequence[str] = ()
    ) -> None:
        await on_thread(lambda: self.session.change_network(allow=allow, deny=deny, revoke=revoke))

    async def events(self) -> list[dict[str, Any]]:
        return await on_thread(self.session.events)

    async def suspend(self) -> None:
        await on_thread(self.session.suspend)

    async def resume(self) -> None:
        await on_thread(self.session.resume)


@frozen
class AsyncForks:
    """Copies of a sandbox, as `Forks`; `scope` is what each of them has of it."""

    sessions: tuple[AsyncSession, ...]
    scope: Scope
