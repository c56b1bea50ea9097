"""Leases: a sandbox ends by itself when nobody uses it, or when it is too old; not before."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backends.errors import LifecycleError
from mxc_ops import Policy
from mxc_ops.session.control import connect
from mxc_ops.session.entry import Entry
from mxc_ops.session.record import Lease
from mxc_ops.session.service import Sessions
from mxc_ops.session.session import Session
from mxc_ops.session.states import Shown

pytestmark = pytest.mark.backend("bubblewrap")
PATIENCE_S = 60.0
IDLE = Lease(idle_s=2)


@pytest.fixture
def service() -> Sessions:
    return Sessions()


@pytest.fixture
def opened(service: Sessions) -> Iterator[Callable[[Lease | None], Session]]:
    """Opens sandboxes, and removes those that are still there."""
    made: list[str] = []

    def open_one(lease: Lease | None) -> Session:
        session = Session.open(Policy(containment="bubblewrap"), lease=lease)
        made.append(session.id)
        return session

    yield open_one
    for identifier in made:
        with suppress(LifecycleError):
            service.deprovision(identifier)


def once(happened: Callable[[], Any], what: str) -> Any:
    """What it answers as soon as it is true."""
    until = time.monotonic() + PATIENCE_S
    while not (answer := happened()):
        assert time.monotonic() < until, what
        time.sleep(0.05)
    return answer


def shown(service: Sessions, session: Session) -> Shown:
    return service.store.open(session.id).shown


def ended(service: Sessions, session: Session) -> dict[str, Any]:
    once(lambda: shown(service, session) is Shown.PROVISIONED, "it does not end")
    return service.inspect(session.id)


def test_what_nobody_uses_ends(service: Sessions, opened: Callable[[Lease | None], Session]) -> None:
    session = opened(IDLE)
    running = service.inspect(session.id)
    assert (running["ended"], running["lease"]) == ("", {"idleSeconds": 2, "absoluteSeconds": 0})
    supervisor = running["supervisor"]["pid"]
    folder = service.store.open(session.id).record.run_folder
    told = ended(service, session)
    assert (told["state"], told["ended"]) == ("provisioned", "lease-idle")
    assert [step["phase"] for step in told["journal"]][-2:] == ["lease-idle"] * 2
    assert told["journal"][-1]["by"] == supervisor
    entry = service.store.open(session.id)
    assert not entry.needs_reclaim
    assert not Path(folder).exists()
    with pytest.raises(LifecycleError) as caught:
        session.exec("true")
    assert caught.value.code == "not_started"
    session.start()
    assert session.exec("echo again").stdout == b"again\n"
    assert service.inspect(session.id)["ended"] == ""


def test_a_crash_is_told_apart(service: Sessions, opened: Callable[[Lease | None], Session]) -> None:
    session = opened(Lease(idle_s=600))
    os.kill(service.inspect(session.id)["supervisor"]["pid"], signal.SIGKILL)
    once(lambda: shown(service, session) is Shown.STALE, "it is not stale")
    assert service.inspect(session.id)["ended"] == "crashed"
    service.gc()
    told = service.inspect(session.id)
    assert (told["state"], told["ended"]) == ("provisioned", "crashed")
    session.start()
    session.stop()
    assert service.inspect(session.id)["ended"] == "stopped"


def uses() -> dict[str, Callable[[Session, Entry], Callable[[], object]]]:
    """How to use a sandbox, each with how to leave it."""

    def job(session: Session, _: Entry) -> Callable[[], object]:
        number = session.detach(["sleep", "600"])["job"]
        return lambda: session.kill(number, signal.SIGKILL)

    def client(_: Session, entry: Entry) -> Callable[[], object]:
        return connect(entry.record.run_folder, "agent").close

    def command(session: Session, _: Entry) -> Callable[[], object]:
        ours, its = os.pipe()
        started = threading.Event()

        def run() -> None:
            session.exec("echo; read line", stdin=ours, on_stdout=lambda _: started.set())

        running = threading.Thread(target=run)
        running.start()
        assert started.wait(PATIENCE_S)
        os.close(ours)

        def leave() -> None:
            os.close(its)
            running.join()

        return leave

    return {"job": job, "client": client, "command": command}


@pytest.mark.parametrize("use", list(uses()))
def test_what_is_used_stays(service: Sessions, opened: Callable[[Lease | None], Session], use: str) -> None:
    """Another one with the same lease, and opened after it, ends meanwhile: that is the clock here."""
    session = opened(IDLE)
    leave = uses()[use](session, service.store.open(session.id))
    ended(service, opened(IDLE))
    assert shown(service, session) is Shown.RUNNING
    before = service.store.open(session.id).last_used
    leave()
    told = ended(service, session)
    assert told["ended"] == "lease-idle"
    assert told["lastUsed"] > before, "its last use is the end of the last one"


def test_what_is_too_old_ends_even_while_it_is_used(
    service: Sessions, opened: Callable[[Lease | None], Session]
) -> None:
    session = opened(Lease(absolute_s=4))
    job = session.detach(["sleep", "600"])
    assert job["ended"] is None
    told = ended(service, session)
    assert told["ended"] == "lease-absolute"
    with pytest.raises(LifecycleError, match="its lease is over") as caught:
        service.start(session.id)
    assert caught.value.code == "stale_id"
    assert service.store.open(session.id).path in service.gc().removed
    with pytest.raises(LifecycleError) as caught:
        service.inspect(session.id)
    assert caught.value.code in ("stale_id", "not_provisioned")


def test_gc_leaves_what_is_only_unused(service: Sessions, opened: Callable[[Lease | None], Session]) -> None:
    session, other = opened(IDLE), opened(None)
    ended(service, session)
    removed = service.gc().removed
    assert not {service.store.open(each.id).path for each in (session, other)} & set(removed)
    assert shown(service, other) is Shown.RUNNING


def test_an_end_by_lease_and_a_stop_never_cross(
    service: Sessions, opened: Callable[[Lease | None], Session]
) -> None:
    """Stopped just when its lease ends: one of the two does it, and it can be started at once."""
    session = opened(Lease(idle_s=1))
    for turn in range(30 if os.environ.get("MXC_SOAK") else 3):
        time.sleep(1.0 + (turn % 5 - 1) * 0.02)
        try:
            service.stop(session.id)
        except LifecycleError as error:
            assert error.code == "already_stopped"
        told = service.inspect(session.id)
        assert told["state"] == "provisioned"
        assert told["ended"] in ("stopped", "lease-idle")
        service.start(session.id)
    assert session.exec("echo usable").stdout == b"usable\n"
