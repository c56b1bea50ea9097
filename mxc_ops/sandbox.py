"""`Sandbox`: one policy, any number of commands, from any threads and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mxc_ops.policy_builder import Policy

if TYPE_CHECKING:
    from typing import Unpack

    from mxc_ops.ends import HandedOver, StreamArguments
    from mxc_ops.result import Result
    from mxc_ops.spawned import Process


class Sandbox:
    """Runs commands under `policy`, each in a fresh sandbox: nothing is carried over but granted files.

    Holds no state besides the policy, so it needs no closing and may be shared.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __repr__(self) -> str:
        return f"Sandbox({self.policy!r})"

    def run(self, command: str | Sequence[str], **streams: Unpack[StreamArguments]) -> Result:
        """Run and wait; parameters and errors as for `mxc_ops.run`."""
        from mxc_ops.one_shot import run

        return run(self.policy, command, **streams)

    async def arun(self, command: str | Sequence[str], **streams: Unpack[StreamArguments]) -> Result:
        """Run on the current event loop; parameters and errors as for `mxc_ops.arun`."""
        from mxc_ops.one_shot_async import arun

        return await arun(self.policy, command, **streams)

    def spawn(self, command: str | Sequence[str], **streams: Unpack[HandedOver]) -> Process:
        """Start and return at once; streams are pipes unless descriptors are handed over.

        Raises what `run` raises before a command starts.
        """
        from mxc_ops.ends import Ends
        from mxc_ops.one_shot import prepare
        from mxc_ops.spawned import Process

        return Process(prepare(self.policy.request(command)), Ends(**streams))
