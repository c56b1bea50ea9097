"""Virtual machines: cold boots, clones, parked clones, running ones: ``python -m tests.bench.bench_vm``.

Needs QEMU and builds the images ``tiny``, ``python`` and ``node`` when they are not there yet. Every figure
is a median over `ROUNDS`, in one run; the promises are for two processors under TCG, the ratios for any
machine: a time over that of this run's cold boot of ``python``.
"""

from __future__ import annotations

import asyncio
import compileall
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from backends.agent.identity import new_identity
from backends.base import SandboxRequest
from backends.inside.agent_protocol import GuestCommand
from backends.qemu.admission import available_bytes
from backends.qemu.clone import Clone, restore
from backends.qemu.guest import Guest, boot
from backends.qemu.memory_file import sparse_file
from backends.qemu.open_templates import shared_template
from backends.qemu.parts import open_parts
from backends.qemu.pool import ClonePool
from backends.qemu.template import BOOT_S
from backends.qemu.template_plan import GRANTS_BYTES
from backends.qemu.timings import Timings
from backends.virtual_machine import VirtualMachine
from backends.vm.plan import VmPlan
from mxc_ops.one_shot import prepare
from vm_images.store import find_image

ROUNDS = int(os.environ.get("MXC_BENCH_VM_ROUNDS", "15"))
TOGETHER = 20
ALIVE = 100
MIB = 1 << 20
STREAM_MIB = 64
COLD_MS = 1600.0
ENVIRONMENT = (("PATH", "/usr/bin:/bin"),)
ECHO = GuestCommand(("/bin/sh", "-c", "echo hi"), env=ENVIRONMENT)
PYTHON = GuestCommand(("-c",), env=ENVIRONMENT, zygote="print(1)")
NODE = GuestCommand(("node",), env=ENVIRONMENT, zygote="console.log(1)")
TRUE = GuestCommand(("/bin/true",), env=ENVIRONMENT)
SCRIPTS = Path(sys.executable).parent
_cold_ms: list[float] = []


def main() -> None:
    for part in ("mxc_ops", "vm_images", "backends"):
        compileall.compile_dir(Path(__file__).parents[2] / part, quiet=2)
    plans = {name: _plan(name) for name in ("tiny", "python")}
    asyncio.run(_measure(plans, _plan("node")))
    _command_line()


def _plan(image: str) -> VmPlan:
    try:
        found = find_image(image)
    except Exception:  # not built yet
        subprocess.run([SCRIPTS / "mxc-ops", "image", "build", image], check=True)
        found = find_image(image)
    request = SandboxRequest("vm", shell="true", vm=VirtualMachine(image, found))
    with prepare(request) as prepared:
        return prepared.plan


async def _measure(plans: dict[str, VmPlan], node: VmPlan) -> None:
    for name, plan in plans.items():
        await _show(f"cold boot to agent ready, {name}", COLD_MS, lambda plan=plan: _cold_boot(plan))
    for name, plan in plans.items():
        await _show(f"clone of {name}: spawn → sh -c 'echo hi'", 160, lambda plan=plan: _cloned(plan, ECHO))
    plan = plans["python"]
    await _show("clone of python: spawn → print(1), zygote", 220, lambda: _cloned(plan, PYTHON))
    await _parked(plan, ("parked clone: acquire → print(1), zygote", PYTHON, 50))
    await _parked(node, ("parked clone of node: acquire → console.log(1)", NODE, 80))
    await _running(plan)
    await _together(plan)
    await _alive(plan)


async def _show(title: str, promised: float, once: Callable[[], Awaitable[float]]) -> None:
    times = [await once() for _ in range(ROUNDS)]
    _line(title, times, promised)


def _line(title: str, times: list[float], promised: float, unit: str = "ms") -> None:
    middle = median(times)
    figures = f"min {min(times):8.1f}  median {middle:8.1f}  max {max(times):8.1f} {unit}"
    ratio = ""
    if unit == "ms":
        _cold_ms.append(middle)  # the second is the one that the others are held against
        ratio = f"; ratio {middle / _cold_ms[:2][-1]:.4f}, promised {promised / COLD_MS:.4f}"
    print(f"  {title:<46} {figures}  (promised {promised:g}{ratio})", flush=True)


async def _cold_boot(plan: VmPlan) -> float:
    machine = plan.template.booted
    memory = sparse_file("bench-memory", machine.memory_mib * MIB)
    grants = sparse_file("bench-grants", GRANTS_BYTES)
    begun = time.perf_counter()
    with open_parts(plan.template.image, boots=True) as parts:
        fds = {**parts.fds, "memory": memory, "grants": grants}
        guest = await boot(machine, plan.confinement, fds, deadline_s=BOOT_S, tries=2)
    took = (time.perf_counter() - begun) * 1000
    await guest.end()
    for fd in (memory, grants):
        os.close(fd)
    return took


async def _clone(plan: VmPlan) -> Clone:
    template = await shared_template(plan.template, plan.confinement)
    return await restore(plan.template, template, plan.confinement, Timings())


async def _cloned(plan: VmPlan, command: GuestCommand) -> float:
    await shared_template(plan.template, plan.confinement)
    begun = time.perf_counter()
    clone = await _clone(plan)
    await clone.guest.agent.identify(new_identity())
    await _run(clone.guest, command)
    took = (time.perf_counter() - begun) * 1000
    await clone.end()
    return took


