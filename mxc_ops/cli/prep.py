"""`mxc-ops prep host`: make this host ready for a backend. Plan, confirm, change, report.

Exit codes: 0 ready, 1 something failed, 3 changes are pending and were not made, 4 root's rights are missing,
5 this distribution is not supported.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from mxc_ops.cli.output import Parser, complete, print_document, print_table
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from mxc_ops.prep.report import HostReport, Report


def configure(parser: ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    host = commands.add_parser("host", help="prepare this host")
    host.add_argument("--backend", action="append", metavar="B", help="for this backend; by default for all")
    host.add_argument("--yes", action="store_true", help="make the changes without asking")
    host.add_argument("--diff", action="store_true", help="show what is and what would be, item by item")
    complete(host, _host)


def _host(options: Namespace) -> int:
    from backends.registry import available
    from mxc_ops.prep.host import prepare_host

    def approve(plan: Report) -> bool:
        return options.yes or (not options.json and _ask(plan, diff=options.diff))

    report = prepare_host(options.backend or list(available()), approve=approve)
    if options.json:
        print_document(report.as_dict())
    else:
        _print(report, diff=options.diff)
    return report.exit_code


def _ask(plan: Report, *, diff: bool) -> bool:
    """Show the plan and ask, where there is somebody to ask."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    _print(plan, diff=diff)
    try:
        return input("Make these changes? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _print(report: Report, *, diff: bool) -> None:
    for host in report.hosts.values():
        distribution = f" ({host.distribution})" if host.distribution else ""
        print(f"{printable(host.name)}{printable(distribution)}: {host.state.value}")
        _print_items(host, diff=diff)
        _print_troubles(host)


def _print_items(host: HostReport, *, diff: bool) -> None:
    if not host.items:
        return
    headers = ("item", "state", "is", "wanted") if diff else ("item", "state")
    rows = [
        (item.identifier, item.state.value, item.before, item.after)[: len(headers)]
        for item in host.items.values()
    ]
    print_table(headers, rows)


def _print_troubles(host: HostReport) -> None:
    troubles = [(host.problem, host.fix)]
    troubles += [
        (f"{item.identifier}: {item.message}", item.fix) for item in host.items.values() if item.message
    ]
    for problem, fix in troubles:
        if problem:
            print(f"  {printable(problem)}")
        if fix:
            print(f"    fix: {printable(fix)}")
