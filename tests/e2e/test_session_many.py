"""Many processes with one session, one process with many sessions, and phases that race."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.errors import LifecycleError
from mxc_ops import Limits, Policy
from mxc_ops.session.service import Sessions
from mxc_ops.session.session import Session
from tests.conftest import CHECKOUT
from tests.images import image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers are started by root")

KINDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]
PROCESSES = 16
SESSIONS = {"bubblewrap": 50, "lxc": 50, "vm": 50}
RACERS = 6
DRIVE = """
import sys
from mxc_ops.session.session import Session
session = Session.attach(sys.argv[1])
for number in range(int(sys.argv[3])):
    words = f"{sys.argv[2]} {number}"
    done = session.exec(f"read line; echo $line; echo {words} >&2; exit 7", input=words.encode() + b"\\n")
    assert (done.stdout.decode(), done.stderr.decode(), done.exit_code) == (words + "\\n", words + "\\n", 7)
print("fine")
"""


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    image("base")


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_processes_drive_one_session(kind: str, soak: bool) -> None:
    with Session.open(Policy(containment=kind)) as session:
        drivers = [
            subprocess.Popen(
                [sys.executable, "-c", DRIVE, session.id, str(number), "50" if soak else "5"],
                cwd=CHECKOUT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(PROCESSES)
        ]
        said = [driver.communicate(timeout=300)[0] for driver in drivers]
        assert said == ["fine\n"] * PROCESSES
        assert session.exec("echo last").stdout == b"last\n"


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_drives_fifty_sessions(kind: str, soak: bool) -> None:
    service = Sessions()
    policy = Policy(containment=kind)
    wanted = SESSIONS[kind] if soak else SESSIONS[kind] // 5
    sessions: list[Session] = []
    try:
        with ThreadPoolExecutor(4) as pool:
            sessions += pool.map(Session.open, [policy] * wanted)

        def use(numbered: tuple[int, Session]) -> bytes:
            number, session = numbered
            session.exec(f"echo {number} > /tmp/mine")
            return session.exec("cat /tmp/mine").stdout

        with ThreadPoolExecutor(wanted) as pool:
            answers = list(pool.map(use, enumerate(sessions)))
        assert answers == [b"%d\n" % number for number in range(wanted)]
    finally:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(service.deprovision, [session.id for session in sessions]))


@pytest.mark.parametrize("kind", KINDS)
def test_limits_hold_for_all_commands_together(kind: str) -> None:
    """Each of them alone would fit."""
    policy = Policy(containment=kind, limits=Limits(memory_mib=100))
    with Session.open(policy) as session:
        hungry = "(head -c 60M /dev/zero; sleep 3) | tail -c 60M | wc -c"
        assert session.exec(hungry).stdout == b"62914560\n"
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(session.exec, [hungry] * 2))
        assert [answer.stdout for answer in answers].count(b"62914560\n") < 2
        assert session.exec("echo fine").stdout == b"fine\n", "what takes too much ends, and nothing else"


@pytest.mark.parametrize("kind", KINDS)
def test_phases_that_race_answer_codes(kind: str, soak: bool) -> None:
    service = Sessions()
    one = service.provision(Policy(containment=kind)).id

    def tried(phase: str) -> str:
        try:
            getattr(Sessions(), phase)(one)
        except LifecycleError as error:
            return error.code
        return phase

    for _ in range(10 if soak else 2):
        with ThreadPoolExecutor(RACERS) as pool:
            answers = Counter(pool.map(tried, ["start"] * RACERS))
        assert answers == {"start": 1, "already_started": RACERS - 1}
        assert Session.attach(one).exec("true").exit_code == 0
        with ThreadPoolExecutor(RACERS) as pool:
            answers = Counter(pool.map(tried, ["stop"] * RACERS))
        assert answers == {"stop": 1, "already_stopped": RACERS - 1}
    service.start(one)
    with ThreadPoolExecutor(RACERS) as pool:
        answers = Counter(pool.map(tried, ["deprovision", "stop", "start"] * 2))
    assert answers["deprovision"] == 1
    assert answers.keys() <= {
        *("deprovision", "stop", "start", "stale_id", "already_stopped", "already_started", "not_provisioned")
    }
