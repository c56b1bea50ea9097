"""`AsyncProcess`: a command that runs while its owner does something else, for an event loop (asyncio)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, BinaryIO, Literal

from backends.qemu.off_loop import on_thread
from mxc_ops.channels import CHUNK_BYTES, read_ready
from mxc_ops.deadline import KILL_PATIENCE_S
from mxc_ops.spawned import Process, StreamName

if TYPE_CHECKING:
    from typing import Self

    from mxc_ops.ends import Ends
    from mxc_ops.one_shot import Prepared
    from mxc_ops.result import Result

__all__ = ["AsyncProcess"]

_OUTPUTS: tuple[StreamName, ...] = ("stdout", "stderr")


class AsyncProcess:
    """The twin of `mxc_ops.Process`, made by `start`; a context manager that leaves nothing running.

    Its streams are asyncio's, and end with the command. What nobody asked for is collected by `wait`.
    Cancelling `wait` kills the command, and so does leaving the block. One that is neither waited for nor
    left runs on.
    """

    def __init__(self, process: _Watched) -> None:
        """Use `start`."""
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._lock = asyncio.Lock()
        self._result: Result | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._outputs: dict[StreamName, _Output] = {}
        self._unasked: set[str] = set()

    @classmethod
    async def start(cls, prepared: Callable[[], Prepared], ends: Ends) -> AsyncProcess:
        """`prepared` is called on another thread."""
        started = cls(await on_thread(lambda: _Watched(prepared(), ends), drop=_Watched.end))
        try:
            await started._connect()
        except BaseException:
            await started.__aexit__()
            raise
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> asyncio.StreamWriter:
        """`drain` waits until the command takes more, `close` ends its input."""
        self._process.file("stdin")  # raises for what is no pipe of ours
        self._unasked.discard("stdin")
        assert self._writer is not None
        return self._writer

    @property
    def stdout(self) -> asyncio.StreamReader:
        """With a tty, of both streams."""
        return self._asked("stdout")

    @property
    def stderr(self) -> asyncio.StreamReader:
        return self._asked("stderr")

    async def chunks(self) -> AsyncIterator[tuple[StreamName, bytes]]:
        """What the command writes, as it comes, with the stream's name; ends when the command has."""
        names: list[StreamName] = [name for name in _OUTPUTS if name in self._unasked]
        self._unasked.difference_update(names)
        reading: dict[asyncio.Task[bytes], StreamName] = {self._reading(name): name for name in names}
        try:
            while reading:
                done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in reading if task in done]:
                    name = reading.pop(task)
                    if chunk := task.result():
                        reading[self._reading(name)] = name
                        yield name, chunk
        finally:
            for task, name in reading.items():  # left before the end: what is written from now on fails
                task.cancel()
                self._outputs[name].close()
        await asyncio.wait({self._gone})

    async def wait(self) -> Result:
        """Wait for the end. Closes the standard input unless `stdin` was asked for.

        Raises `LaunchFailed` when the command's end cannot be known.
        """
        async with self._lock:
            if self._result is None:
                self._result = await self._conclude()
            return self._result

    async def poll(self, timeout_s: float = 0.0) -> Result | None:
        """The result, if the command ends within the time; reads nothing meanwhile."""
        await asyncio.wait({self._gone}, timeout=timeout_s)
        return await self.wait() if self._gone.done() else None

    def signal(self, number: int) -> None:
        self._process.signal(number)

    def kill(self) -> None:
        self._process.kill()

    def resize(self, rows: int, columns: int) -> None:
        self._process.resize(rows, columns)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if not self._gone.done():
                await self._killed()
        finally:
            self._let_go()
            await on_thread(self._process.end)

    async def _connect(self) -> None:
        self._loop.add_reader(self._process.gone_fd, self._set_gone)
        self._unasked.update(self._process.pipes)
        for name in _OUTPUTS:
            if name in self._unasked:
                output = self._outputs[name] = _Output(asyncio.StreamReader(), self._loop)
                await self._loop.connect_read_pipe(lambda output=output: output, self._process.file(name))
        if "stdin" in self._unasked:
            transport, protocol = await self._loop.connect_write_pipe(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), self._process.file("stdin")
            )
            self._writer = asyncio.StreamWriter(transport, protocol, None, self._loop)

    def _asked(self, name: StreamName) -> asyncio.StreamReader:
        self._process.file(name)  # raises for what is no pipe of ours
        self._unasked.discard(name)
        return self._outputs[name].reader

    def _reading(self, name: StreamName) -> asyncio.Task[bytes]:
        return self._loop.create_task(self._read(name))

    async def _read(self, name: StreamName) -> bytes:
        return await self._outputs[name].reader.read(CHUNK_BYTES)

    async def _conclude(self) -> Result:
        if self._writer is not None and "stdin" in self._unasked:
            self._writer.close()
        try:
            await asyncio.gather(*(self._collect(name) for name in _OUTPUTS if name in self._unasked))
            await asyncio.wait({self._gone})
        except BaseException:
            await self._killed()
            raise
        return await on_thread(self._process.wait)

    async def _collect(self, name: StreamName) -> None:
        while chunk := await self._read(name):
            self._process.collect(name, chunk)

    async def _killed(self) -> None:
        self._process.kill()
        await asyncio.wait({self._gone}, timeout=KILL_PATIENCE_S)

    def _set_gone(self) -> None:
        self._loop.remove_reader(self._process.gone_fd)
        for output in self._outputs.values():
            output.drain()
        self._gone.set_result(None)

    def _let_go(self) -> None:
        if not self._gone.done():
            self._loop.remove_reader(self._process.gone_fd)
            self._gone.set_result(None)
        for output in self._outputs.values():
            output.close()
        if self._writer is not None:
            pipe = self._writer.transport
            if not pipe.is_closing() or pipe.get_write_buffer_size():  # abort fails for one that is closed
                pipe.abort()


class _Watched(Process):
    """With what an event loop has to know of it."""

    @property
    def gone_fd(self) -> int:
        """Readable once the command has ended."""
        return self._live.pidfd

    @property
    def pipes(self) -> tuple[str, ...]:
        """What nobody has asked for yet."""
        return tuple(self._fds)

    def file(self, name: Literal["stdin", "stdout", "stderr"]) -> BinaryIO:
        """Raises `ConfigError` for what is no pipe of this process."""
        return self._file(name, "wb" if name == "stdin" else "rb")

    def collect(self, name: StreamName, chunk: bytes) -> None:
        self._captures[_OUTPUTS.index(name)](chunk)

    def end(self) -> None:
        self._abandon()


class _Output(asyncio.StreamReaderProtocol):
    """Our end of one of the command's outputs."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.reader = reader
        self._pipe: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)
        self._pipe = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        # How a terminal's master side ends (pty(7)).
        over = isinstance(exc, OSError) and exc.errno == errno.EIO
        super().connection_lost(None if over else exc)

    def drain(self) -> None:
        """Take what the command left behind, and end: a fork of this process may have a copy of its end."""
        if self._pipe is None or self._pipe.is_closing():
            return
        self._pipe.pause_reading()
        fd: int = self._pipe.get_extra_info("pipe").fileno()
        while chunk := read_ready(fd):
            self.reader.feed_data(chunk)
        self.reader.feed_eof()
        self._pipe.close()

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
