"""A container in a guest: an agent of its own, over a connection that goes through the guest's."""

from __future__ import annotations

import signal
import socket

from backends.agent.connection import ANSWER_S, STALL_S, GuestConnection
from backends.agent.errors import GuestLost
from backends.agent.process import GuestProcess
from backends.inside.agent_protocol import GuestContainer

__all__ = ["Container", "start_container"]


class Container:
    """Made by `start_container`; `end` it, else it ends with the connection to its guest.

    `agent` can do in the container what a guest's agent can in its machine, but for what a machine alone has:
    `identify`, `bring_up`, containers. Its `power_off` ends the container, and so does its `close`. `init` is
    the container as its guest sees it; `init.exited` is done when nothing of it is left.
    """

    def __init__(self, agent: GuestConnection, init: GuestProcess) -> None:
        """Use `start_container`."""
        self.agent = agent
        self.init = init

    async def end(self, *, deadline_s: float = STALL_S) -> None:
        """Kill everything in it. Its devices are free when this returns. Idempotent.

        Raises `GuestSilent`. A guest that is lost has ended it, too.
        """
        await self.agent.close()
        self.init.signal(signal.SIGKILL)
        try:
            await self.init.wait(deadline_s=deadline_s)
        except GuestLost:
            return


async def start_container(
    connection: GuestConnection,
    spec: GuestContainer,
    *,
    deadline_s: float = STALL_S,
    greeting_s: float = ANSWER_S,
) -> Container:
    """Start a container, and greet the agent in it.

    Parameters
    ----------
    connection: to the agent of the virtual machine.
    deadline_s: for its file systems to be mounted.
    greeting_s: for its agent's first answer.

    Raises `GuestRefused` for what could not be made: ``subject`` is the device, the file system or the place
    in the image that it failed for, ``errno`` what the kernel said of it. Raises `GuestLost` and
    `GuestSilent`; nothing is left of it then.
    """
    ours, theirs = socket.socketpair()
    try:
        init = await connection.contain(spec, theirs, deadline_s=deadline_s)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    try:
        agent = await GuestConnection.open(ours, deadline_s=greeting_s)
    except BaseException:
        init.abandon()
        raise
    return Container(agent, init)
