"""`mxc-ops prep`: make hosts ready, look for drift, undo. Plan, confirm, change, report.

Exit codes: 0 ready (as recorded, undone, nothing to do); 1 something failed or could not be reached; 3
changes are pending and were not made; 4 root's rights are missing; 5 not supported; 6 a restart is needed;
7 drifted; 8 another preparation holds the host; 64 wrong command line.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from mxc_ops.cli.output import Parser, complete

if TYPE_CHECKING:
    from mxc_ops.cli.prep_view import View
    from mxc_ops.prep.messages import Request, Task
    from mxc_ops.prep.report import Report


_EVENTS = "one JSON object a line as things happen, the last is the report"


def configure(parser: ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    host = commands.add_parser("host", help="prepare this host, or the hosts of an inventory")
    host.add_argument(
        "--backend",
        action="append",
        metavar="B",
        help="for this backend (default: the inventory's, or bubblewrap)",
    )
    host.add_argument("--feature", action="append", metavar="F", help="and what this feature needs")
    host.add_argument("--item", action="append", metavar="I", help="only this item (may be a pattern)")
    host.add_argument("--launcher", choices=("build", "push"), help="compile programs there, or bring ours")
    add_targets(host)
    _add_changes(host)
    complete(host, _host, as_json=_EVENTS)
    verify = commands.add_parser("verify", help="compare what was changed with what is there now")
    add_targets(verify)
    complete(verify, _verify, as_json=_EVENTS)
    undo = commands.add_parser("undo", help="take back what was changed")
    undo.add_argument("--item", action="append", metavar="I", help="only this item (may be a pattern)")
    undo.add_argument("--force", action="store_true", help="also where the host has drifted")
    add_targets(undo)
    _add_changes(undo)
    complete(undo, _undo, as_json=_EVENTS)
    needs = commands.add_parser("needs", help="what each backend needs of a host")
    needs.add_argument("--backend", action="append", metavar="B", help="of this backend (default: all)")
    needs.add_argument("--markdown", action="store_true", help="as the document that docs/needs.md is")
    complete(needs, _needs)


def add_targets(parser: ArgumentParser) -> None:
    """The flags that say which hosts."""
    parser.add_argument("--inventory", metavar="FILE", help="a pyinfra inventory (default: this host)")
    parser.add_argument(
        "--limit", action="append", metavar="G", help="only this group or host (may be a pattern)"
    )
    parser.add_argument("--exclude", action="append", metavar="H", help="without this group or host")
    parser.add_argument("--parallel", type=_count, default=0, metavar="N", help="so many hosts at once")
    parser.add_argument(
        "--ask-sudo-password", action="store_true", help="ask for the password that sudo wants"
    )
    parser.add_argument("--ask-ssh-password", action="store_true", help="ask for the password that SSH wants")


def _add_changes(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--fail-percent",
        type=_percent,
        default=100,
        metavar="P",
        help="stop when more than so many percent failed",
    )
    parser.add_argument(
        "--wait", type=_count, default=0, metavar="S", help="seconds to wait for another preparation"
    )
    parser.add_argument("--yes", action="store_true", help="make the changes without asking")
    parser.add_argument("--diff", action="store_true", help="show what is and what would be, and text files")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _percent(text: str) -> int:
    number = _count(text)
    if number > 100:
        raise ValueError(text)
    return number


def request_for(options: Namespace, task: Task) -> Request:
    """What the flags ask for. Passwords are asked for on the terminal, so nothing must draw on it yet.

    Raises `UsageError` where nobody can be asked.
    """
    from mxc_ops.prep.messages import Request

    given = vars(options)
    return Request(
        task,
        inventory=options.inventory or "",
        limit=options.limit or (),
        exclude=options.exclude or (),
        parallel=options.parallel,
        fail_percent=given.get("fail_percent", 100),
        wait_s=given.get("wait", 0),
        backends=given.get("backend") or (),
        features=given.get("feature") or (),
        launcher=given.get("launcher") or "",
        items=given.get("item") or (),
        insist=given.get("force", False),
        sudo_password=_password("sudo") if options.ask_sudo_password else "",
        ssh_password=_password("SSH") if options.ask_ssh_password else "",
    )


def _password(of: str) -> str:
    from getpass import getpass

    from backends.errors import Problem, UsageError

    try:
        return getpass(f"password for {of}: ")
    except EOFError:
        problem = "a terminal is needed to be asked for a password"
        raise UsageError(Problem("no_terminal", f"--ask-{of.lower()}-password", problem)) from None


def _host(options: Namespace) -> int:
    from mxc_ops.prep.messages import Task

    return _carry_out(options, Task.PREPARE)


def _verify(options: Namespace) -> int:
    from mxc_ops.prep.messages import Task

    options.yes = options.diff = False
    return _carry_out(options, Task.VERIFY)


def _undo(options: Namespace) -> int:
    from mxc_ops.prep.messages import Task

    return _carry_out(options, Task.UNDO)


def _needs(options: Namespace) -> int:
    from dataclasses import asdict

    from mxc_ops.cli.output import print_document, print_table
    from mxc_ops.prep.choices import Choices
    from mxc_ops.prep.items import needs_of
    from mxc_ops.prep.needs_table import markdown, rows

    needs_of(Choices(options.backend or ()))
    found = rows(options.backend or ())
    if options.json:
        print_document({"needs": [asdict(row) for row in found]})
    elif options.markdown:
        print(markdown(), end="")
    else:
        print_table(
            ("item", "kind", "feature", "what"),
            [(row.item, row.kind, row.feature, row.what) for row in found],
        )
    return 0


def _carry_out(options: Namespace, task: Task) -> int:
    from mxc_ops.cli.prep_view import view
    from mxc_ops.prep.controller import carry_out

    # What draws takes standard output over, and then tells of no terminal.
    somebody_there = not options.json and sys.stdin.isatty() and sys.stdout.isatty()
    request = request_for(options, task)
    with view(options) as shown:

        def approve(plan: Report) -> bool:
            return options.yes or (somebody_there and _ask(plan, shown))

        report = carry_out(request, approve=approve, on_event=shown.event)
    shown.report(report)
    return report.exit_code


def _ask(plan: Report, shown: View) -> bool:
    """Show the plan and ask."""
    shown.plan(plan)
    try:
        return input("Make these changes? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
    finally:
        shown.resume()