async def _run(guest: Guest, command: GuestCommand) -> float:
    """When the first output was there."""
    answered: list[bytes] = []
    first: list[float] = []

    def note(data: bytes | memoryview) -> None:
        answered.append(bytes(data))
        first.append(time.perf_counter())

    process = await guest.agent.execute(command, stdin=None, stdout=note, stderr=sys.stderr.fileno())
    ended = await process.wait()
    if ended.status:
        raise RuntimeError(f"{command.args} ended with {ended.status}: {answered}")
    return first[0] if first else time.perf_counter()


async def _parked(plan: VmPlan, own: tuple[str, GuestCommand, float]) -> None:
    """Until the program's end, and until its first output: a result is there before its process is gone."""
    pool = ClonePool(plan.template, plan.confinement, 2)
    for title, command, promised in (("parked clone: acquire → echo", ECHO, 45), own):
        times: list[float] = []
        firsts: list[float] = []
        for _ in range(ROUNDS):
            await pool.fill()
            begun = time.perf_counter()
            clone = await pool.acquire(Timings())
            await clone.guest.agent.identify(new_identity())
            firsts.append((await _run(clone.guest, command) - begun) * 1000)
            times.append((time.perf_counter() - begun) * 1000)
            await clone.end()
        _line(title, times, promised)
        _line("  of that, to its first output", firsts, promised)
    await pool.close()


async def _running(plan: VmPlan) -> None:
    clone = await _clone(plan)
    agent = clone.guest.agent
    for _ in range(5):
        await _run(clone.guest, TRUE)
    execs: list[float] = []
    pings: list[float] = []
    for _ in range(10 * ROUNDS):
        begun = time.perf_counter()
        await _run(clone.guest, TRUE)
        execs.append((time.perf_counter() - begun) * 1000)
        pings.append(await agent.ping() * 1000)
    _line("exec round trip in a running machine, true", execs, 6)
    _line("ping", pings, 0.5)
    await _throughput(clone.guest)
    await clone.end()


async def _throughput(guest: Guest) -> None:
    inward: list[float] = []
    outward: list[float] = []
    with tempfile.TemporaryFile() as source:
        source.truncate(STREAM_MIB * MIB)
        for _ in range(max(3, ROUNDS // 3)):
            source.seek(0)
            begun = time.perf_counter()
            swallow = GuestCommand(("/bin/sh", "-c", "exec cat >/dev/null"), env=ENVIRONMENT)
            process = await guest.agent.execute(swallow, stdin=source.fileno(), stdout=_drop, stderr=_drop)
            await process.wait()
            inward.append(STREAM_MIB / (time.perf_counter() - begun))
            begun = time.perf_counter()
            words = f"exec head -c {STREAM_MIB * MIB} /dev/zero"
            pour = GuestCommand(("/bin/sh", "-c", words), env=ENVIRONMENT)
            process = await guest.agent.execute(pour, stdin=None, stdout=_drop, stderr=_drop)
            await process.wait()
            outward.append(STREAM_MIB / (time.perf_counter() - begun))
    _line("throughput into a program", inward, 80, "MiB/s")
    _line("throughput out of a program", outward, 50, "MiB/s")


def _drop(_: object) -> None:
    pass


async def _together(plan: VmPlan) -> None:
    times: list[float] = []
    shares: list[float] = []
    for _ in range(max(3, ROUNDS // 5)):
        gate = asyncio.Semaphore(2)
        clones: list[Clone] = []

        async def one(gate: asyncio.Semaphore = gate, clones: list[Clone] = clones) -> None:
            async with gate:
                clone = await _clone(plan)
                clones.append(clone)
                await clone.guest.agent.identify(new_identity())
                await _run(clone.guest, ECHO)

        begun = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(TOGETHER)))
        times.append((time.perf_counter() - begun) * 1000)
        shares.append(sum(_pss_mib(clone) for clone in clones) / TOGETHER)
        await asyncio.gather(*(clone.end() for clone in clones))
    _line(f"{TOGETHER} clones together, all answered", times, 2000)
    _line("  memory of each (PSS)", shares, 35, "MiB")


def _pss_mib(clone: Clone) -> float:
    """Of QEMU itself: the last process below the confinement's own."""
    pid = clone.guest.machine.qemu.pid
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[-1])
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) / 1024


async def _alive(plan: VmPlan) -> None:
    before = available_bytes() or 0
    clones: list[Clone] = []
    begun = time.perf_counter()
    try:
        for _ in range(ALIVE // 2):
            clones += await asyncio.gather(_clone(plan), _clone(plan))
        took = time.perf_counter() - begun
        await asyncio.gather(*(_run(clone.guest, ECHO) for clone in clones[-4:]))
        used = (before - (available_bytes() or 0)) / MIB
        print(
            f"  {ALIVE} clones alive at once: {took:.1f} s, {used:.0f} MiB of the host's memory", flush=True
        )
    finally:
        await asyncio.gather(*(clone.end() for clone in clones))


def _command_line() -> None:
    """A cold command line, the template in the store."""
    document = '{"version": "0.8.0-alpha", "containment": "microvm", "process": {"commandLine": "print(1)"}}'
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(document)
        file.flush()
        times: list[float] = []
        for _ in range(ROUNDS + 1):
            begun = time.perf_counter()
            done = subprocess.run([SCRIPTS / "mxc-ops", "run", file.name], capture_output=True, check=False)
            times.append((time.perf_counter() - begun) * 1000)
            if done.stdout != b"1\n":
                raise RuntimeError(f"mxc-ops run: {done.returncode} {done.stdout!r} {done.stderr!r}")
    _line("mxc-ops run of a microvm config, cold", times[1:], 450)


if __name__ == "__main__":
    main()
