"""Prepare this host: the parent's side. Starts the worker, shows the plan, asks, reports."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from backends.errors import PrepFailed, Problem
from mxc_ops.prep.items import Helper, needs_of
from mxc_ops.prep.messages import Answer, Event, Message, Request
from mxc_ops.prep.report import HostReport, HostState, ItemReport, ItemState, Report

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["prepare_host"]

THIS_HOST = "@local"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SOURCES = Path(__file__).resolve().parents[2]


def prepare_host(
    backends: Sequence[str],
    *,
    approve: Callable[[Report], bool],
    on_event: Callable[[Message], None] | None = None,
) -> Report:
    """Make this host ready for the backends: plan, ask, change, check again.

    Parameters
    ----------
    backends: containment names, such as ``bubblewrap``.
    approve: is given the plan when something would change and can be changed; True has it done.
    on_event: is told everything as it happens.

    Raises `UnsupportedContainment` for a backend that cannot be prepared, `PrepFailed` when the worker breaks
    or pyinfra is not installed. What goes wrong on the host stands in the report.
    """
    needs_of(backends)
    request = Request([THIS_HOST], list(backends), _helpers())
    report = Report()
    with _worker() as (worker, send):
        send(request.encode())
        for message in _messages(worker):
            if on_event:
                on_event(message)
            _absorb(report, message)
            if message.event is Event.ASK:
                _refuse_unprivileged(report, backends)
                applicable = [
                    host.name for host in report.hosts.values() if host.state is HostState.CHANGES_PENDING
                ]
                wanted = bool(applicable) and approve(report)
                send(Answer(applicable if wanted else []).encode())
    return report


def _helpers() -> dict[str, Helper]:
    """What is compiled on this host, and by which command: this very Python, with these very sources."""
    from backends.inside import store

    program = (
        "from pathlib import Path; from backends.inside import build;"
        f" build.build_launcher(Path({store.SYSTEM_STORE!r}))"
    )
    command = ("env", f"PYTHONPATH={_SOURCES}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-Pc", program)
    return {"launcher": Helper(f"{store.SYSTEM_STORE}/{store.source_key()}/{store.PROGRAM}", command)}


@contextmanager
def _worker() -> Generator[tuple[Popen[str], Callable[[str], None]]]:
    """The worker process, in a session of its own so that all it started can be ended with it.

    ``-P`` here and above: nothing is imported from the directory that we happen to be in.
    """
    import subprocess
    import tempfile

    # A user's own variables, such as proxies, are passed on: apt and pip need them.
    modules = ":".join(filter(None, [str(_SOURCES), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PATH": _PATH, "PYTHONPATH": modules, "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile("w+") as log:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "mxc_ops.prep.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert worker.stdin is not None

        def send(line: str) -> None:
            assert worker.stdin is not None
            worker.stdin.write(line)
            worker.stdin.flush()

        try:
            yield worker, send
            if worker.wait() != 0:
                raise PrepFailed(_broken(log))
        except BrokenPipeError:
            worker.wait()
            raise PrepFailed(_broken(log)) from None
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGTERM)
                worker.wait()


def _broken(log: TextIO) -> Problem:
    log.seek(0)
    lines = log.read().strip().splitlines()
    if any("No module named 'pyinfra'" in line or "No module named 'gevent'" in line for line in lines):
        return Problem(
            "prep_not_installed",
            "mxc-ops prep",
            "pyinfra is not installed beside mxc-ops",
            fix=f"{sys.executable} -m pip install 'mxc-ops[prep]'",
        )
    last = lines[-1] if lines else "no message"
    return Problem("prep_worker", "mxc-ops prep", f"the worker broke: {last}")


def _messages(worker: Popen[str]) -> Iterator[Message]:
    assert worker.stdout is not None
    for line in worker.stdout:
        yield Message.decode(line)


def _absorb(report: Report, message: Message) -> None:
    """Add what a message tells to the report."""
    if not message.host:
        return
    host = report.hosts.setdefault(message.host, HostReport(message.host))
    data = message.data
    item = host.items.get(data.get("item", ""))
    match message.event:
        case Event.HOST:
            host.distribution, host.elevation = data["distribution"], data["elevation"]
        case Event.UNREACHABLE:
            host.state, host.problem = HostState.UNREACHABLE, data["message"]
        case Event.UNSUPPORTED:
            host.state, host.problem, host.fix = HostState.UNSUPPORTED, data["message"], data["fix"]
        case Event.PLANNED:
            host.items[data["item"]] = _planned(data)
        case _ if item:
            _progress(item, message.event, data)
        case _:
            pass
    if host.state not in (HostState.UNREACHABLE, HostState.UNSUPPORTED):
        host.state = _state(host)


def _planned(data: Mapping[str, Any]) -> ItemReport:
    state = ItemState.WOULD_CHANGE if data["changes"] else ItemState.AS_WANTED
    return ItemReport(
        data["item"],
        data["kind"],
        data["why"],
        data["before"],
        data["after"],
        ItemState.REFUSED if data["message"] else state,
        data["message"],
        data["fix"],
    )


def _progress(item: ItemReport, event: Event, data: Mapping[str, Any]) -> None:
    if event is Event.CHANGED:
        item.state = ItemState.CHANGED
    elif event is Event.FAILED:
        item.state, item.message, item.fix = ItemState.FAILED, data["message"], data["fix"]
    elif event is Event.CHECKED and item.state is ItemState.CHANGED and not data["settled"]:
        item.state, item.message = ItemState.NOT_SETTLED, f"still: {data['before']}"


def _state(host: HostReport) -> HostState:
    if host.in_state(ItemState.FAILED, ItemState.REFUSED, ItemState.NOT_SETTLED):
        return HostState.FAILED
    return HostState.CHANGES_PENDING if host.in_state(ItemState.WOULD_CHANGE) else HostState.READY


def _refuse_unprivileged(report: Report, backends: Sequence[str]) -> None:
    """Every change needs root; say so at once rather than fail at the first."""
    options = " ".join(f"--backend {name}" for name in backends)
    for host in report.hosts.values():
        if host.state is HostState.CHANGES_PENDING and host.elevation == "none":
            names = ", ".join(item.identifier for item in host.in_state(ItemState.WOULD_CHANGE))
            host.state = HostState.NEEDS_PRIVILEGE
            host.problem = f"root is needed for: {names}; 'sudo -n' does not work here"
            host.fix = f"sudo {_own_command()} prep host {options} --yes"


def _own_command() -> str:
    """How to call us from a shell of root's, whose search path is another."""
    beside = Path(sys.executable).with_name("mxc-ops")
    return str(beside) if beside.exists() else "mxc-ops"
