"""Commands of sandboxes that run: attached, with a shell, or detached and looked after later."""

from __future__ import annotations

import os
import signal as signals
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from backends.errors import ConfigError, MxcError, Problem, UsageError
from backends.guest_etc import INSIDE_ID
from mxc_ops.cli.output import complete, document, print_document, print_table, report_error, warn
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mxc_ops.session.session import Session

EXIT_USAGE = 64
EXIT_REFUSED = 125
EXIT_TIMED_OUT = 124
_POLL_S = 0.2
_CHUNK = 65536
_LOGIN = f"""
while IFS=: read -r _ _ uid _ _ home shell; do
    [ "$uid" = {INSIDE_ID} ] && break
done 2>/dev/null </etc/passwd
[ "$uid" = {INSIDE_ID} ] && [ -x "$shell" ] || shell=/bin/sh
[ "$uid" = {INSIDE_ID} ] && [ -d "$home" ] || home=/
export HOME="${{HOME:-$home}}" SHELL="$shell"; unset uid home; exec "$shell" -l
"""
"""The shell that the sandbox's own table of users names, as at a login."""


def configure(commands: Any) -> None:
    run = commands.add_parser("exec", help="run one command in a sandbox, on our own standard streams")
    run.usage = "mxc-ops session exec [OPTIONS] ID -- CMD..."
    _sandbox(run)
    add = run.add_argument
    add("--env", action="append", default=[], metavar="K=V", help="variable, besides the sandbox's own")
    add("--cwd", default="", metavar="DIR", help="working directory inside")
    add("--timeout", type=float, metavar="S", help="seconds until the command is ended")
    add("--tty", action="store_true", help="give the command a terminal")
    add("--detach", action="store_true", help="leave it running; its number is printed")
    complete(run, _exec, as_json="one JSON document: the result on stderr, with --detach the job on stdout")
    shell = commands.add_parser("shell", help="a login shell in a sandbox, on our terminal")
    _sandbox(shell)
    complete(shell, _shell)
    _job_command(commands, "ps", "detached commands", _ps, job=False)
    _job_command(commands, "wait", "wait for a detached command, and exit as it did", _wait)
    logs = _job_command(commands, "logs", "the end of what a detached command wrote", _logs)
    logs.add_argument("--follow", "-f", action="store_true", help="until it has ended")
    kill = _job_command(commands, "kill", "signal a detached command", _kill)
    kill.add_argument("--signal", default="TERM", metavar="NAME", help="by default TERM")


def _sandbox(parser: ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="an id, its beginning, or a name")


def _job_command(commands: Any, name: str, what: str, handler: Any, *, job: bool = True) -> ArgumentParser:
    parser: ArgumentParser = commands.add_parser(name, help=what)
    _sandbox(parser)
    if job:
        parser.add_argument("job", type=int, metavar="JOB", help="its number")
    complete(parser, handler)
    return parser


def _exec(options: Namespace) -> int:
    if not options.command:
        raise UsageError(Problem("usage", "", "name a command after --"))
    if options.detach and options.tty:
        raise UsageError(Problem("usage", "--detach", "a terminal is for whoever is attached to it"))
    try:
        return _detach(options) if options.detach else _attached(options, options.command)
    except MxcError as error:
        report_error(error, as_json=False)
        return EXIT_USAGE if isinstance(error, (ConfigError, UsageError)) else EXIT_REFUSED


def _shell(options: Namespace) -> int:
    options.cwd, options.timeout, options.tty = "", None, sys.stdin.isatty()
    ours = os.environ.get("TERM", "")
    options.env = [f"TERM={ours}"] if options.tty and ours else []
    try:
        return _attached(options, ["/bin/sh", "-c", _LOGIN])
    except MxcError as error:
        report_error(error, as_json=False)
        return EXIT_REFUSED


def _attached(options: Namespace, command: list[str]) -> int:
    from mxc_ops.cli.foreground import run_in_foreground
    from mxc_ops.cli.signals import Interrupted

    session = _session(options)
    with session.prepared(command, session.policy(**_changes(options))) as prepared:
        try:
            result = run_in_foreground(prepared)
        except Interrupted as interrupted:
            return interrupted.exit_code
    if options.json:
        told = {name: value for name, value in result.as_dict().items() if name not in ("stdout", "stderr")}
        print(document(told, indent=None), file=sys.stderr)
    return result.exit_code


def _detach(options: Namespace) -> int:
    job = _session(options).detach(options.command, **_changes(options))
    if options.json:
        print_document(job)
    else:
        print(job["job"])
    return 0


def _changes(options: Namespace) -> dict[str, Any]:
    """What the flags say of one command."""
    pairs = [entry.partition("=") for entry in options.env]
    if any(not name or not equals for name, equals, _ in pairs):
        raise UsageError(Problem("usage", "--env", "a variable is written K=V"))
    changes: dict[str, Any] = {"timeout_s": options.timeout, "cwd": options.cwd, "tty": options.tty}
    changes["env"] = {name: value for name, _, value in pairs}
    return {name: value for name, value in changes.items() if value}


def _session(options: Namespace) -> Session:
    from mxc_ops.session.session import Session

    return Session.attach(options.id)


def _ps(options: Namespace) -> int:
    jobs = _session(options).jobs()
    if options.json:
        print_document({"jobs": jobs})
        return 0
    rows = [(str(job["job"]), _state(job), _since(job), " ".join(job["args"])) for job in jobs]
    print_table(("job", "state", "started", "command"), rows)
    return 0


def _state(job: Mapping[str, Any]) -> str:
    if job["lost"]:
        return "lost"
    if job["status"] is None:
        return "running"
    code = os.waitstatus_to_exitcode(job["status"])
    return f"exited {code}" if code >= 0 else f"signal {-code}"


def _since(job: Mapping[str, Any]) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(job["started"]))


def _wait(options: Namespace) -> int:
    try:
        job = _session(options).wait(options.job)
    except MxcError as error:
        report_error(error, as_json=options.json)
        return EXIT_REFUSED
    if options.json:
        print_document(job)
    if job["lost"]:
        warn(printable(job["lost"]))
        return EXIT_REFUSED
    if job["timedOut"]:
        return EXIT_TIMED_OUT
    code = os.waitstatus_to_exitcode(job["status"])
    return code if code >= 0 else 128 - code


def _logs(options: Namespace) -> int:
    session = _session(options)
    sent = {"out": 0, "err": 0}
    while True:
        running = options.follow and session.job(options.job)["ended"] is None
        for channel, target in (("out", 1), ("err", 2)):
            data, sent[channel] = session.log(options.job, channel, sent[channel])
            _copy(data, target)
        if not running:
            return 0
        time.sleep(_POLL_S)


def _copy(data: bytes, target: int) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest[:_CHUNK]) :]


def _kill(options: Namespace) -> int:
    name = options.signal.removeprefix("SIG")
    numbers = {str(int(number)): int(number) for number in (0, *signals.valid_signals())}
    try:
        number = numbers[name] if name.isdigit() else signals.Signals[f"SIG{name}"].value
    except KeyError:
        raise UsageError(Problem("usage", "--signal", f"no signal is called {options.signal!r}")) from None
    job = _session(options).kill(options.job, number)
    if options.json:
        print_document(job)
    return 0
