"""What a utility host and those who want a container from it say: JSON messages, some with descriptors.

One order, one answer; then the connection stands for the container. Whoever closes it ends that; the host's
last message says why, if it was not the container's owner.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from typing import Any, cast

from backends.inside.agent_protocol import GuestContainer, MountFlag

__all__ = ["GRANTS", "HELD", "ROOT", "order", "read_order", "readable", "receive", "send"]

ROOT, GRANTS, HELD = "root", "grants", "held"
"""Files that come with an order: the container's image, its read-only grants, the lock on the image."""

_MOST_BYTES = 65536
_MOST_FILES = 3


def order(spec: GuestContainer, files: Sequence[str]) -> dict[str, Any]:
    """For a container that is like this, whose files of these names come with it."""
    return {
        "hostname": spec.hostname,
        "fileSystem": spec.file_system,
        "flags": int(spec.flags),
        "cgroup": [list(setting) for setting in spec.cgroup],
        "files": list(files),
    }


def read_order(message: Mapping[str, Any], files: Sequence[int]) -> tuple[GuestContainer, dict[str, int]]:
    """What is ordered, whose device is not known yet, and its files by their names.

    It always has a network of its own, and writes to memory. Raises `ValueError` for what is no order.
    """
    try:
        spec = GuestContainer(
            "",
            _text(message["hostname"]),
            file_system=_text(message["fileSystem"]),
            flags=MountFlag(int(message["flags"])),
            own_network=True,
            cgroup=tuple((_text(file), _text(text)) for file, text in message["cgroup"]),
        )
        given = dict(zip(map(_text, message["files"]), files, strict=True))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"that is no order: {error!r}") from error
    disks = [given[name] for name in (ROOT, GRANTS) if name in given]
    if ROOT not in given or not all(stat.S_ISREG(os.fstat(file).st_mode) for file in disks):
        raise ValueError("what is on a container's disks is in files")
    return spec, given


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def send(sock: socket.socket, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    """Raises `OSError` when nobody is there any more."""
    socket.send_fds(sock, [json.dumps(message).encode()], files, socket.MSG_NOSIGNAL)


async def receive(sock: socket.socket, deadline_s: float | None) -> tuple[dict[str, Any], list[int]]:
    """The next message, and the descriptors with it, which are the caller's; an empty one at the end.

    Raises `TimeoutError`; `ValueError` for what is no message.
    """
    await readable(sock.fileno(), deadline_s)
    try:
        data, files, _, _ = socket.recv_fds(sock, _MOST_BYTES, _MOST_FILES, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return {}, []
    try:
        message: Any = json.loads(data) if data else {}
        if not isinstance(message, dict):
            raise ValueError("a message is an object")
    except ValueError:
        for file in files:
            os.close(file)
        raise
    return cast("dict[str, Any]", message), files


async def readable(descriptor: int, deadline_s: float | None) -> None:
    """Return when there is something to read, or its end. Raises `TimeoutError`."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        async with asyncio.timeout(deadline_s):
            await ready.wait()
    finally:
        loop.remove_reader(descriptor)
