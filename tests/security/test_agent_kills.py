"""What the agent kills is gone, however hard it is to see; and it gives up none that it had no time for."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.inside import agent_codec
from backends.inside.agent_protocol import EndedFlag, Flag, GuestCommand, Kind
from tests.security.host import wait_for_process
from tests.unit.agent_client import PATH, AgentClient, private_agent

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="an agent is root in its namespaces"),
    pytest.mark.backend("bubblewrap"),
]
_HARD_TO_SEE = ("chain=60", "switch-threads=60")
hard_to_see = pytest.mark.parametrize("attack", _HARD_TO_SEE)
_PTRACE_ATTACH, _PTRACE_DETACH, _WALL = 16, 17, 0x40000000


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentClient]:
    with private_agent() as client:
        yield client


@pytest.fixture
def tries(soak: bool) -> int:
    return 20 if soak else 3


def leave_behind(agent: AgentClient, probe: Path, attack: str) -> None:
    """The command's own process ends; others go on, among many that do nothing."""
    idle = "for n in $(seq 80); do sleep 600 & done"
    line = f"{{ {idle}; {probe} {attack} & }} >/dev/null 2>&1; sleep 0.2; kill $!"
    agent.run(GuestCommand(("sh", "-c", line), PATH))


def is_any_there(agent: AgentClient) -> bool:
    names = agent.run(GuestCommand(("sh", "-c", "cat /proc/[0-9]*/comm"), PATH)).stdout
    return b"probe" in names or b"exe" in names.split()


@contextmanager
def held_up(pid: int) -> Generator[None]:
    """By being traced."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(_PTRACE_ATTACH, pid, None, None) == 0
    os.waitpid(pid, _WALL)
    yield
    assert libc.ptrace(_PTRACE_DETACH, pid, None, None) == 0


@hard_to_see
def test_a_greeting_ends_it_where_a_copy_could_be_made(
    agent: AgentClient, probe: Path, attack: str, tries: int
) -> None:
    """At rest the agent looks whether anybody is there, so that no copy of its machine need look."""
    for _ in range(tries):
        leave_behind(agent, probe, attack)
        assert is_any_there(agent)
        assert agent.ask(Kind.SYNC).kind is Kind.DONE
        agent.hello()
        agent.last_stream = 0
        assert not is_any_there(agent)


@hard_to_see
def test_a_signal_to_everybody_ends_it(agent: AgentClient, probe: Path, attack: str, tries: int) -> None:
    for _ in range(tries):
        leave_behind(agent, probe, attack)
        assert is_any_there(agent)
        agent.send(Kind.SIGNAL, 0, agent_codec.number(signal.SIGKILL), Flag.EVERY)
        assert not is_any_there(agent)


@hard_to_see
def test_so_does_the_end_of_its_time(agent: AgentClient, probe: Path, attack: str, tries: int) -> None:
    for _ in range(tries):
        agent.run(GuestCommand((str(probe), attack), PATH, timeout=(300, 0, signal.SIGKILL)))
        assert not is_any_there(agent)


def test_the_time_in_which_it_stands_still_itself_is_not_counted(agent: AgentClient, probe: Path) -> None:
    """Something hides the end of what was killed. Ten seconds of that would end the agent: three of them come
    before it is held up, two after that."""
    stream = agent.start(GuestCommand(("sleep", "61.6875"), PATH, timeout=(1000, 0, signal.SIGKILL)))
    hidden = agent_codec.read_number(agent.wait_for(stream, Kind.STARTED).payload)
    agent.start(GuestCommand((str(probe), f"hide-end={hidden},16"), PATH))
    status = Path(f"/proc/{wait_for_process('61.6875').pid}/status").read_text()
    pid = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
    time.sleep(4)
    with held_up(pid):
        time.sleep(10)
    done = agent.finish(stream)
    assert done.ended is not None
    assert done.ended.flags == EndedFlag.TIMED_OUT
