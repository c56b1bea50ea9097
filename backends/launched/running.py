"""A sandbox that was started: its signals, its end, and the cleaning up after it."""

from __future__ import annotations

import os
import select
import time
from _socket import MSG_DONTWAIT, SHUT_WR, socket
from _thread import allocate_lock
from collections.abc import Callable, Sequence
from contextlib import suppress
from signal import SIGKILL
from typing import TYPE_CHECKING

from backends import process
from backends.ended import Ended, LimitOutcome, Outcome, Usage
from backends.errors import MxcError
from backends.frozen import replace
from backends.inside.codec import decode_message
from backends.inside.codec import signal_message as encode_signal
from backends.inside.protocol import MESSAGE_BYTES, EndedMessage, Failed, Message, Started
from backends.linux.cgroups import SandboxCgroup
from backends.linux.limits import mark_hits
from backends.linux.uid_range import Lease

if TYPE_CHECKING:
    from backends.network.opening import Network

_MAX_DIAGNOSTICS = 65536
_ABANDONED_DEADLINE_S = 2.0


Explain = Callable[[Failed | None, int | None, str], MxcError]
"""The launcher's report (None: what makes the namespaces gave up), its exit status (negative: a signal; None:
unknown), what it wrote to its standard error → the error to raise."""


class LaunchedRunning:
    """See `backends.base.Running`.

    Shutting the control socket ends the sandbox: its init exits and the kernel kills the whole pid namespace.
    That is also how a sandbox dies with its caller.
    """

    def __init__(
        self,
        outcomes: tuple[LimitOutcome, ...],
        explain: Explain,
        child: process.Spawned,
        control: socket,
        diagnostics: int,
        group: SandboxCgroup | None,
        leases: Sequence[Lease],
        network: Network | None = None,
    ) -> None:
        self._outcomes = outcomes
        self._explain = explain
        self._child = child
        self._control = control
        self._diagnostics = diagnostics
        self._group = group
        self._leases = tuple(leases)
        self._network = network
        self._lock = allocate_lock()
        self._owner = os.getpid()
        self._started_at = time.monotonic()
        self._killed = False
        self._ended: Ended | None = None
        self._failure: MxcError | None = None

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def pidfd(self) -> int:
        return self._child.pidfd

    @property
    def network(self) -> Network | None:
        """What it was started in."""
        return self._network

    @property
    def wrapping_up(self) -> bool:
        return False  # what it wrote is where it belongs

    def signal(self, signal_number: int) -> None:
        with self._lock, suppress(OSError):  # OSError: the sandbox is already gone
            self._control.send(encode_signal(signal_number))

    def expire(self, signal_number: int) -> None:
        self.signal(signal_number)

    def kill(self) -> None:
        """End everything; a second call is for an init that does not obey, and kills that."""
        with self._lock:
            if self._finished():
                return
            if self._killed:
                process.kill_child_of(self._child)
            self._killed = True
            with suppress(OSError):
                self._control.shutdown(SHUT_WR)

    def wait(self, timeout_s: float | None = None) -> Ended | None:
        """See `backends.base.Running.wait`.

        Raises `LaunchFailed` or `PolicyRefused` when the sandbox could not be set up, so nothing ran.
        """
        with self._lock:
            if self._finished():
                return self._answer()
        poller = select.poll()
        poller.register(self._child.pidfd, select.POLLIN)
        if not poller.poll(None if timeout_s is None else max(0.0, timeout_s * 1000)):
            return None
        with self._lock:
            if not self._finished():
                self._collect()
            return self._answer()

    def __del__(self) -> None:
        # Dropped without waiting: the tree must not outlive its handle (spec: backends.md, common contract).
        # A fork of the owner drops a copy of the handle: that ends nothing.
        if os.getpid() == self._owner and not self._finished():
            self.kill()
            with suppress(MxcError):
                if self.wait(_ABANDONED_DEADLINE_S) is None:
                    self.kill()
                    self.wait(_ABANDONED_DEADLINE_S)
        os.close(self._child.pidfd)

    def _finished(self) -> bool:
        return self._ended is not None or self._failure is not None

    def _answer(self) -> Ended | None:
        if self._failure is not None:
            raise self._failure
        return self._ended

    def _collect(self) -> None:
        """Everything is gone: read what was left behind, give back what was taken, and make the answer."""
        messages = self._read_messages()
        status = process.reap(self._child)
        wall_ms = (time.monotonic() - self._started_at) * 1000
        diagnostics = self._read_diagnostics()
        hits = self._group.read_hits() if self._group is not None else {}
        network = self._network.end() if self._network is not None else None
        self._release()
        end = next((message for message in messages if isinstance(message, EndedMessage)), None)
        started = any(isinstance(message, Started) for message in messages)
        failed = next((message for message in messages if isinstance(message, Failed)), None)
        if failed is not None or (not started and not self._killed):
            self._failure = self._explain(failed, status, diagnostics)
        else:
            self._ended = replace(self._describe(end, wall_ms, hits), network=network)

    def _describe(self, end: EndedMessage | None, wall_ms: float, hits: dict[str, bool]) -> Ended:
        if end is None:
            # Init ended without a report: we killed it, or the kernel did (out of memory).
            outcome = Outcome.KILLED if self._killed else Outcome.SIGNALLED
            limits = mark_hits(self._outcomes, hits, None)
            return Ended(outcome, 128 + SIGKILL, int(SIGKILL), Usage(wall_ms=wall_ms), limits)
        code = os.waitstatus_to_exitcode(end.status)
        ended_by = -code if code < 0 else None
        usage = Usage(wall_ms, end.user_us / 1000, end.system_us / 1000, end.max_rss_kib)
        limits = mark_hits(self._outcomes, hits, ended_by)
        if ended_by is None:
            return Ended(Outcome.EXITED, code, None, usage, limits)
        return Ended(Outcome.SIGNALLED, 128 + ended_by, ended_by, usage, limits)

    def _read_messages(self) -> list[Message]:
        messages: list[Message] = []
        try:
            while data := self._control.recv(MESSAGE_BYTES, MSG_DONTWAIT):
                messages.append(decode_message(data))
        except ConnectionResetError:
            pass
        except BlockingIOError:  # somebody has the other end, although what started the sandbox has gone
            from backends.launched.orphans import end_orphans

            end_orphans()
        return messages

    def _read_diagnostics(self) -> str:
        parts: list[bytes] = []
        with suppress(BlockingIOError):
            while sum(map(len, parts)) < _MAX_DIAGNOSTICS and (part := os.read(self._diagnostics, 8192)):
                parts.append(part)
        return b"".join(parts).decode("utf-8", "replace").strip()

    def _release(self) -> None:
        self._control.close()
        os.close(self._diagnostics)
        for lease in self._leases:
            os.close(lease.lock)
        if self._group is not None:
            self._group.remove()
