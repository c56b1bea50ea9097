"""Virtual machines kept ready for the runs of this process."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from backends.base import KeepsReady
from backends.errors import ConfigError, Problem
from mxc_ops.policy_builder import Policy

if TYPE_CHECKING:
    from typing import Self

_ANY_COMMAND = "true"


class WarmPool:
    """While it is open, runs whose machine is that of `policy` take one that waits, already started.

    ::

        with WarmPool(Policy(containment="vm"), size=4):
            run(Policy(containment="vm", read_only=["/srv/data"]), "wc -l /srv/data/*")

    What a machine is depends on containment, image, memory, processors and accelerator alone: files, command
    and limits come with each run, after it took its machine. Each machine serves one run; the pool is filled
    up again in the background. One pool for a machine in a process: the last one's size counts.
    """

    def __init__(self, policy: Policy, size: int) -> None:
        """Return when `size` machines (1 or more, some 30 MiB each) are ready.

        Raises what `run` raises before a command starts, and `ConfigError` for a containment that has no
        machines or a size below 1.
        """
        from mxc_ops.one_shot import prepare

        if size < 1:
            raise ConfigError(
                Problem("pool_size", "size", f"a pool of {size} machines is none", expected="≥ 1")
            )
        with prepare(policy.request(_ANY_COMMAND), kept=True) as prepared:
            backend = prepared.backend
            if not isinstance(backend, KeepsReady):
                name = prepared.request.containment
                message = f"a {name} sandbox starts from nothing each time: there is nothing to keep ready"
                raise ConfigError(
                    Problem("no_pool", "containment", message, expected="one of virtual machines")
                )
            self._backend, self._plan = backend, prepared.plan
        self._backend.keep_ready(self._plan, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the machines that wait; those that serve a run are that run's. Idempotent."""
        self._backend.keep_ready(self._plan, 0)
