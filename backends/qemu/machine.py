"""A virtual machine as data, and the QEMU command line that makes it (pure).

What a machine is made of never names a file: every part comes to QEMU as an open descriptor, by its `Part`.
A clone must be made with the very devices of its template, in the same order (qemu: migration.rst); only what
stands behind them differs. Facts about the machine types: lab §1, §4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum

from backends.frozen import frozen
from backends.inside.agent_protocol import PORT_NAME

__all__ = ["Boot", "Disk", "Machine", "MachineKind", "Part", "arguments"]


class MachineKind(Enum):
    MICROVM = "microvm"
    Q35 = "q35"


class Part(Enum):
    """What QEMU is given a descriptor of."""

    MONITOR = "monitor"
    AGENT = "agent"
    CONSOLE = "console"
    MEMORY = "memory"
    KERNEL = "kernel"
    INITRD = "initrd"
    NETWORK = "network"


@frozen
class Boot:
    """Boot from the kernel and the initrd that are given, with this kernel command line."""

    command_line: str


@frozen
class Disk:
    """A virtio block device, in the order of the guest's /dev/vda, /dev/vdb, …

    `name` tells the disks of a machine apart: their descriptors are given under it.
    """

    name: str
    read_only: bool = True


@frozen
class Machine:
    """One virtual machine.

    Parameters
    ----------
    qemu: absolute path of the program.
    accelerator: ``kvm`` or ``tcg``.
    memory_mib: size of the guest's memory; `memory_shared` writes through to the descriptor (a template in
        the making), else it is mapped copy-on-write.
    boot: None for a machine that is restored: it waits for a migration to come in.
    network: whether there is a network card. Without a `tap`, which is given as the part ``NETWORK``, it has
        no way out.
    """

    qemu: str
    kind: MachineKind
    accelerator: str
    memory_mib: int
    cpus: int = 1
    boot: Boot | None = None
    memory_shared: bool = False
    disks: tuple[Disk, ...] = ()
    network: bool = True
    tap: bool = False

    @property
    def cpu_model(self) -> str:
        """Without the flags that have a guest copy and clear pages byte by byte: QEMU steps through each."""
        return "host" if self.accelerator == "kvm" else "max,-erms,-fsrm"


SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def arguments(machine: Machine, fds: Mapping[str, int]) -> tuple[str, ...]:
    """The argument vector.

    Parameters
    ----------
    fds: the number of the descriptor of each `Part` (by its value) and of each disk (by its name). Monitor,
        agent and console are connected sockets.

    Raises `KeyError` for a part that is needed and not given.
    """
    return tuple(_words(machine, fds))


def _words(machine: Machine, fds: Mapping[str, int]) -> Iterator[str]:
    memory = fds[Part.MEMORY.value]
    share = "on" if machine.memory_shared else "off"
    yield machine.qemu
    yield from (
        "-machine",
        f"{_machine_type(machine.kind)},accel={machine.accelerator},memory-backend=memory",
    )
    yield from (
        "-object",
        f"memory-backend-file,id=memory,size={machine.memory_mib}M,{_file(memory)},share={share}",
    )
    yield from ("-cpu", machine.cpu_model, "-m", f"{machine.memory_mib}M", "-smp", str(machine.cpus))
    yield from ("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", SANDBOX)
    if machine.boot is None:
        yield from ("-incoming", "defer")
    else:
        yield from ("-kernel", _path(fds[Part.KERNEL.value]), "-initrd", _path(fds[Part.INITRD.value]))
        yield from ("-append", machine.boot.command_line)
    yield from _channels(machine, fds)
    for number, disk in enumerate(machine.disks):
        yield from _disk(disk, machine.kind, number, fds[disk.name])
    if machine.network:
        # A hub with nothing else on it has no state of its own and no offloads, as little as our taps: so a
        # guest that booted with the one goes on with the other. (QEMU's user network has a state.)
        tap = f"tap,id=network,fd={fds[Part.NETWORK.value]}" if machine.tap else ""
        yield from ("-netdev", tap or "hubport,id=network,hubid=0")
        yield from ("-device", f"{_device('virtio-net', machine.kind)},netdev=network")


def _disk(disk: Disk, kind: MachineKind, number: int, fd: int) -> Iterator[str]:
    """What is confined may open no file for writing, under whatever name: it uses what is open."""
    access, path = ("on", _path(fd)) if disk.read_only else ("off", f"/dev/fdset/{number}")
    if not disk.read_only:
        yield from ("-add-fd", f"fd={fd},set={number}")
    node = f"driver=raw,node-name={disk.name},read-only={access},file.driver=file,file.locking=off"
    yield from ("-blockdev", f"{node},cache.no-flush=on,file.filename={path}")
    yield from ("-device", f"{_device('virtio-blk', kind)},drive={disk.name}")


def _channels(machine: Machine, fds: Mapping[str, int]) -> Iterator[str]:
    for part in (Part.MONITOR, Part.AGENT, Part.CONSOLE):
        yield from ("-chardev", f"socket,id={part.value},fd={fds[part.value]}")
    yield from ("-mon", f"chardev={Part.MONITOR.value},mode=control")
    yield from ("-device", _device("virtio-serial", machine.kind))
    yield from ("-device", f"virtconsole,chardev={Part.CONSOLE.value}")
    yield from ("-device", f"virtserialport,chardev={Part.AGENT.value},name={PORT_NAME}")


def _machine_type(kind: MachineKind) -> str:
    # ACPI stays on: it is how Debian's kernel finds the devices of a microvm.
    return "microvm,isa-serial=off" if kind is MachineKind.MICROVM else "q35"


def _device(name: str, kind: MachineKind) -> str:
    return f"{name}-device" if kind is MachineKind.MICROVM else f"{name}-pci"


def _file(fd: int) -> str:
    return f"mem-path={_path(fd)}"


def _path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
