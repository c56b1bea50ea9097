"""Carry bytes both ways between two connected sockets: what a tunnel is once it has been decided.

No task and no buffer belong to a direction that flows: one buffer serves the whole process, and only what a
slow sink leaves over is kept, while its source is not read any further.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

__all__ = ["Pump"]

_PORTION = 256 * 1024
_SMALL_PORTION = 16 * 1024
_KEPT_FREELY = 64 << 20
"""Bytes that slow sinks may have left over, in the whole process, before portions get small."""

_buffer = memoryview(bytearray(_PORTION))


class _Kept:
    """How many bytes all directions keep."""

    size = 0


class _Direction:
    """From `source` to `sink`, whose writing end is shut down when `source` has ended."""

    def __init__(self, pump: Pump, source: socket.socket, sink: socket.socket) -> None:
        self._pump = pump
        self._loop = pump.loop
        self._source = source
        self._sink = sink
        self._rest = memoryview(b"")
        self.carried = 0
        self.over = False

    def start(self, first: bytes) -> None:
        self.carried = len(first)
        if first:
            self._keep(first)
            self._loop.add_writer(self._sink, self._write)
        else:
            self._loop.add_reader(self._source, self._read)

    def stop(self) -> None:
        """Leave both sockets alone."""
        if not self.over:
            self.over = True
            self._loop.remove_reader(self._source)
            self._loop.remove_writer(self._sink)
            self._keep(b"")

    def _keep(self, rest: bytes) -> None:
        _Kept.size += len(rest) - len(self._rest)
        self._rest = memoryview(rest)

    def _read(self) -> None:
        try:
            portion = _PORTION if _Kept.size < _KEPT_FREELY else _SMALL_PORTION
            count = self._source.recv_into(_buffer, portion)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._pump.fail()
            return
        self._pump.touch()
        if not count:
            self._end()
            return
        self.carried += count
        sent = self._send(_buffer[:count])
        if 0 <= sent < count:
            self._keep(bytes(_buffer[sent:count]))
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._write)

    def _write(self) -> None:
        sent = self._send(self._rest)
        if sent <= 0:
            return
        self._pump.touch()
        if sent < len(self._rest):
            _Kept.size -= sent
            self._rest = self._rest[sent:]
            return
        self._keep(b"")
        self._loop.remove_writer(self._sink)
        self._loop.add_reader(self._source, self._read)

    def _send(self, data: memoryview) -> int:
        """How much of it went; below 0: the sink takes no more, ever, and this direction is over.

        The other direction goes on: what a server said before it hung up is still to be delivered.
        """
        try:
            return self._sink.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.stop()
            self._pump.settle()
            return -1

    def _end(self) -> None:
        self.stop()
        with contextlib.suppress(OSError):
            self._sink.shutdown(socket.SHUT_WR)
        self._pump.settle()


class Pump:
    """Both directions. The sockets are non-blocking, nobody else uses them meanwhile, and they stay open.

    `sent` and `received` count bytes, as the client sees it.
    """

    def __init__(self, client: socket.socket, upstream: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        self._out = _Direction(self, client, upstream)
        self._in = _Direction(self, upstream, client)
        self._touched = self.loop.time()
        self._ended: asyncio.Future[str] = self.loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def sent(self) -> int:
        return self._out.carried

    @property
    def received(self) -> int:
        return self._in.carried

    async def run(self, first: bytes, idle_s: float) -> str:
        """Carry until both directions have ended.

        Parameters
        ----------
        first: what the client has sent before.
        idle_s: seconds without a byte in either direction, after which it is over.

        Returns why it ended: empty (both ended), ``idle`` or ``broken``.
        """
        self._out.start(first)
        self._in.start(b"")
        self._look(idle_s)
        try:
            return await self._ended
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._out.stop()
            self._in.stop()

    def touch(self) -> None:
        self._touched = self.loop.time()

    def settle(self) -> None:
        """A direction is over."""
        if self._out.over and self._in.over:
            self._finish("")

    def fail(self) -> None:
        self._finish("broken")

    def _look(self, idle_s: float) -> None:
        left = self._touched + idle_s - self.loop.time()
        if left <= 0:
            self._finish("idle")
        else:
            self._timer = self.loop.call_later(left, self._look, idle_s)

    def _finish(self, reason: str) -> None:
        self._out.stop()
        self._in.stop()
        if not self._ended.done():
            self._ended.set_result(reason)
