"""The agent of a domain, over the unix socket that libvirt made for its virtio-serial port."""

from __future__ import annotations

import os
import socket
import time
from uuid import UUID

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestError, GuestSilent
from backends.errors import BackendUnavailable, LaunchFailed, MxcError, Problem
from backends.inside.agent_protocol import RANDOM_BYTES, GuestIdentity

__all__ = ["open_guest"]

_KEEP_MAC = bytes(6)


async def open_guest(name: str, uuid: str, path: str, *, deadline_s: float) -> GuestConnection:
    """Connect, and tell the guest who it is: the same name and machine id each time, new random numbers.

    Parameters
    ----------
    uuid: of the domain; its machine id (machine-id(5)).
    path: of the socket; "" for a domain that is not running.

    Raises `LaunchFailed` and `BackendUnavailable`.
    """
    connected = _connected(name, path)
    try:
        guest = await GuestConnection.open(connected, deadline_s=deadline_s)
        try:
            await guest.identify(_identity(name, uuid), deadline_s=deadline_s)
        except BaseException:
            await guest.close()
            raise
    except GuestError as error:
        raise _unanswered(name, error) from error
    return guest


def _identity(name: str, uuid: str) -> GuestIdentity:
    return GuestIdentity(time.time_ns(), os.urandom(RANDOM_BYTES), UUID(uuid).hex, _KEEP_MAC, name)


def _connected(name: str, path: str) -> socket.socket:
    if not path:
        problem = Problem("domain_off", "name", f"domain {name} is not running", expected="a started one")
        raise LaunchFailed(problem)
    end = socket.socket(socket.AF_UNIX)
    end.setblocking(False)
    try:
        end.connect(path)
    except OSError as error:
        end.close()
        raise _unreachable(name, path, error) from error
    return end


def _unreachable(name: str, path: str, error: OSError) -> MxcError:
    message = f"the agent of domain {name} cannot be reached at {path}: {os.strerror(error.errno or 0)}"
    if isinstance(error, PermissionError):
        fix = "start this again with sudo: libvirt lets only root to the sockets of its domains"
        return BackendUnavailable(Problem("agent_denied", "name", message, fix=fix))
    return LaunchFailed(Problem("agent_unreachable", "name", message), retryable=True)


def _unanswered(name: str, error: GuestError) -> MxcError:
    message = f"the agent of domain {name}: {error}"
    if isinstance(error, GuestSilent):
        message += "; it still boots, or another process is talking to it"
        return LaunchFailed(Problem("agent_silent", "name", message), retryable=True)
    return LaunchFailed(Problem("agent_lost", "name", message), retryable=True)
