"""`mxc-ops session`: sandboxes that stay between commands.

Exit codes: 0 done; 1 it failed; of ``exec`` and ``wait``: the command's own (128 + n when signal n ended it),
124 timed out, 125 refused or failed before the start.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from backends.errors import MxcError, Problem, UsageError
from mxc_ops.cli import session_copies, session_copy, session_jobs, session_network, session_ports
from mxc_ops.cli.output import Parser, complete, print_document, print_table, warn
from mxc_ops.cli.run_flags import add_policy_flags, given_flags
from mxc_ops.cli.text import conflict_text, printable

if TYPE_CHECKING:
    from backends.sessions import Settled
    from mxc_ops.policy_builder import Policy
    from mxc_ops.session.entry import Entry
    from mxc_ops.session.record import Lease

_SHOWN_DIGITS = 12


def configure(parser: ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _configure_provision(commands.add_parser("provision", help="keep a sandbox with a policy, for good"))
    for name, handler, what in (
        ("start", _start, "start sandboxes"),
        ("stop", _stop, "end everything that runs in sandboxes; they may be started again"),
        ("suspend", _suspend, "have everything in sandboxes stand still"),
        ("resume", _resume, "let what was suspended go on"),
        ("deprovision", _deprovision, "stop sandboxes and remove them"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("ids", nargs="+", metavar="ID", help="an id, its beginning, or a name")
        if handler in (_stop, _deprovision):
            command.add_argument(
                "--discard",
                action="store_true",
                help="what a virtual machine changed in copies of the host's files is not brought back",
            )
        if name == "start":
            told = "go on where it was in that snapshot of it"
            command.add_argument("--from", dest="snapshot", default="", metavar="NAME", help=told)
        complete(command, handler)
    session_jobs.configure(commands)
    session_copy.configure(commands)
    session_copies.configure(commands)
    session_ports.configure(commands)
    session_network.configure(commands)
    complete(commands.add_parser("list", help="the sandboxes of whoever you are"), _list)
    inspect = commands.add_parser("inspect", help="all that is known of a sandbox")
    inspect.add_argument("id", metavar="ID", help="an id, its beginning, or a name")
    complete(inspect, _inspect)
    gc = commands.add_parser("gc", help="put right, and remove, what killed processes left")
    gc.add_argument("--force", action="store_true", help="also sandboxes whose record cannot be read")
    complete(gc, _gc)


def _configure_provision(parser: ArgumentParser) -> None:
    parser.usage = "mxc-ops session provision [OPTIONS] [CONFIG | -] [POLICY]"
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="its policy; - is standard input")
    parser.add_argument("--name", default="", metavar="N", help="a name besides its id")
    parser.add_argument("--idle", type=int, default=0, metavar="S", help="end it when unused for so long")
    parser.add_argument("--lifetime", type=int, default=0, metavar="S", help="end it when so old")
    what = "let ports of this host lead into it: see port"
    parser.add_argument("--host-loopback", action="store_true", help=what)
    add_policy_flags(parser)
    complete(parser, _provision)


def _provision(options: Namespace) -> int:
    from mxc_ops.session.service import Sessions

    entry = Sessions().provision(_policy(options), name=options.name, lease=_lease(options))
    _tell([entry], as_json=options.json)
    return 0


def _policy(options: Namespace) -> Policy:
    from mxc_ops.cli.run_flags import policy_from_flags

    if options.config is None:
        return policy_from_flags(options).replace(host_loopback=options.host_loopback)
    given = given_flags(options) or (["--host-loopback"] if options.host_loopback else [])
    if given:
        raise UsageError(Problem("usage", given[0], "a CONFIG says its policy itself", fix="write it there"))
    from mxc_ops.cli.source import read_source
    from mxc_ops.policy_builder import Policy

    return Policy.from_config(read_source(options.config))


def _lease(options: Namespace) -> Lease | None:
    from mxc_ops.session.record import Lease

    if options.idle < 0 or options.lifetime < 0:
        raise UsageError(Problem("usage", "--idle", "a time limit is a number of seconds, 0 for none"))
    return Lease(options.idle, options.lifetime) if options.idle or options.lifetime else None


def _start(options: Namespace) -> int:
    from mxc_ops.session.service import Sessions

    service = Sessions()
    return _each(options, lambda text: service.start(text, options.snapshot))


def _stop(options: Namespace) -> int:
    from mxc_ops.session.service import Sessions

    service = Sessions()

    def stop(text: str) -> Entry:
        stopped = service.stop(text, discard=options.discard)
        _tell_settled(stopped.settled)
        return stopped.entry

    return _each(options, stop)


def _suspend(options: Namespace) -> int:
    from mxc_ops.session.session import Session

    return _each(options, lambda text: Session.attach(text).suspend())


def _resume(options: Namespace) -> int:
    from mxc_ops.session.session import Session

    return _each(options, lambda text: Session.attach(text).resume())


def _deprovision(options: Namespace) -> int:
    from mxc_ops.session.service import Sessions

    service = Sessions()
    return _each(options, lambda text: _tell_settled(service.deprovision(text, discard=options.discard)))


def _tell_settled(settled: Settled) -> None:
    for text in (*settled.warnings, *map(conflict_text, settled.conflicts)):
        warn(printable(text))


def _each(options: Namespace, phase: Callable[[str], Entry | None]) -> int:
    """All of them, whatever becomes of one; the errors last."""
    done: list[Entry] = []
    errors: list[MxcError] = []
    for text in options.ids:
        try:
            entry = phase(text)
        except MxcError as error:
            errors.append(error)
        else:
            if entry is not None:
                done.append(entry)
    if errors and len(options.ids) == 1:
        raise errors[0]
    if options.json:
        told = [error.as_dict() for error in errors]
        print_document({"sandboxes": [entry.as_dict() for entry in done], "errors": told})
    for error in () if options.json else errors:
        warn(str(error))
    return 1 if errors else 0


def _tell(entries: list[Entry], *, as_json: bool) -> None:
    if as_json:
        print_document({"sandboxes": [entry.as_dict() for entry in entries]})
        return
    for entry in entries:
        print(entry.id)


def _list(options: Namespace) -> int:
    from mxc_ops.session.record import Unreadable
    from mxc_ops.session.store import Store

    found = Store().entries()
    broken = [one for one in found if isinstance(one, Unreadable)]
    entries = [one for one in found if not isinstance(one, Unreadable)]
    if options.json:
        problems = [{"path": one.path, "reason": one.reason, "why": one.why} for one in broken]
        print_document({"sandboxes": [entry.as_dict() for entry in entries], "unreadable": problems})
        return 0
    rows = [
        (
            f"{entry.id.partition(':')[0]}:{entry.record.tail[:_SHOWN_DIGITS]}",
            entry.record.name or "-",
            entry.record.containment,
            entry.state,
            entry.last_used,
        )
        for entry in entries
    ]
    print_table(("id", "name", "containment", "state", "last used"), rows)
    for one in broken:
        warn(f"{printable(one.path)} {printable(one.why)}")
    return 0


def _inspect(options: Namespace) -> int:
    from mxc_ops.session.service import Sessions

    print_document(Sessions().inspect(options.id))
    return 0


def _gc(options: Namespace) -> int:
    from mxc_ops.session.service import Sessions

    swept = Sessions().gc(force=options.force)
    if options.json:
        kept = [{"path": path, "why": why} for path, why in swept.kept]
        print_document({"removed": list(swept.removed), "kept": kept, "warnings": list(swept.warnings)})
        return 0
    for path in swept.removed:
        print(f"removed {printable(path)}")
    for path, why in swept.kept:
        warn(f"{printable(path)} {printable(why)}")
    for text in swept.warnings:
        warn(printable(text))
    return 0
