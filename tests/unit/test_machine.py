"""What holds for the command line of every machine."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.frozen import replace
from backends.qemu.machine import Boot, Disk, Machine, MachineKind, Part, arguments

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

DISK_SETS = st.lists(st.sampled_from(("rootfs", "grants", "data")), unique=True).map(
    lambda names: tuple(Disk(name, read_only=name != "data") for name in names)
)
MACHINES = st.builds(
    Machine,
    qemu=st.just("/usr/bin/qemu"),
    kind=st.sampled_from(MachineKind),
    accelerator=st.sampled_from(("kvm", "tcg")),
    memory_mib=st.integers(96, 4096),
    cpus=st.integers(1, 8),
    boot=st.sampled_from((None, Boot("quiet console=hvc0"))),
    memory_shared=st.booleans(),
    disks=DISK_SETS,
    network=st.booleans(),
    tap=st.booleans(),
)


def descriptors(machine: Machine) -> dict[str, int]:
    names = {part.value for part in Part} | {disk.name for disk in machine.disks}
    if not (machine.network and machine.tap):
        names -= {Part.NETWORK.value}
    if machine.boot is None:
        names -= {Part.KERNEL.value, Part.INITRD.value}
    return {name: number for number, name in enumerate(sorted(names), start=200)}


def values(words: tuple[str, ...], option: str) -> list[str]:
    return [value for word, value in pairwise(words) if word == option]


@given(MACHINES)
def test_every_file_comes_as_a_descriptor_and_every_descriptor_is_used(machine: Machine) -> None:
    fds = descriptors(machine)
    words = arguments(machine, fds)
    used = {int(number) for word in words for number in re.findall(r"(?:/proc/self/fd/|fd=)(\d+)", word)}
    assert used == set(fds.values())
    paths = re.findall(r"(?:^|=)(/[^,]*)", "\n".join(words[1:]), re.MULTILINE)
    assert all(path.startswith(("/proc/self/fd/", "/dev/fdset/")) for path in paths)


@given(MACHINES)
def test_what_is_written_to_is_used_as_it_is_open(machine: Machine) -> None:
    """Who is confined may open nothing for writing: each such disk is a set of one descriptor."""
    fds = descriptors(machine)
    words = arguments(machine, fds)
    sets = {number: fd for fd, number in (added.split(",") for added in values(words, "-add-fd"))}
    for disk, node in zip(machine.disks, values(words, "-blockdev"), strict=True):
        access, path = "off", node.rpartition("file.filename=")[2]
        if disk.read_only:
            access, path = "on", f"/proc/self/fd/{fds[disk.name]}"
        else:
            assert sets.pop(f"set={path.removeprefix('/dev/fdset/')}") == f"fd={fds[disk.name]}"
        assert f"read-only={access}," in node and node.endswith(f"file.filename={path}")
    assert not sets


@given(MACHINES)
def test_a_clone_has_the_devices_of_its_template_in_the_same_order(machine: Machine) -> None:
    booted = replace(machine, boot=Boot("quiet"), memory_shared=True)
    clone = replace(machine, boot=None, memory_shared=False)
    fds = descriptors(booted)
    for option in ("-device", "-blockdev", "-machine", "-cpu", "-m", "-smp"):
        assert values(arguments(booted, fds), option) == values(arguments(clone, fds), option)


@given(MACHINES)
def test_every_machine_is_confined_by_qemu_itself_and_has_no_way_out(machine: Machine) -> None:
    words = arguments(machine, descriptors(machine))
    (sandbox,) = values(words, "-sandbox")
    settings = {part.partition("=")[0]: part.partition("=")[2] for part in sandbox.split(",")}
    assert "on" in settings
    named = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
    assert [settings.get(name) for name in named] == ["deny"] * 4
    assert "-no-user-config" in words
    assert "-nodefaults" in words
    assert all(netdev.partition(",")[0] in ("tap", "hubport") for netdev in values(words, "-netdev"))
    assert not {"-monitor", "-qmp", "-serial", "-vnc", "-gdb", "-S"} & set(words)


@given(MACHINES, st.data())
def test_a_part_that_is_not_given_is_named(machine: Machine, data: st.DataObject) -> None:
    fds = descriptors(machine)
    missing = data.draw(st.sampled_from(sorted(fds)))
    del fds[missing]
    with pytest.raises(KeyError, match=missing):
        arguments(machine, fds)


def test_only_a_template_in_the_making_writes_through_to_its_memory() -> None:
    machine = Machine("/usr/bin/qemu", MachineKind.MICROVM, "tcg", 128, memory_shared=True)
    (memory,) = values(arguments(machine, descriptors(machine)), "-object")
    assert memory.endswith("share=on")
    (memory,) = values(arguments(replace(machine, memory_shared=False), descriptors(machine)), "-object")
    assert memory.endswith("share=off")
