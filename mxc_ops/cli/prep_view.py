"""How a preparation is shown: live on a terminal, plain lines on a pipe, NDJSON with ``--json``."""

from __future__ import annotations

import difflib
import json
import sys
from argparse import Namespace
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mxc_ops.cli.output import print_table
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from mxc_ops.prep.messages import Message
    from mxc_ops.prep.report import HostReport, ItemReport, Report


class View(Protocol):
    def event(self, message: Message, report: Report) -> None:
        """Something happened."""
        ...

    def plan(self, report: Report) -> None:
        """The plan, before the question."""
        ...

    def resume(self) -> None:
        """The question was answered."""
        ...

    def report(self, report: Report) -> None:
        """The end."""
        ...


@contextmanager
def view(options: Namespace) -> Generator[View]:
    """The way that fits the options and the stream."""
    if options.json:
        yield _Lines()
    elif sys.stdout.isatty() and sys.stderr.isatty():
        from mxc_ops.cli.prep_live import Live

        with Live(diff=options.diff) as live:
            yield live
    else:
        yield Plain(diff=options.diff)


class _Lines:
    """One JSON object a line; the last is the report, with ``"event": "report"``."""

    def event(self, message: Message, report: Report) -> None:
        del report
        print(message.encode(), end="", flush=True)

    def plan(self, report: Report) -> None:
        del report

    def resume(self) -> None:
        return

    def report(self, report: Report) -> None:
        print(json.dumps({"event": "report", **report.as_dict()}), flush=True)


class Plain:
    """Lines without colour: one for each step, then every host's items and a summary."""

    def __init__(self, *, diff: bool) -> None:
        self._diff = diff

    def event(self, message: Message, report: Report) -> None:
        from mxc_ops.prep.messages import Event

        told = {Event.CHANGED, Event.FAILED, Event.UNREACHABLE, Event.HELD, Event.STOPPED}
        if len(report.hosts) > 1 and message.event in told:
            detail = message.data.get("item") or message.data.get("message", "")
            print(printable(f"{message.host}: {message.event.value} {detail}"), flush=True)

    def plan(self, report: Report) -> None:
        print_report(report, diff=self._diff)

    def resume(self) -> None:
        return

    def report(self, report: Report) -> None:
        print_report(report, diff=self._diff)


def print_report(report: Report, *, diff: bool) -> None:
    """Every host with what is worth knowing of it, and one summary table when there are several."""
    if report.problem:
        print(f"{printable(report.problem)}\n  fix: {printable(report.fix)}")
    for host in report.hosts.values():
        distribution = f" ({host.distribution})" if host.distribution else ""
        print(f"{printable(host.name)}{printable(distribution)}: {host.state.value}")
        _print_items(host, diff=diff)
        for line in _troubles(host):
            print(line)
    if len(report.hosts) > 1:
        print()
        print_table(("host", "state", "changed", "as wanted", "wrong"), _summary(report))


def _print_items(host: HostReport, *, diff: bool) -> None:
    if not host.items:
        return
    headers = ("item", "state", "is", "wanted") if diff else ("item", "state")
    rows = [
        (item.identifier, item.state.value, item.before, item.after)[: len(headers)]
        for item in host.items.values()
    ]
    print_table(headers, rows)
    if diff:
        for item in host.items.values():
            for line in _file_changes(item):
                print(line)


def _file_changes(item: ItemReport) -> Iterator[str]:
    """Unified differences of the text files that the item changes."""
    for file in item.files:
        before, after = (file[name] or "" for name in ("before", "after"))
        path = file["path"] or ""
        was, would_be = (path if file[name] is not None else "/dev/null" for name in ("before", "after"))
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), was, would_be, lineterm="")
        yield from (printable(line) for line in lines)


def _troubles(host: HostReport) -> Iterator[str]:
    told = [(host.problem, host.fix), (f"restart it: {host.restart}" if host.restart else "", "")]
    for item in host.items.values():
        if item.notice:
            told.append((f"{item.identifier}: note: {item.notice}", ""))
        if item.message:
            told.append((f"{item.identifier}: {item.message}", item.fix))
    for problem, fix in told:
        if problem:
            yield f"  {printable(problem)}"
        if fix:
            yield f"    fix: {printable(fix)}"
    if host.log:
        yield f"  log: {printable(host.log)}"


def _summary(report: Report) -> list[tuple[str, ...]]:
    from mxc_ops.prep.report import ItemState

    changed = (ItemState.CHANGED, ItemState.UNDONE)
    good = (ItemState.AS_WANTED, ItemState.AS_RECORDED, ItemState.NOTHING_LEFT)
    rows: list[tuple[str, ...]] = []
    for host in report.hosts.values():
        counts = [len(host.in_state(*changed)), len(host.in_state(*good))]
        wrong = len(host.items) - sum(counts)
        rows.append((host.name, host.state.value, str(counts[0]), str(counts[1]), str(wrong)))
    return rows
