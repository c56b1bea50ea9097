"""`mxc-ops doctor`: what works on this host, or on those of an inventory, proved by doing it, and how to mend
what does not.

Exit codes: 0 ready, 1 something does not work or a host cannot be reached, 2 ready with warnings.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mxc_ops.cli.output import complete, print_document, print_table
from mxc_ops.cli.prep import add_targets, request_for
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mxc_ops.prep.messages import Message
    from mxc_ops.prep.report import HostReport, Report

_HEALTHS = ("ok", "warning", "failed")
_OF_INVENTORIES = ("limit", "exclude", "parallel", "ask_sudo_password", "ask_ssh_password")


def configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        action="append",
        metavar="B",
        help="look at this backend (default: the inventory's, or what runs without a name)",
    )
    parser.add_argument(
        "--feature",
        action="append",
        metavar="F",
        help="not ready without this feature (default: the inventory's, or none)",
    )
    add_targets(parser)
    complete(parser, _doctor)


def _doctor(options: Namespace) -> int:
    return _inventory(options) if options.inventory else _this_host(options)


def _this_host(options: Namespace) -> int:
    from backends.errors import Problem, UsageError
    from mxc_ops.doctor import examine
    from mxc_ops.fixes import for_this_host

    for name in _OF_INVENTORIES:
        if getattr(options, name):
            flag = f"--{name.replace('_', '-')}"
            problem = "it is for the hosts of an inventory, and none is given"
            raise UsageError(Problem("inventory_missing", flag, problem, expected="--inventory FILE"))
    report = examine(options.backend or (), options.feature or ())
    probes = [
        {
            "identifier": probe.identifier,
            "health": probe.health.value,
            "seen": probe.seen,
            "why": probe.why,
            "fix": for_this_host(probe.fix, probe.privilege),
            "privilege": probe.privilege,
        }
        for probe in report.probes
    ]
    if options.json:
        print_document({"exitCode": report.exit_code, "probes": probes})
    else:
        _print_probes(probes)
    return report.exit_code


def _print_probes(probes: Sequence[dict[str, str]]) -> None:
    """What was seen as a table, then what is wrong with its fix."""
    print_table(
        ("check", "health", "seen"),
        [(probe["identifier"], probe["health"], probe["seen"]) for probe in probes],
    )
    for probe in probes:
        if probe["health"] != "ok":
            print(f"{printable(probe['identifier'])}: {printable(probe['why'])}")
            mended = f"fix ({probe['privilege']}): {probe['fix']}"
            by_hand = f"no command mends it, but {probe['privilege']} can"
            print(f"  {printable(mended if probe['fix'] else by_hand)}")


def _inventory(options: Namespace) -> int:
    from backends.errors import PrepFailed, Problem, UsageError
    from mxc_ops.prep.controller import carry_out
    from mxc_ops.prep.messages import Task

    request = request_for(options, Task.EXAMINE)
    with _progress(as_json=options.json) as on_event:
        report = carry_out(request, approve=lambda _plan: False, on_event=on_event)
    if report.problem:
        problem = Problem("inventory_unusable", "--inventory", report.problem, fix=report.fix)
        raise UsageError(problem) if report.usage else PrepFailed(problem)
    if options.json:
        hosts = [_document(host) for host in report.hosts.values()]
        print_document({"exitCode": report.exit_code, "hosts": hosts})
    else:
        _print_hosts(report)
    return report.exit_code


@contextmanager
def _progress(*, as_json: bool) -> Generator[Callable[[Message, Report], None] | None]:
    """A line for each host that is being examined, where a person looks on."""
    if as_json or not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield None
        return
    from mxc_ops.cli.prep_live import Live

    with Live(diff=False) as live:
        yield live.event


def _document(host: HostReport) -> dict[str, object]:
    return {
        "host": host.name,
        "state": host.state.value,
        "probes": host.probes,
        "problem": host.problem,
        "fix": host.fix,
    }


def _print_hosts(report: Report) -> None:
    for host in report.hosts.values():
        distribution = f" ({printable(host.distribution)})" if host.distribution else ""
        print(f"{printable(host.name)}{distribution}: {host.state.value}")
        if host.probes:
            _print_probes(host.probes)
        if host.problem:
            print(f"  {printable(host.problem)}")
        if host.fix:
            print(f"  fix: {printable(host.fix)}")
        print()
    rows = [
        (host.name, host.state.value, *(str(len(host.probes_of(health))) for health in _HEALTHS))
        for host in report.hosts.values()
    ]
    print_table(("host", "state", *_HEALTHS), rows)
