"""What libvirt's own QEMU driver, without a daemon, makes of our XML: the machine that we describe."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.qemu.machine import SANDBOX, Part, arguments
from tests.domains import CASES, TCG_ONLY
from tests.prep.libvirt_host import missing

pytestmark = [pytest.mark.backend("vm"), pytest.mark.skipif(bool(missing()), reason=missing())]

NAMES = ["microvm-tcg", "q35-tcg"]
_ENTER = f'{TCG_ONLY}\nexec "$@"'
_SETTINGS = 'stdio_handler = "file"\nsecurity_driver = "none"\nnamespaces = [ ]\ncgroup_controllers = [ ]\n'
_EMBEDDED = """
import asyncio, json, sys, threading
import libvirt
from backends.qemu.libvirt_host import LibvirtHost
from tests.domains import CASES

async def main(uri, names):
    async with await LibvirtHost.open(uri) as host:
        for name in names:
            await host.define(CASES[name])
        return await host.connection.call("translating", lambda raw: {
            name: raw.domainXMLToNative("qemu-argv", raw.lookupByName(name).XMLDesc(0), 0) for name in names
        })

def turn():
    while True:
        libvirt.virEventRunDefaultImpl()

libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=turn, daemon=True).start()
print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2:]))))
"""


@pytest.fixture(scope="module")
def translated(checkout: Path) -> Mapping[str, list[str]]:
    """The command lines that libvirt makes."""
    with TemporaryDirectory(prefix="mxc-ops-libvirt-") as folder:
        root = Path(folder)
        root.chmod(0o711)  # for the user that libvirt runs QEMU as
        (root / "etc").mkdir()
        (root / "etc/qemu.conf").write_text(_SETTINGS)
        command = [sys.executable, "-c", _EMBEDDED, f"qemu:///embed?root={root}", *NAMES]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", _ENTER, "sh", *command],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines: dict[str, str] = json.loads(done.stdout)
    return {name: shlex.split(line) for name, line in lines.items()}


def options(words: list[str] | tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(option, value); "" for one without."""
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        if word.startswith("-"):
            yield word, "" if following.startswith("-") else following


def devices(words: list[str] | tuple[str, ...]) -> list[str]:
    values = [value for option, value in options(words) if option == "-device"]
    return [json.loads(value)["driver"] if value[0] == "{" else value.split(",")[0] for value in values]


@pytest.mark.parametrize("name", NAMES)
def test_libvirt_makes_the_machine_that_we_would_make(translated: Mapping[str, list[str]], name: str) -> None:
    machine = CASES[name].machine
    fds = dict.fromkeys([*(part.value for part in Part), *(disk.name for disk in machine.disks)], 3)
    ours, theirs = arguments(machine, fds), translated[name]
    mine, made = dict(options(ours)), dict(options(theirs))
    for option in ("-append", "-display", "-sandbox"):
        assert made[option] == mine[option]
    assert made["-sandbox"] == SANDBOX
    assert (made["-kernel"], made["-initrd"]) == (CASES[name].paths["kernel"], CASES[name].paths["initrd"])
    assert (made["-accel"], made["-cpu"], made["-m"]) == ("tcg", "max", "256")
    assert made["-smp"].split(",")[0] == str(machine.cpus)
    assert re.match(r"microvm\b|pc-q35\b", made["-machine"])
    bridges = [driver for driver in devices(theirs) if driver == "pcie-root-port"]
    assert sorted(devices(theirs)) == sorted([*devices(ours), *bridges])


@pytest.mark.parametrize("name", NAMES)
def test_libvirt_adds_no_network_and_takes_no_acpi_away(
    translated: Mapping[str, list[str]], name: str
) -> None:
    given = {option for option, _ in options(translated[name])}
    assert not given & {"-netdev", "-nic", "-net", "-no-acpi", "-fsdev", "-virtfs", "-vnc", "-spice"}


def test_only_what_may_be_written_is_opened_for_writing(translated: Mapping[str, list[str]]) -> None:
    nodes = [json.loads(value) for option, value in options(translated["q35-tcg"]) if option == "-blockdev"]
    files = {node["node-name"]: node["filename"] for node in nodes if node["driver"] == "file"}
    read_only = {files[node["file"]]: node["read-only"] for node in nodes if node["driver"] == "raw"}
    paths = CASES["q35-tcg"].paths
    assert read_only == {paths["root"]: True, paths["data"]: False}
