"""The parent's side of host preparation: start the worker, show the plan, ask, keep logs, report."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from backends.errors import PrepFailed, Problem
from mxc_ops.fixes import own_command
from mxc_ops.prep.absorbing import absorb
from mxc_ops.prep.choices import Choices
from mxc_ops.prep.items import needs_of
from mxc_ops.prep.logs import HostLogs
from mxc_ops.prep.messages import Answer, Event, Message, Request, Task
from mxc_ops.prep.report import HostReport, HostState, ItemState, Report

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["THIS_HOST", "carry_out"]

THIS_HOST = "@local"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SOURCES = Path(__file__).resolve().parents[2]
_ENDED_S = 5
_WINDOWS_HOSTS = "@mxcwin/"


def carry_out(
    request: Request,
    *,
    approve: Callable[[Report], bool],
    on_event: Callable[[Message, Report], None] | None = None,
) -> Report:
    """Prepare, verify, undo or examine hosts: plan, ask, change, check again.

    Parameters
    ----------
    approve: is given the plan when something would change and can be changed; True has it done.
    on_event: is told everything as it happens, with the report so far.

    Raises `UnsupportedContainment` for a backend that cannot be prepared, `PrepFailed` when the worker breaks
    or pyinfra is not installed. What goes wrong on a host stands in the report.
    """
    needs_of(Choices(request.backends, request.features))
    request = replace(request, controller=request.controller or _ourselves())
    report = Report(request.task)
    logs = HostLogs()
    with _worker() as (worker, send):
        send(request.encode())
        for message in _messages(worker):
            absorb(report, message)
            logs.add(message)
            if on_event:
                on_event(message, report)
            if message.event is Event.ASK:
                _refuse_unprivileged(report, request)
                applicable = [
                    host.name for host in report.hosts.values() if host.state is HostState.CHANGES_PENDING
                ]
                wanted = bool(applicable) and approve(report)
                send(Answer(applicable if wanted else []).encode())
                if wanted:
                    logs.keep(report)
    return report


def _ourselves() -> str:
    """Who prepares, for receipts and for whoever waits for us; the process id makes it unique."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a uid without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


@contextmanager
def _worker() -> Generator[tuple[Popen[str], Callable[[str], None]]]:
    """The worker process, in a session of its own so that all it started can be ended with it.

    ``-P``: nothing is imported from the directory that we happen to be in.
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
            try:
                worker.stdin.write(line)
                worker.stdin.flush()
            except BrokenPipeError:
                _end(worker)
                raise PrepFailed(_broken(log)) from None

        try:
            yield worker, send
            if worker.wait() != 0:
                raise PrepFailed(_broken(log))
        finally:
            _end(worker)


def _end(worker: Popen[str]) -> None:
    """What runs on a host goes on there until its own deadline, and completes its record."""
    import subprocess

    if worker.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(worker.pid, number)
        try:
            worker.wait(_ENDED_S)
            return
        except subprocess.TimeoutExpired:
            continue


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


def _refuse_unprivileged(report: Report, request: Request) -> None:
    """Every change needs root, and so does some reading; say so at once rather than fail at the first."""
    for host in report.hosts.values():
        needing = host.in_state(ItemState.WOULD_CHANGE, ItemState.WOULD_UNDO, ItemState.NEEDS_PRIVILEGE)
        wanting = host.state in (HostState.CHANGES_PENDING, HostState.NEEDS_PRIVILEGE)
        if wanting and host.elevation == "none":
            names = ", ".join(item.identifier for item in needing)
            host.problem = _missing_rights(host, names, request)
            host.fix = _elevated_command(host, request)
            host.verdict = HostState.NEEDS_PRIVILEGE


def _missing_rights(host: HostReport, names: str, request: Request) -> str:
    if host.name.startswith(_WINDOWS_HOSTS):
        return f"an administrator is needed for: {names}"
    refused = "sudo refuses the password" if request.sudo_password else "'sudo -n' does not work there"
    return f"root is needed for: {names}; {refused}"


def _elevated_command(host: HostReport, request: Request) -> str:
    if host.name.startswith(_WINDOWS_HOSTS):
        return "let ssh_user in the inventory be an administrator of that host"
    verifies = request.task is Task.VERIFY
    task = "host" if request.task is Task.PREPARE else request.task.value
    here = host.name == THIS_HOST and not request.inventory
    flags: list[tuple[str, Sequence[str]]] = [
        ("--backend", request.backends),
        ("--feature", request.features),
        ("--item", request.items),
        ("--launcher", [request.launcher] if request.launcher else []),
        ("--inventory", [request.inventory] if request.inventory else []),
        ("--limit", [] if here else [host.name]),
    ]
    words = ["sudo", own_command()] if here else ["mxc-ops"]
    words += ["prep", task, *(word for flag, values in flags for value in values for word in (flag, value))]
    words += ["--force"] if request.insist else []
    words += [] if here else ["--ask-sudo-password"]
    words += ["--ask-ssh-password"] if request.ssh_password else []
    return shlex.join([*words, *([] if verifies else ["--yes"])])
