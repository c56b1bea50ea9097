"""Who is at the other end of a socket of ours."""

from __future__ import annotations

import os
import socket
import struct

__all__ = ["may_ask"]

_CREDENTIALS = struct.Struct("3i")


def may_ask(sock: socket.socket) -> bool:
    """Whether at the other end is who we are, outside of every sandbox, or root.

    A grant may show a sandbox the folder of our sockets, and a read-only one keeps nobody from connecting:
    what runs there is the caller's too, but in a pid namespace below ours.
    """
    pid, uid, _ = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return uid == 0 or (uid == os.geteuid() and _pid_namespaces(pid) == _pid_namespaces(os.getpid()))


def _pid_namespaces(pid: int) -> int:
    """How many the process is in, from that of our /proc down (proc(5): NSpid); 0 when it cannot be seen."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(len(line.split()) - 1 for line in file if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return 0
