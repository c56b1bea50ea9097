"""Bytes between descriptors of the caller and the channels of one stream."""

from __future__ import annotations

from collections.abc import Callable

from backends.agent.descriptors import Descriptor
from backends.agent.link import Link
from backends.agent.streams import InputCredit, OutputCredit
from backends.inside.agent_protocol import MAX_PAYLOAD, Kind

__all__ = ["Outlet", "Sink", "Source"]

Sink = Callable[[memoryview], object]
"""Takes a piece of output at once: it must not wait, nor keep the view."""


class Source:
    """Standard input: read as far as the guest gives credit and reads what was sent.

    What cannot be read (EIO of a terminal that is gone, a directory) is an end of the input.
    """

    def __init__(self, link: Link, fd: int | None) -> None:
        self.credit = InputCredit()
        self._link = link
        self._stream = 0
        self._descriptor = None if fd is None else Descriptor(fd, writing=False)
        self._watching = False

    def start(self, stream: int) -> None:
        """The program runs. Without a descriptor its input ends at once."""
        self._stream = stream
        if self._descriptor is None:
            self._link.send(Kind.INPUT_END, stream)
        else:
            self.resume()

    def resume(self) -> None:
        """Go on, if there is anything to read, room in the window and room on the way there."""
        if self._descriptor is None or not self._stream or self._watching or not self.credit.left:
            return
        if self._link.congested:
            self._link.hold_back(self.resume)
        elif self._descriptor.pollable:
            self._watching = True
            self._link.loop.add_reader(self._descriptor.fd, self._pull)
        else:
            self._watching = True
            self._link.loop.call_soon(self._pull_file)

    def _pull_file(self) -> None:
        self._watching = False
        self._pull()
        self.resume()

    def _pull(self) -> None:
        if self._descriptor is None:
            return
        try:
            data = self._descriptor.read(min(self.credit.left, MAX_PAYLOAD))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._link.send(Kind.INPUT_END, self._stream)
            return
        self.credit.left -= len(data)
        self._link.send(Kind.INPUT, self._stream, data)
        if self._watching and (self._link.congested or not self.credit.left):
            self._watching = False
            self._link.loop.remove_reader(self._descriptor.fd)
            self.resume()

    def close(self) -> None:
        """Read no more. What was read is the program's, or is lost: at most one window."""
        descriptor, self._descriptor = self._descriptor, None
        self._link.release(self.resume)
        if descriptor is not None:
            if self._watching and descriptor.pollable:
                self._link.loop.remove_reader(descriptor.fd)
            self._watching = False
            descriptor.close()


class Outlet:
    """One channel of output on its way to a descriptor or to a `Sink`.

    Credit goes back to the guest as the bytes leave, so a slow consumer holds the program up and at most one
    window waits here. A consumer that has gone, or fails, makes the guest close the channel: `error` says
    why, and the rest is dropped.

    Parameters
    ----------
    done: called once, when all that came has left, or is dropped, and no more comes.
    """

    def __init__(self, link: Link, target: int | Sink, done: Callable[[], None]) -> None:
        self.error: OSError | None = None
        self._link = link
        self._credit: OutputCredit | None = None
        self._sink = None if isinstance(target, int) else target
        self._descriptor = Descriptor(target, writing=True) if isinstance(target, int) else None
        self._waiting = bytearray()
        self._dropping = False
        self._ending = False
        self._done: Callable[[], None] | None = done

    def start(self, credit: OutputCredit) -> None:
        self._credit = credit

    def arrived(self, data: memoryview) -> None:
        """Raises `ProtocolBreach` for what the guest may not send."""
        assert self._credit is not None, "output comes after the start only"
        self._credit.arrived(len(data))
        if self._dropping:
            return
        if self._sink is not None:
            self._sink(data)
            self._credit.taken(len(data))
            return
        assert self._descriptor is not None, "a channel has one of both"
        if not self._waiting and not self._descriptor.must_be_ready:
            count = self._write(self._descriptor, data)
            if count is None:
                return
            data = data[count:]
        if data:
            self._keep(data, self._descriptor)

    def _keep(self, data: memoryview, descriptor: Descriptor) -> None:
        if not self._waiting and descriptor.pollable:
            self._link.loop.add_writer(descriptor.fd, self._push)
        elif not self._waiting:
            self._link.loop.call_soon(self._push)
        self._waiting += data

    def _write(self, descriptor: Descriptor, data: memoryview) -> int | None:
        """How much left; None when nothing ever will."""
        assert self._credit is not None, "output comes after the start only"
        try:
            count = descriptor.write(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.error = error.with_traceback(None)
            self._drop()
            self._credit.refuse()
            return None
        self._credit.taken(count)
        return count

    def _push(self) -> None:
        descriptor = self._descriptor
        if descriptor is None:
            return
        with memoryview(self._waiting) as waiting:
            count = self._write(descriptor, waiting)
        if count is not None:
            del self._waiting[:count]
            if self._waiting:
                if not descriptor.pollable:
                    self._link.loop.call_soon(self._push)
                return
            if descriptor.pollable:
                self._link.loop.remove_writer(descriptor.fd)
        if self._ending:
            self.end()

    def end(self) -> None:
        """No more comes; the rest still leaves."""
        self._ending = True
        if not self._waiting:
            self._drop()
            done, self._done = self._done, None
            if done is not None:
                done()

    def discard(self) -> None:
        """Drop what waits and what may still come."""
        self._drop()
        self.end()

    def _drop(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        self._dropping = True
        if descriptor is not None:
            if descriptor.pollable:
                self._link.loop.remove_writer(descriptor.fd)
            descriptor.close()
        # Not cleared: a view of it may be in use.
        self._waiting = bytearray()
