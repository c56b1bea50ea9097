"""What is told of a host that does not let itself be held, however fast it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyinfra.connectors.util import CommandOutput, OutputLine

from mxc_ops.prep.engine.lock import HeldByAnother, holding
from mxc_ops.prep.engine.session import Session
from mxc_ops.prep.items import HostFacts
from mxc_ops.prep.operations.common import Access, HostFailure


class FastHost:
    """Its commands have ended before their input is written, as a busy machine may have it."""

    def __init__(self, stream: str, line: str) -> None:
        self._said = CommandOutput([OutputLine(stream, line)])

    def run_shell_command(
        self, _command: Any, _stdin: Any = None, **_named: Any
    ) -> tuple[bool, CommandOutput]:
        if _stdin:
            raise BrokenPipeError(32, "Broken pipe")
        return False, self._said


@pytest.mark.parametrize(
    ("stream", "line", "kind", "told"),
    [
        ("stderr", "mkdir: Read-only file system", HostFailure, "Read-only file system"),
        ("stdout", "eve@there, process 7 #ab", HeldByAnother, "eve@there, process 7"),
    ],
)
def test_why_it_cannot_be_held_is_known_though_the_pipe_broke(
    stream: str, line: str, kind: type[Exception], told: str
) -> None:
    facts = HostFacts("@local", "", "debian", "root")
    session = Session(cast(Any, FastHost(stream, line)), facts, Access(elevation="root"))
    with pytest.raises(kind, match=told), holding(session, "me", 0):
        raise AssertionError("nobody holds it")


def test_nothing_else_is_taken_for_it() -> None:
    lost = SimpleNamespace(run_shell_command=_lost)
    session = Session(cast(Any, lost), HostFacts("w1", "", "debian", "root"), Access(elevation="root"))
    with pytest.raises(ConnectionResetError), holding(session, "me", 0):
        raise AssertionError("nobody holds it")


def _lost(*_given: Any, **_named: Any) -> None:
    raise ConnectionResetError(104, "Connection reset by peer")
