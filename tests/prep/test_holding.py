"""What is told of a host that does not let itself be held, however fast it refuses."""

from __future__ import annotations

import re
import shlex
from types import SimpleNamespace
from typing import Any, cast

import gevent
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


class SlowHost:
    """Each of its commands needs `starts_s` to begin, as with a sudo that looks up names in vain."""

    def __init__(self, starts_s: float) -> None:
        self._starts_s = starts_s
        self._holder = ""

    def run_shell_command(
        self, command: Any, _stdin: Any = None, **_named: Any
    ) -> tuple[bool, CommandOutput]:
        gevent.sleep(self._starts_s)
        if not _stdin:
            lines = [OutputLine("stdout", self._holder)] if self._holder else []
            return True, CommandOutput(lines)
        words = shlex.split(command.get_raw_value())
        self._holder = next(word for text in words for word in re.findall(r"me #[0-9a-f]+", text))
        for _ in _stdin:
            pass
        self._holder = ""
        return True, CommandOutput([])


def test_a_host_on_which_everything_is_slow_to_begin_can_be_held() -> None:
    session = Session(cast(Any, SlowHost(4)), HostFacts("w1", "", "debian", "root"), Access(elevation="root"))
    with holding(session, "me", 0):
        pass


def test_nothing_else_is_taken_for_it() -> None:
    lost = SimpleNamespace(run_shell_command=_lost)
    session = Session(cast(Any, lost), HostFacts("w1", "", "debian", "root"), Access(elevation="root"))
    with pytest.raises(ConnectionResetError), holding(session, "me", 0):
        raise AssertionError("nobody holds it")


def _lost(*_given: Any, **_named: Any) -> None:
    raise ConnectionResetError(104, "Connection reset by peer")
