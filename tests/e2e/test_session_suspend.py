"""What is suspended stands still, whatever it does about that, and goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backends.errors import LifecycleError
from mxc_ops import Policy, Session
from mxc_ops.session.service import Sessions
from tests.e2e.sessions import until
from tests.images import image
from tests.vm_engine import descendants

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root starts all of them here")
_LOOK_S = 1.0
_IDLE_S = 0.2
_LAUNCHED = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc")]
_KINDS = [*_LAUNCHED, pytest.param("vm", marks=pytest.mark.backend("vm"))]
_FORKS = "while :; do (echo tick >>{0}) & (echo tick >>{0}); done"
_WAKES = "trap : TSTP; while :; do kill -CONT -1; echo tick >>{0}; done"


@pytest.fixture
def grant(tmp_path: Path) -> Path:
    tmp_path.chmod(0o777)
    return tmp_path


def opened(kind: str, **more: object) -> Session:
    if kind != "bubblewrap":
        image("base")
    return Session.open(Policy(containment=kind, **more))  # pyright: ignore[reportArgumentType]


def processor_time_s(session: Session) -> float:
    """Of all that the sandbox is made of."""
    pid = Sessions().inspect(session.id)["supervisor"]["sandbox"]
    return sum(map(_processor_time_s, descendants(pid)))


def _processor_time_s(pid: int) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@pytest.mark.parametrize("kind", _KINDS)
def test_it_uses_no_processor_and_takes_no_command_until_it_goes_on(kind: str) -> None:
    with opened(kind) as session:
        busy = session.detach(["sh", "-c", "while :; do :; done"])["job"]
        for _ in ("twice is once", "and again later"):
            session.suspend()
            session.suspend()
            with pytest.raises(LifecycleError) as caught:
                session.exec("true")
            assert (caught.value.code, caught.value.problems[0].code) == ("not_started", "suspended")
            before = processor_time_s(session)
            time.sleep(_LOOK_S)
            assert processor_time_s(session) - before < _IDLE_S
            session.resume()
            session.resume()
            before = processor_time_s(session)
            until(lambda before=before: processor_time_s(session) - before > _IDLE_S)
            clock = float(session.exec("date +%s.%N").stdout)
            assert abs(clock - time.time()) < 30, "a machine's clock is set when it goes on"
        session.kill(busy, signal.SIGKILL)
        assert session.exec("echo on").stdout == b"on\n"


@pytest.mark.parametrize("kind", _LAUNCHED)
@pytest.mark.parametrize("loop", [_FORKS, _WAKES], ids=["forks", "wakes"])
def test_nothing_escapes_it_by_forking_or_waking_others(kind: str, loop: str, grant: Path) -> None:
    ticks = grant / "ticks"
    with opened(kind, read_write=[grant]) as session:
        for _ in range(4):
            session.detach(["sh", "-c", loop.format(ticks)])
        until(lambda: ticks.exists() and ticks.stat().st_size > 100)
        session.suspend()
        before = ticks.stat().st_size
        time.sleep(_LOOK_S)
        assert ticks.stat().st_size == before
        session.resume()
        until(lambda: ticks.stat().st_size > before)


@pytest.fixture(params=_LAUNCHED)
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with opened(request.param) as session:
        yield session


def test_what_had_stopped_itself_stays_so(session: Session) -> None:
    session.detach(["sh", "-c", "echo $$ >/tmp/halted; kill -STOP $$; echo on"])
    state = "cut -d' ' -f3 /proc/$(cat /tmp/halted)/stat"
    until(lambda: session.exec(state).stdout == b"T\n")
    session.suspend()
    session.resume()
    assert session.exec(state).stdout == b"T\n"


def test_the_end_of_a_commands_time_is_held_while_suspended(session: Session) -> None:
    job = session.detach(["sleep", "600"], timeout_s=1)["job"]
    session.suspend()
    time.sleep(1.5)
    session.resume()
    assert session.wait(job)["timedOut"]


def test_what_is_suspended_can_be_stopped_and_started_again(session: Session) -> None:
    session.suspend()
    session.stop()
    session.start()
    assert session.exec("echo on").stdout == b"on\n"
