"""Commands of a session that nobody is attached to, and the end of their output."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestError
from backends.agent.process import GuestProcess
from backends.agent.relay import Relay
from backends.base import SandboxRequest
from backends.inside.agent_protocol import EndedFlag, GuestCommand, GuestEnded
from mxc_ops.policy.environment import SECRETS_POINTER, read_secrets

__all__ = ["LOG_BYTES", "Jobs", "command_of", "order_of"]

LOG_BYTES = 1 << 20
"""Of each stream of a job, twice as much is kept at most, and at least as much of its end."""

MOST_KEPT = 1000
"""Jobs that have ended, whose ends and logs are kept; older ones are forgotten."""

_START_S = 30.0


def order_of(request: SandboxRequest) -> dict[str, Any]:
    """What a supervisor is asked to start; JSON-safe. Raises `ConfigError` for unreadable secrets."""
    environment = request.environment
    secrets = read_secrets(environment, request.pointers.get("secrets", SECRETS_POINTER))
    after, grace = request.timeout.after_ms, request.timeout.grace_ms
    number = int(signal.Signals[f"SIG{request.timeout.signal}"])
    return {
        "args": list(request.args),
        "env": [list(entry) for entry in (*environment.entries, *secrets)],
        "cwd": request.cwd or "",
        "timeout": [after, grace, number] if after else None,
    }


def command_of(order: Mapping[str, Any]) -> GuestCommand:
    """An order's command. Raises `ValueError`, `KeyError`, `TypeError` for an order that is none."""
    timeout = order.get("timeout")
    return GuestCommand(
        args=tuple(str(word) for word in order["args"]),
        env=tuple((str(name), str(value)) for name, value in order["env"]),
        cwd=str(order["cwd"]),
        timeout=None if timeout is None else (int(timeout[0]), int(timeout[1]), int(timeout[2])),
        no_input=True,
    )


class Jobs:
    """Belongs to the loop that it was made on."""

    def __init__(self, relay: Relay, folder: int) -> None:
        """`folder` is the descriptor of an empty directory for logs; it stays the caller's."""
        self._relay = relay
        self._folder = folder
        self._connection: GuestConnection | None = None
        self._jobs: dict[int, _Job] = {}
        self._count = 0

    async def start(self, command: GuestCommand) -> dict[str, Any]:
        """Raises `GuestRefused` when it cannot be started, `GuestLost`."""
        connection = await self._connected()
        self._count += 1
        job = _Job(self._count, command, self._folder)
        await job.start(connection)
        self._jobs[job.number] = job
        self._forget()
        return job.as_dict()

    def listed(self) -> list[dict[str, Any]]:
        return [job.as_dict() for job in self._jobs.values()]

    async def wait(self, number: int) -> dict[str, Any]:
        """Once it has ended. Raises `KeyError` for one that nobody knows."""
        job = self._jobs[number]
        await job.ended.wait()
        return job.as_dict()

    def kill(self, number: int, signal_number: int) -> dict[str, Any]:
        """Raises `KeyError`."""
        job = self._jobs[number]
        job.signal(signal_number)
        return job.as_dict()

    @property
    def clients(self) -> int:
        """How many of the relay's clients are we."""
        return 0 if self._connection is None else 1

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _connected(self) -> GuestConnection:
        if self._connection is None or self._connection.lost.done():
            ours, theirs = socket.socketpair()
            self._relay.serve(theirs)
            self._connection = await GuestConnection.open(ours, deadline_s=_START_S)
        return self._connection

    def _forget(self) -> None:
        over = [job for job in self._jobs.values() if job.ended.is_set()]
        for job in over[: max(0, len(over) - MOST_KEPT)]:
            job.remove_logs()
            del self._jobs[job.number]


class _Log:
    """The end of a stream, in two files, the older of which is dropped when the newer is full."""

    def __init__(self, name: str, folder: int) -> None:
        self._name = name
        self._folder = folder
        self.dropped = 0
        self._old = self._written = 0
        self._fd = self._open()

    def write(self, data: memoryview | bytes) -> None:
        if self._written + len(data) > LOG_BYTES:
            os.rename(self._name, f"{self._name}.old", src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.close(self._fd)
            self.dropped += self._old
            self._fd, self._old, self._written = self._open(), self._written, 0
        with suppress(OSError):  # a full disk costs the log, not the command
            self._written += os.write(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._name, flags, 0o600, dir_fd=self._folder)


class _Job:
    def __init__(self, number: int, command: GuestCommand, folder: int) -> None:
        self.number = number
        self.ended = asyncio.Event()
        self._command = command
        self._folder = folder
        self._started = self._over = 0.0
        self._process: GuestProcess | None = None
        self._logs: dict[str, _Log] = {}
        self._end: GuestEnded | None = None
        self._lost = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self, connection: GuestConnection) -> None:
        logs = self._logs = {name: _Log(f"{self.number}.{name}", self._folder) for name in ("out", "err")}
        try:
            self._process = await connection.execute(
                self._command,
                stdin=None,
                stdout=logs["out"].write,
                stderr=logs["err"].write,
                deadline_s=_START_S,
            )
        except BaseException:
            for log in logs.values():
                log.close()
            self.remove_logs()
            raise
        self._started = time.time()
        self._task = asyncio.create_task(self._follow(self._process))

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal(number)

    def remove_logs(self) -> None:
        for name in ("out", "out.old", "err", "err.old"):
            with suppress(FileNotFoundError):
                os.remove(f"{self.number}.{name}", dir_fd=self._folder)

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe. `status` is as of ``wait(2)``, null until it has ended; times in seconds since 1970.

        `dropped`: of each stream, how many bytes from its beginning are not kept any more.
        """
        end = self._end
        return {
            "job": self.number,
            "args": list(self._command.args),
            "started": round(self._started, 3),
            "ended": round(self._over, 3) or None,
            "status": None if end is None else end.status,
            "timedOut": end is not None and bool(end.flags & EndedFlag.TIMED_OUT),
            "lost": self._lost,
            "dropped": {name: log.dropped for name, log in self._logs.items()},
        }

    async def _follow(self, process: GuestProcess) -> None:
        try:
            self._end = await process.wait()
        except GuestError as error:
            self._lost = str(error)
        finally:
            self._over = time.time()
            for log in self._logs.values():
                log.close()
            self.ended.set()
