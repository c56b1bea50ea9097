"""`mxc-ops` as somebody runs it who prepares a fleet: from here, but in the fleet's network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fleet.fleet import Fleet

__all__ = ["Controller", "Outcome", "Running"]

_MXC_OPS = Path(sys.executable).with_name("mxc-ops")
_DEADLINE_S = 240
# What root's runs log belongs below /var/log, where it would get among this host's own.
_OWN_LOGS = 'mount --bind "$1" /var/log; shift; exec "$@"'


@dataclass(frozen=True)
class Outcome:
    """What a command with ``--json`` ended with: exit code and lines, of which the last is the report."""

    exit_code: int
    events: list[dict[str, Any]]
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        assert self.events, self.errors
        assert self.events[-1]["event"] == "report", self.events[-1]
        return self.events[-1]

    @property
    def hosts(self) -> dict[str, dict[str, Any]]:
        return {host["name"]: host for host in self.report["hosts"]}

    @property
    def states(self) -> dict[str, str]:
        """The state of each host."""
        return {name: host["state"] for name, host in self.hosts.items()}

    def items(self, host: str) -> dict[str, dict[str, Any]]:
        return {item["identifier"]: item for item in self.hosts[host]["items"]}

    def item_states(self, host: str) -> dict[str, str]:
        return {name: item["state"] for name, item in self.items(host).items()}


class Running:
    """A command with ``--json`` that was started, with a terminal of its own."""

    def __init__(self, argv: list[str]) -> None:
        self._terminal, theirs = os.openpty()
        self.child = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(theirs)
        self._events: list[dict[str, Any]] = []

    def type(self, text: str, *, at: str) -> None:
        """Type a line once the command has asked for it with the text `at`."""
        shown = ""
        while at not in shown:
            shown += os.read(self._terminal, 1000).decode()
        os.write(self._terminal, f"{text}\n".encode())

    def await_event(self, name: str) -> dict[str, Any]:
        """The next event of this name; it must come."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self._events.append(json.loads(line))
            if self._events[-1]["event"] == name:
                return self._events[-1]
        raise AssertionError(f"it ended without {name}: {self.child.communicate()[1]}")

    def workers(self) -> list[int]:
        """The processes that it has started."""
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def kill(self) -> None:
        """SIGKILL for all of it, at whatever it is."""
        for pid in [*self.workers(), self.child.pid]:
            os.kill(pid, signal.SIGKILL)
        self.child.communicate()
        os.close(self._terminal)

    def end(self, *, deadline_s: float = _DEADLINE_S) -> Outcome:
        """Wait for it."""
        try:
            out, errors = self.child.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.communicate()
            raise
        finally:
            os.close(self._terminal)  # not before: that would hang up on the command
        events = [*self._events, *map(json.loads, out.splitlines())]
        return Outcome(self.child.returncode, events, errors)


class Controller:
    """Somebody with this checkout and an inventory.

    Parameters
    ----------
    folder: for logs, see `logs`.
    """

    def __init__(self, fleet: Fleet, inventory: Path, folder: Path) -> None:
        self._fleet = fleet
        self.inventory = inventory
        self.logs = folder / "log"
        self.logs.mkdir()

    def run(self, command: str, *options: str, deadline_s: float = _DEADLINE_S) -> Outcome:
        """``mxc-ops prep COMMAND --inventory … OPTIONS --json``."""
        return self.start(command, *options).end(deadline_s=deadline_s)

    def start(self, command: str, *options: str) -> Running:
        """As `run`, but not waited for."""
        return Running(self._argv(command, *options))

    def _argv(self, command: str, *options: str) -> list[str]:
        mxc_ops = [str(_MXC_OPS), "prep", command, "--inventory", str(self.inventory), *options, "--json"]
        return self._fleet.command(
            ["unshare", "--mount", "sh", "-euc", _OWN_LOGS, "sh", str(self.logs), *mxc_ops]
        )
