"""Run inside the namespaces of a test's libvirt: does one thing with one connection, as a process of its own.

``python -m tests.e2e.libvirt_client STEP JSON`` prints what came of it as JSON; an error of ours is
``{"error": code, "message": …}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from backends.agent.connection import GuestConnection
from backends.errors import MxcError
from backends.inside.agent_protocol import GuestCommand
from backends.qemu.libvirt_domain import Domain
from backends.qemu.libvirt_host import LibvirtHost
from backends.qemu.machine import Boot, Machine, MachineKind

_URI = "qemu:///system"
_BOOTED_S = 30.0  # a boot takes 2 s where nothing else runs
_FLOOD = 1 << 20


async def start(host: LibvirtHost, asked: dict[str, Any]) -> Any:
    """Define and start a machine; the paths of its kernel and initrd are given."""
    machine = Machine(
        qemu="/usr/bin/qemu-system-x86_64",
        kind=MachineKind(asked["kind"]),
        accelerator="tcg",
        memory_mib=128,
        boot=Boot(asked["line"]),
        network=False,
    )
    await host.define(Domain(asked["name"], "key", machine, asked["paths"]))
    await host.start(asked["name"])


async def run(host: LibvirtHost, asked: dict[str, Any]) -> Any:
    """What a shell line prints in the guest, and its status."""
    guest = await host.attach(asked["name"], deadline_s=_BOOTED_S)
    try:
        return await _ran(guest, asked["line"])
    finally:
        await guest.close()


async def _ran(guest: GuestConnection, line: str) -> Any:
    pieces: list[bytes] = []

    def take(piece: memoryview | bytes) -> None:
        pieces.append(bytes(piece))

    command = GuestCommand(("sh", "-c", line), env=(("PATH", "/bin"),))
    process = await guest.execute(command, stdin=None, stdout=take, stderr=take)
    ended = await process.wait(deadline_s=_BOOTED_S)
    return {"status": ended.status, "said": b"".join(pieces).decode()}


async def die_in_a_flood(host: LibvirtHost, asked: dict[str, Any]) -> Any:
    """Be killed while a program of the guest prints without end."""
    guest = await host.attach(asked["name"], deadline_s=_BOOTED_S)
    seen = 0

    def take(piece: memoryview | bytes) -> None:
        nonlocal seen
        seen += len(piece)
        if seen > _FLOOD:
            os.kill(os.getpid(), signal.SIGKILL)

    command = GuestCommand(("yes", "flood"), env=(("PATH", "/bin"),))
    process = await guest.execute(command, stdin=None, stdout=take, stderr=take)
    await process.wait(deadline_s=_BOOTED_S)


async def come_and_go(host: LibvirtHost, asked: dict[str, Any]) -> Any:
    """Connect again and again, at all distances from the end of the connection before."""
    for turn in range(asked["times"]):
        guest = await host.attach(asked["name"], deadline_s=_BOOTED_S)
        await guest.close()
        await asyncio.sleep(turn % 5 * 0.02)


async def attach_twice(host: LibvirtHost, asked: dict[str, Any]) -> Any:
    guest = await host.attach(asked["name"], deadline_s=_BOOTED_S)
    try:
        await host.attach(asked["name"], deadline_s=_BOOTED_S)
    finally:
        await guest.close()


async def power_off(host: LibvirtHost, asked: dict[str, Any]) -> Any:
    """Have the agent end its machine; the state that libvirt tells afterwards."""
    guest = await host.attach(asked["name"], deadline_s=_BOOTED_S)
    await guest.power_off()
    while (status := await host.state(asked["name"])).state.name in ("RUNNING", "ENDING"):
        await asyncio.sleep(0.05)
    return status.state.name


async def end(host: LibvirtHost, asked: dict[str, Any]) -> Any:
    await host.destroy(asked["name"])
    await host.undefine(asked["name"])


async def domains(host: LibvirtHost, asked: dict[str, Any]) -> Any:
    return {status.name: [status.uuid, status.state.name] for status in await host.list()}


STEPS: dict[str, Callable[[LibvirtHost, dict[str, Any]], Awaitable[Any]]] = {
    step.__name__: step
    for step in (start, run, die_in_a_flood, come_and_go, attach_twice, power_off, end, domains)
}


async def main(step: str, asked: dict[str, Any]) -> Any:
    try:
        async with await LibvirtHost.open(_URI, deadline_s=asked.get("deadline_s", 60)) as host:
            return await STEPS[step](host, asked)
    except MxcError as error:
        return {"error": error.problems[0].code, "message": str(error)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))))
