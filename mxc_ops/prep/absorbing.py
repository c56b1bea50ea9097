"""From the worker's messages to a report. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxc_ops.prep.messages import Event, Message, Task
from mxc_ops.prep.report import HostReport, HostState, ItemReport, ItemState, Report

__all__ = ["absorb"]

_VERDICTS = {
    Event.UNREACHABLE: HostState.UNREACHABLE,
    Event.UNSUPPORTED: HostState.UNSUPPORTED,
    Event.INVALID: HostState.FAILED,
    Event.HELD: HostState.HELD,
    Event.STOPPED: HostState.STOPPED,
}
_OF_NO_ITEMS = {
    Task.PREPARE: (HostState.NOTHING_TO_DO, "nothing of what was asked for is needed here"),
    Task.VERIFY: (HostState.AS_RECORDED, "nothing is recorded here"),
    Task.UNDO: (HostState.UNDONE, "nothing is recorded here"),
}


def absorb(report: Report, message: Message) -> None:
    """Add what a message tells to the report."""
    data = message.data
    if not message.host:
        if message.event is Event.HOSTS:
            report.hosts.update({name: HostReport(name) for name in data["names"]})
        elif message.event is Event.INVALID:
            report.problem, report.fix, report.usage = data["message"], data["fix"], data["usage"]
        return
    host = report.hosts.setdefault(message.host, HostReport(message.host))
    match message.event:
        case Event.HOST:
            host.distribution, host.elevation = data["distribution"], data["elevation"]
        case Event.PLANNED:
            host.items = {entry["item"]: _planned(entry, report.task) for entry in data["items"]}
            if not host.items and host.verdict is None:
                host.verdict, host.problem = _OF_NO_ITEMS[report.task]
        case Event.DUE:
            host.items |= {entry["item"]: _planned(entry, report.task) for entry in data["items"]}
        case Event.RESTART:
            host.restart = data["message"]
        case Event.PROBED:
            host.probes = data["probes"]
            if report.task is Task.EXAMINE and host.probes_of("warning") and not host.broken:
                host.verdict = HostState.READY_WITH_WARNINGS
        case event if event in _VERDICTS:
            host.verdict, host.problem, host.fix = _VERDICTS[event], data["message"], data.get("fix", "")
        case _:
            _progress(host, message.event, data, report.task)


def _planned(entry: Mapping[str, Any], task: Task) -> ItemReport:
    if entry["verdict"]:
        state = ItemState(entry["verdict"])
    elif entry["message"]:
        state = ItemState.REFUSED
    elif task is Task.UNDO:
        state = ItemState.WOULD_UNDO
    else:
        state = ItemState.WOULD_CHANGE if entry["changes"] else ItemState.AS_WANTED
    return ItemReport(
        entry["item"],
        entry["kind"],
        entry["why"],
        entry["privilege"],
        entry["before"],
        entry["after"],
        state,
        entry["message"],
        entry["fix"],
        entry["notice"],
        entry["restart"],
        list(entry["files"]),
    )


def _progress(host: HostReport, event: Event, data: Mapping[str, Any], task: Task) -> None:
    item = host.items.get(data.get("item", ""))
    if item is None:
        return
    if event is Event.CHANGED and not data["changed"]:
        item.state = ItemState.NOTHING_LEFT if task is Task.UNDO else ItemState.AS_WANTED
    elif event is Event.CHANGED:
        item.state = ItemState.UNDONE if task is Task.UNDO else ItemState.CHANGED
    elif event is Event.FAILED:
        item.state, item.message, item.fix = ItemState.FAILED, data["message"], data["fix"]
    elif event is Event.CHECKED and item.state is ItemState.CHANGED and not data["settled"]:
        item.state, item.message = ItemState.NOT_SETTLED, f"still: {data['before']}"
