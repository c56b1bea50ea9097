"""One Windows machine, scripted, in a process of its own: see `machine` for what that proves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.conftest import CHECKOUT
from tests.prep.windows.machine import UNSCRIPTED, Machine
from tests.unit.powershell_grammar import errors

HOST = "@mxcwin/127.0.0.1"
_MXC_OPS = Path(sys.executable).with_name("mxc-ops")
_DEADLINE_S = 120
# What root's runs log belongs below /var/log, where it would get among this host's own.
_OWN_LOGS = 'mount --bind "$1" /var/log; shift; exec "$@"'


@dataclass(frozen=True)
class Outcome:
    """What a command with ``--json`` ended with; `host` is the report of the one host."""

    exit_code: int
    host: Mapping[str, Any]
    errors: str

    @property
    def states(self) -> dict[str, str]:
        return {item["identifier"]: item["state"] for item in self.host["items"]}

    def item(self, identifier: str) -> Mapping[str, Any]:
        return next(item for item in self.host["items"] if item["identifier"] == identifier)


class Windows:
    """The scripted machine, and somebody who prepares it from here."""

    def __init__(self, folder: Path, port: int, host_key: str) -> None:
        self.folder = folder
        self.port = port
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{port} {host_key}\n")
        self.inventory = folder / "windows.py"
        self.data = {
            "ssh_port": port,
            "ssh_user": "ops",
            "ssh_key": str(folder / "client"),
            "ssh_known_hosts_file": str(self.known_hosts),
        }
        self.inventory.write_text(f"hosts = [({HOST!r}, {self.data!r})]\n")
        (folder / "log").mkdir()

    @property
    def machine(self) -> Machine:
        return Machine.load(self.folder / "machine.json")

    def set(self, machine: Machine) -> None:
        machine.save(self.folder / "machine.json")

    def restart(self) -> None:
        machine = self.machine
        machine.restart()
        self.set(machine)

    @property
    def transcript(self) -> list[dict[str, Any]]:
        """Every script that arrived, with what was answered; the oldest first."""
        path = self.folder / "transcript.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, command: str, *options: str) -> Outcome:
        """``mxc-ops prep COMMAND --inventory … OPTIONS --json``."""
        argv = [str(_MXC_OPS), "prep", command, "--inventory", str(self.inventory), *options, "--json"]
        if os.geteuid() == 0:
            argv = ["unshare", "--mount", "sh", "-euc", _OWN_LOGS, "sh", str(self.folder / "log"), *argv]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "XDG_STATE_HOME": str(self.folder / "log")},
            timeout=_DEADLINE_S,
            check=False,
        )
        assert done.stdout, done.stderr
        report = json.loads(done.stdout.splitlines()[-1])
        return Outcome(done.returncode, report["hosts"][0], done.stderr)


def make_key(path: Path) -> None:
    """A key for SSH, the public half beside it with ``.pub``."""
    key: Any = asyncssh.generate_private_key("ssh-ed25519")  # pyright: ignore[reportUnknownMemberType] - incompletely annotated
    key.write_private_key(str(path))
    key.write_public_key(f"{path}.pub")


MakeWindows = Callable[[Machine], Windows]


@pytest.fixture
def windows_at(tmp_path: Path) -> Iterator[MakeWindows]:
    """Starts the machine's SSH server. At the end, it must have known every script, all PowerShell."""
    make_key(tmp_path / "client")
    served: list[tuple[subprocess.Popen[str], Windows]] = []

    def start(machine: Machine) -> Windows:
        machine.save(tmp_path / "machine.json")
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.prep.windows.scripted_end", str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        windows = Windows(tmp_path, told["port"], told["key"])
        served.append((server, windows))
        return windows

    yield start
    for server, windows in served:
        server.communicate()  # its standard input ends, and so does it
        unknown = [entry for entry in windows.transcript if entry["exit"] == UNSCRIPTED]
        assert unknown == []
        sent = {entry["script"] for entry in windows.transcript if "# mxc:test " not in entry["script"]}
        assert [found for script in sent for found in errors(script)] == []


@pytest.fixture
def windows(windows_at: MakeWindows) -> Windows:
    """A fresh machine."""
    return windows_at(Machine())
