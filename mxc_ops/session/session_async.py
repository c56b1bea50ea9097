"""`AsyncSession`: the same sandbox as `Session`'s, for an event loop that must not be blocked (asyncio)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from backends.qemu.off_loop import on_thread
from mxc_ops.policy_builder import Policy
from mxc_ops.session.session import Session

if TYPE_CHECKING:
    from typing import Self, Unpack

    from backends.sessions import Settled
    from mxc_ops.ends import StreamArguments
    from mxc_ops.result import Result
    from mxc_ops.session.copying import Copied
    from mxc_ops.session.record import Lease

__all__ = ["AsyncSession"]


class AsyncSession:
    """Made by `open` or `attach`.

    ::

        async with await AsyncSession.open("vm", policy) as session:
            results = await asyncio.gather(session.exec("one"), session.exec("two"))

    Each method is as that of `Session`, whose others are those of `session`. Cancelling `exec` kills the
    command; whoever is cancelled in another one waits for its end first, and what `open` has made ends then.
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

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        policy: Policy | None = None,
        **ends: Unpack[StreamArguments],
    ) -> Result:
        return await self.session.aexec(command, policy=policy, **ends)

    async def put(self, host_path: str, guest_path: str) -> Copied:
        return await on_thread(lambda: self.session.put(host_path, guest_path))

    async def get(self, guest_path: str, host_path: str) -> Copied:
        return await on_thread(lambda: self.session.get(guest_path, host_path))

    async def fork(self, count: int = 1, *, snapshot: str = "") -> list[AsyncSession]:
        def end(forks: list[Session]) -> None:
            for one in forks:
                one.close(discard=True)

        forked = await on_thread(lambda: list(self.session.fork(count, snapshot=snapshot).sessions), drop=end)
        return [AsyncSession(one) for one in forked]

    async def suspend(self) -> None:
        await on_thread(self.session.suspend)

    async def resume(self) -> None:
        await on_thread(self.session.resume)

    async def start(self, snapshot: str = "") -> None:
        await on_thread(lambda: self.session.start(snapshot))

    async def stop(self, *, discard: bool = False) -> Settled:
        return await on_thread(lambda: self.session.stop(discard=discard))

    async def close(self, *, discard: bool = False) -> Settled:
        return await on_thread(lambda: self.session.close(discard=discard))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
