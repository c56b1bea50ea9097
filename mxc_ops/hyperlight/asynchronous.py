"""`AsyncHyperlight`: the same machine as `Hyperlight`'s, for an event loop (asyncio)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from backends.qemu.off_loop import on_thread
from mxc_ops.hyperlight.hyperlight import Hyperlight
from mxc_ops.hyperlight.loops import on_own_thread
from mxc_ops.hyperlight.snapshot import HyperlightSnapshot

if TYPE_CHECKING:
    from typing import Self

    from pydantic import BaseModel

    from mxc_ops.hyperlight.result import CodeResult
    from mxc_ops.hyperlight.running import OnText
    from mxc_ops.policy_builder import Policy
    from mxc_ops.session.copying import Copied

__all__ = ["AsyncFiles", "AsyncHyperlight"]


class AsyncHyperlight:
    """Made as `Hyperlight` is.

    ::

        async with AsyncHyperlight() as h:
            h.register_tool("add", add)
            print((await h.run("await acall_tool('add', a=1, b=2)")).value)

    Each method is as that of `Hyperlight`; `run` is its `arun`. Whoever is cancelled in `run` ends the
    interpreter, and in any other method waits for its end first.
    """

    def __init__(self, policy: Policy | None = None, **arguments: Any) -> None:
        self.hyperlight = Hyperlight(policy, **arguments)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def register_tool(
        self,
        name_or_tool: str | Callable[..., Any],
        callback: Callable[..., Any] | None = None,
        *,
        timeout_s: float | None = None,
        schema: type[BaseModel] | None = None,
    ) -> Callable[..., Any]:
        """Blocks for nothing."""
        return self.hyperlight.register_tool(name_or_tool, callback, timeout_s=timeout_s, schema=schema)

    async def start(self) -> None:
        await on_thread(self.hyperlight.start)

    async def run(
        self,
        code: str,
        *,
        timeout_s: float | None = None,
        allow: Iterable[str] | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
    ) -> CodeResult:
        return await self.hyperlight.arun(
            code, timeout_s=timeout_s, allow=allow, on_stdout=on_stdout, on_stderr=on_stderr
        )

    async def snapshot(self) -> HyperlightSnapshot:
        return await on_thread(self.hyperlight.snapshot, drop=HyperlightSnapshot.close)

    async def restore(self, snapshot: HyperlightSnapshot) -> None:
        await on_thread(lambda: self.hyperlight.restore(snapshot))

    async def restart(self) -> None:
        await on_thread(self.hyperlight.restart)

    @property
    def files(self) -> AsyncFiles:
        return AsyncFiles(self.hyperlight)

    def output_path(self) -> str | None:
        """Blocks for nothing."""
        return self.hyperlight.output_path()

    async def close(self) -> None:
        await on_own_thread(self.hyperlight.close, stop=bool)


class AsyncFiles:
    """As `Hyperlight.files`; `write` and `read` are its indexing."""

    def __init__(self, hyperlight: Hyperlight) -> None:
        self._files = hyperlight.files

    async def write(self, path: str, content: bytes) -> None:
        await on_thread(lambda: self._files.__setitem__(path, content))

    async def read(self, path: str) -> bytes:
        return await on_thread(lambda: self._files[path])

    async def put(self, host_path: str, guest_path: str) -> Copied:
        return await on_thread(lambda: self._files.put(host_path, guest_path))

    async def get(self, guest_path: str, host_path: str) -> Copied:
        return await on_thread(lambda: self._files.get(guest_path, host_path))
