"""How a preparation is shown: live on a terminal, plain lines on a pipe, NDJSON with ``--json``."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mxc_ops.cli.prep_report import print_report
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from mxc_ops.prep.messages import Message
    from mxc_ops.prep.report import Report


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
