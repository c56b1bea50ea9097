"""The report of a preparation as text: every host's items and troubles, then one summary."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from mxc_ops.cli.output import print_table
from mxc_ops.cli.text import printable
from mxc_ops.prep.report import HostReport, ItemReport, ItemState, Report

__all__ = ["print_report"]

_PLANNED = (ItemState.WOULD_CHANGE, ItemState.WOULD_UNDO)


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
    # A plan says what would become of what; afterwards that would be of no use but in differences.
    is_plan = any(item.state in _PLANNED for item in host.items.values())
    headers = ("item", "state", "is", "wanted") if diff or is_plan else ("item", "state")
    rows = [
        (item.identifier, item.state.value, item.before, item.after if item.after != item.before else "")
        for item in host.items.values()
    ]
    print_table(headers, [row[: len(headers)] for row in rows])
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
    told += [
        (f"{probe['identifier']}: {probe['health']}: {probe['seen']}", probe["fix"])
        for probe in host.probes
        if probe["health"] != "ok"
    ]
    for problem, fix in told:
        if problem:
            yield f"  {printable(problem)}"
        if fix:
            yield f"    fix: {printable(fix)}"
    if host.probes and not host.broken:
        yield f"  tried out: {len(host.probes)} checks"
    if host.log:
        yield f"  log: {printable(host.log)}"


def _summary(report: Report) -> list[tuple[str, ...]]:
    changed = (ItemState.CHANGED, ItemState.UNDONE)
    good = (ItemState.AS_WANTED, ItemState.AS_RECORDED, ItemState.NOTHING_LEFT)
    rows: list[tuple[str, ...]] = []
    for host in report.hosts.values():
        counts = [len(host.in_state(*changed)), len(host.in_state(*good))]
        wrong = len(host.items) - sum(counts)
        rows.append((host.name, host.state.value, str(counts[0]), str(counts[1]), str(wrong)))
    return rows
