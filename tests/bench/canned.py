"""What one prepared host answers, kept for hosts of pyinfra's ``@fake`` connector."""

# pyright: reportUnknownMemberType=false
# pyinfra annotates contexts incompletely.

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from pyinfra.api.command import StringCommand
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host

from mxc_ops.prep.engine.planning import plan_items
from mxc_ops.prep.engine.session import open_session
from mxc_ops.prep.items import Item
from mxc_ops.prep.messages import Request
from tests.fleet.fleet import Fleet

__all__ = ["answers_of"]


class _Host:
    """As much of a pyinfra host as our surveys use; it takes down what is asked and answered."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.name = name
        self.connector: Any = SimpleNamespace(data={})
        self.taken_down: dict[str, str] = {}
        self._fleet = fleet

    def connect(self, **_options: Any) -> None:
        return

    def run_shell_command(self, command: StringCommand, **_options: Any) -> tuple[bool, CommandOutput]:
        asked = command.get_raw_value()
        argv = self._fleet.command([*self._fleet.ssh(self.name), asked])
        answered = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        self.taken_down[asked] = answered
        return True, CommandOutput([OutputLine("stdout", line) for line in answered.splitlines()])


def answers_of(fleet: Fleet, name: str, items: Sequence[Item]) -> dict[str, str]:
    """Command → output, for all that preparing a host with these items asks.

    Raises `RuntimeError` when the host is not as the items want it.
    """
    host = _Host(fleet, name)
    with ctx_host.use(host):
        session = open_session(host, Request())  # pyright: ignore[reportArgumentType] - see _Host
        changing = [step.identifier for step in plan_items(session, items) if step.changes]
    if changing:
        raise RuntimeError(f"{name} is not prepared: {', '.join(changing)}")
    return host.taken_down
