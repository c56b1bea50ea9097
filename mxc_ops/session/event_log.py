"""What the network of a sandbox that is kept decided: one JSON line each, in its folder, across its starts.

The file is bounded: when it is full, its older half is dropped. Only the sandbox's supervisor writes to it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import TYPE_CHECKING, Any

from mxc_ops.session.files import read_file, write_all
from mxc_ops.session.places import open_file

if TYPE_CHECKING:
    from backends.network.opening import Network
    from mxc_ops.session.entry import Entry

__all__ = ["EventLog", "NetworkWatch", "open_events", "read_events"]

_NAME = "events"
_FULL_BYTES = 8 << 20
_MOST_MESSAGE = 32 << 10
_AT_ONCE = 64
_FIRST_FREE = 3


def open_events(folder: int) -> int:
    """The file in a sandbox's folder, for its supervisor; the caller closes it.

    Raises `Foreign` and `OSError`.
    """
    return open_file(_NAME, folder, os.O_RDWR | os.O_CREAT)


def read_events(entry: Entry) -> list[dict[str, Any]]:
    """All that are still there, oldest first. Raises `LifecycleError` (``stale_id``)."""
    content = b""
    with entry.folder() as folder, suppress(FileNotFoundError):
        content = read_file(_NAME, folder, 2 * _FULL_BYTES)
    events: list[dict[str, Any]] = []
    for line in content.splitlines():
        with suppress(ValueError):  # the first may have lost its beginning
            events.append(json.loads(line))
    return events


class EventLog:
    """The file as its writer has it; the descriptor is its own from now on."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.lseek(descriptor, 0, os.SEEK_END)

    def append(self, events: Iterable[Mapping[str, Any]]) -> None:
        """A disk that is full loses them, and nothing else."""
        text = b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)
        with suppress(OSError):
            if self._size + len(text) > _FULL_BYTES:
                self._drop_older_half()
            write_all(self._descriptor, text)
            self._size += len(text)

    def close(self) -> None:
        os.close(self._descriptor)

    def _drop_older_half(self) -> None:
        """Where this is killed on the way, some are there twice, and none is lost."""
        half = self._size // 2
        kept = os.pread(self._descriptor, self._size - half, half).partition(b"\n")[2]
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_all(self._descriptor, kept)
        os.ftruncate(self._descriptor, len(kept))
        self._size = len(kept)


class NetworkWatch:
    """Writes down what a network decides, until it is closed; belongs to the running loop."""

    def __init__(self, network: Network | None, events: EventLog) -> None:
        self._loop = asyncio.get_running_loop()
        self._events = events
        self._sources: list[tuple[int, Callable[[bytes], Iterator[dict[str, Any]]]]] = []
        if network is not None:
            from backends.network.outcome import events_of_proxy, events_of_rules

            for descriptor, read in zip(network.decisions, (events_of_rules, events_of_proxy), strict=True):
                self._sources.append((fcntl(descriptor, F_DUPFD_CLOEXEC, _FIRST_FREE), read))
        for descriptor, read in self._sources:
            self._loop.add_reader(descriptor, self._take, descriptor, read)

    def close(self) -> None:
        """What was decided until now is written down first."""
        for descriptor, read in self._sources:
            self._loop.remove_reader(descriptor)
            while self._take(descriptor, read):
                pass
            os.close(descriptor)
        self._sources.clear()
        self._events.close()

    def _take(self, descriptor: int, read: Callable[[bytes], Iterator[dict[str, Any]]]) -> bool:
        """Whether there may be more."""
        found: list[dict[str, Any]] = []
        for _ in range(_AT_ONCE):
            try:
                message = os.read(descriptor, _MOST_MESSAGE)
            except BlockingIOError:
                break
            if not message:
                self._loop.remove_reader(descriptor)
                break
            found += read(message)
        else:
            self._events.append(found)
            return True
        if found:
            self._events.append(found)
        return False
