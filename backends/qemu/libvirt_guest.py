"""The agent of a domain, over the unix socket that libvirt made for its virtio-serial port.

The socket outlives whoever was connected to it, and with it what the guest still had to say to them: rests of
frames, answers to others. All that is passed over until the agent answers us. QEMU serves one connection and
lets others wait unheard, so who is connected holds a lock on the socket's folder, which is the domain's own.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import time
from uuid import UUID

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestError, GuestLost, GuestSilent
from backends.errors import BackendUnavailable, LaunchFailed, MxcError, Problem
from backends.inside.agent_codec import encode_frame, hello
from backends.inside.agent_protocol import RANDOM_BYTES, Frame, GuestIdentity, Kind

__all__ = ["open_guest"]

_KEEP_MAC = bytes(6)
_PIECE = 65536


async def open_guest(name: str, uuid: str, path: str, *, deadline_s: float) -> GuestConnection:
    """Connect, and tell the guest who it is: the same name and machine id each time, new random numbers.

    Parameters
    ----------
    uuid: of the domain, and its machine id (machine-id(5)).
    path: of the socket; "" for a domain that is not running.
    deadline_s: for all of it.

    Raises `LaunchFailed` and `BackendUnavailable`.
    """
    if not path:
        problem = Problem("domain_off", "name", f"domain {name} is not running", expected="a started one")
        raise LaunchFailed(problem)
    await asyncio.sleep(0)  # a connection that was just closed gives its lock back in the loop's next turn
    try:
        lock = _lock(os.path.dirname(path))
        try:
            guest = await _greeted(path, deadline_s)
        except BaseException:
            os.close(lock)
            raise
        guest.lost.add_done_callback(lambda _: os.close(lock))
        try:
            await guest.identify(_identity(name, uuid), deadline_s=deadline_s)
        except BaseException:
            await guest.close()
            raise
    except OSError as error:
        raise _unreachable(name, path, error) from error
    except GuestError as error:
        raise _unanswered(name, error) from error
    return guest


def _identity(name: str, uuid: str) -> GuestIdentity:
    return GuestIdentity(time.time_ns(), os.urandom(RANDOM_BYTES), UUID(uuid).hex, _KEEP_MAC, name)


def _lock(folder: str) -> int:
    """A descriptor that holds the lock. Raises `OSError`, ``EWOULDBLOCK`` when another process has it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


async def _greeted(path: str, deadline_s: float) -> GuestConnection:
    loop = asyncio.get_running_loop()
    until = loop.time() + deadline_s
    end = socket.socket(socket.AF_UNIX)
    try:
        end.setblocking(False)
        end.connect(path)
        async with asyncio.timeout_at(until):
            await _pass_over(end)
    except TimeoutError as error:
        end.close()
        raise GuestSilent("the greeting", deadline_s) from error
    except BaseException:
        end.close()
        raise
    return await GuestConnection.open(end, deadline_s=max(until - loop.time(), 0.1))


async def _pass_over(end: socket.socket) -> None:
    """Read until the agent has answered a request whose number nobody else has given."""
    loop = asyncio.get_running_loop()
    number = int.from_bytes(os.urandom(4), "little") | 1 << 31
    greeting = encode_frame(Frame(Kind.HELLO, 0, hello()))
    answer = encode_frame(Frame(Kind.PONG, number))
    seen = b""
    try:
        await loop.sock_sendall(end, greeting + encode_frame(Frame(Kind.PING, number)))
        while not seen.endswith(answer):
            piece = await loop.sock_recv(end, _PIECE)
            if not piece:
                raise GuestLost("it hung up")
            seen = seen[-len(answer) :] + piece
    except ConnectionError as error:
        raise GuestLost("it hung up") from error


def _unreachable(name: str, path: str, error: OSError) -> MxcError:
    message = f"the agent of domain {name} cannot be reached at {path}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EWOULDBLOCK:
        message = f"another process is talking to the agent of domain {name}"
        return LaunchFailed(Problem("agent_taken", "name", message), retryable=True)
    if isinstance(error, PermissionError):
        fix = "start this again with sudo: libvirt lets only root to the sockets of its domains"
        return BackendUnavailable(Problem("agent_denied", "name", message, fix=fix))
    return LaunchFailed(Problem("agent_unreachable", "name", message), retryable=True)


def _unanswered(name: str, error: GuestError) -> MxcError:
    silent = isinstance(error, GuestSilent)
    why = f"{error}; a machine that boots answers later" if silent else str(error)
    code = "agent_silent" if silent else "agent_lost"
    return LaunchFailed(Problem(code, "name", f"the agent of domain {name}: {why}"), retryable=True)
