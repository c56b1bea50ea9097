"""`HyperlightSnapshot`: an object's state as it was."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from backends.errors import ConfigError, Problem
from mxc_ops.hyperlight.machine import Copy
from mxc_ops.hyperlight.settings import Settings

if TYPE_CHECKING:
    from typing import Self

__all__ = ["HyperlightSnapshot"]


class HyperlightSnapshot:
    """Made by `Hyperlight.snapshot`, for `Hyperlight.restore`, any number of times, from any thread.

    It takes as much memory of this process as the machine had used; `close` it, or use it as a context
    manager. It is of this process, and ends with it.
    """

    def __init__(self, settings: Settings, template: str, copy: Copy) -> None:
        """`copy` is its own from now on."""
        self._settings = settings
        self._template = template
        self._copy: Copy | None = copy
        self._users = 0
        self._lock = threading.Lock()
        self._is_closed = False
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if os.getpid() == getattr(self, "_owner", -1):
            self.close()

    def close(self) -> None:
        """Free its memory; a restore that is on its way has it until it is done. Idempotent."""
        with self._lock:
            self._is_closed = True
            self._free()

    @contextmanager
    def held(self, settings: Settings, template: str) -> Generator[Copy]:
        """For a restore. Raises `ConfigError` when it is not of such an object, or closed."""
        with self._lock:
            self._check(settings, template)
            copy = self._copy
            if self._is_closed or copy is None:
                message = "this snapshot was closed"
                raise ConfigError(Problem("snapshot_closed", "snapshot", message, fix="take another one"))
            self._users += 1
        try:
            yield copy
        finally:
            with self._lock:
                self._users -= 1
                self._free()

    def _free(self) -> None:
        if self._is_closed and not self._users and self._copy is not None:
            copy, self._copy = self._copy, None
            copy.close()

    def _check(self, settings: Settings, template: str) -> None:
        ours, theirs = self._settings, settings
        same = (
            ("policy", ours.policy == theirs.policy),
            ("runtime", ours.runtime == theirs.runtime),
            ("output_at", ours.output_at == theirs.output_at),
            ("output_mib", ours.output_bytes == theirs.output_bytes),
        )
        different = [name for name, is_same in same if not is_same]
        if different:
            message = f"the snapshot is of an object with another {different[0]}, which holds in its machine"
            fix = "restore it into an object that was made with the same arguments"
            raise ConfigError(Problem("snapshot_of_another", "snapshot", message, fix=fix))
        if self._template != template:
            message = "the snapshot is of a machine of another image, QEMU or host, and goes on nowhere else"
            raise ConfigError(Problem("copy_outdated", "snapshot", message, fix="take another one"))
