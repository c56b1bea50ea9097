"""What is suspended stands still, whatever it does about that, and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from backends.errors import LaunchFailed, LifecycleError
from mxc_ops import Outcome, Policy, Session
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


def is_suspended(session: Session) -> bool:
    """Who resists may be too quick for us once, which is told, and may be tried again."""
    try:
        session.suspend()
    except LaunchFailed as error:
        assert (error.problems[0].code, error.retryable) == ("never_still", True)
        return False
    return True


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
        until(lambda: is_suspended(session))
        before = ticks.stat().st_size
        time.sleep(_LOOK_S)
        assert ticks.stat().st_size == before
        session.resume()
        until(lambda: ticks.stat().st_size > before)


@pytest.mark.parametrize("kind", _LAUNCHED)
def test_who_is_woken_by_an_alarm_is_stopped_again(kind: str, probe: Path) -> None:
    with opened(kind, read_only=[probe.parent]) as session:
        session.detach([str(probe), "wake-by-alarm"])
        pid = Sessions().inspect(session.id)["supervisor"]["sandbox"]

        def states() -> set[str]:
            """Of the one that is woken: its father only waits for it."""
            found: set[str] = set()
            for one in descendants(pid):
                with suppress(OSError):
                    words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
                    if b"wake-by-alarm" in Path(f"/proc/{one}/cmdline").read_bytes() and int(words[11]) > 0:
                        found.add(words[0])
            return found

        until(lambda: states() == {"R"})
        session.suspend()
        for _ in range(2):
            until(lambda: states() == {"T"})
            until(lambda: states() == {"R"})
        until(lambda: states() == {"T"})


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


def test_a_command_ends_at_its_timeout_all_the_same(session: Session) -> None:
    with ThreadPoolExecutor() as pool:
        late = pool.submit(session.exec, "sleep 600", policy=session.policy(timeout_s=1, grace_s=0.2))
        detached = session.detach(["sleep", "600"], timeout_s=1)["job"]
        until(lambda: b"sleep" in session.exec("cat /proc/[0-9]*/comm").stdout)
        session.suspend()
        assert late.result().outcome is Outcome.TIMED_OUT
        session.resume()
        assert session.wait(detached)["timedOut"]


def test_and_with_who_is_attached_to_it(session: Session) -> None:
    source = "import sys; from mxc_ops import Session; Session.attach(sys.argv[1]).exec('sleep 600')"
    attached = subprocess.Popen([sys.executable, "-c", source, session.id])
    until(lambda: b"sleep" in session.exec("cat /proc/[0-9]*/comm").stdout)
    session.suspend()
    attached.kill()
    attached.wait()
    until(lambda: not Sessions().inspect(session.id)["supervisor"]["busy"])
    session.resume()
    assert b"sleep" not in session.exec("cat /proc/[0-9]*/comm").stdout


def test_what_is_suspended_can_be_stopped_and_started_again(session: Session) -> None:
    session.suspend()
    session.stop()
    session.start()
    assert session.exec("echo on").stdout == b"on\n"
