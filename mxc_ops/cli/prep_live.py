"""A preparation on a terminal: one line for each host that is being worked on, then the report.

Only this module draws, and only when both streams are a terminal.
"""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from mxc_ops.cli.prep_report import print_report
from mxc_ops.cli.text import printable
from mxc_ops.prep.messages import Event, Message
from mxc_ops.prep.report import Report

__all__ = ["Live"]

_SHOWN = 12  # more hosts than that at once scroll a screen away; the others are counted
_OVER = {
    *(Event.UNREACHABLE, Event.UNSUPPORTED, Event.INVALID, Event.PLANNED, Event.FAILED),
    *(Event.HELD, Event.STOPPED, Event.PROBED),
}


class Live:
    """Shows progress while it is entered.

    Parameters
    ----------
    diff: whether the report shows what is, what would be and text files.
    """

    def __init__(self, *, diff: bool) -> None:
        self._diff = diff
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[host]}"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._left: dict[str, int] = {}

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def event(self, message: Message, report: Report) -> None:
        """Keep the lines true to what happens."""
        if message.event is Event.HOSTS:
            for name in report.hosts:
                self._show(name, "connecting")
        elif message.event is Event.ASK:
            for name in list(self._tasks):
                self._drop(name)
        elif message.event is Event.STARTED:
            self._left.setdefault(
                message.host, sum(1 for host, _ in report.pending() if host.name == message.host)
            )
            self._show(message.host, f"{message.data['item']} ({self._left[message.host]} to go)")
        elif message.event is Event.CHANGED:
            self._left[message.host] -= 1
            if self._left[message.host] <= 0:
                self._show(message.host, "looking whether it holds")
        elif message.event is Event.CHECKED and not report.hosts[message.host].items:
            self._drop(message.host)
        if message.event in _OVER:
            self._drop(message.host)

    def _show(self, host: str, what: str) -> None:
        if host in self._tasks:
            self._progress.update(self._tasks[host], description=printable(what))
        elif len(self._tasks) < _SHOWN:
            self._tasks[host] = self._progress.add_task(
                printable(what), host=Text(printable(host)), total=None
            )

    def _drop(self, host: str) -> None:
        task = self._tasks.pop(host, None)
        if task is not None:
            self._progress.remove_task(task)

    def plan(self, report: Report) -> None:
        """The plan, before the question: the lines stand still meanwhile."""
        self._progress.stop()
        print_report(report, diff=self._diff)

    def resume(self) -> None:
        """After the question."""
        self._progress.start()

    def report(self, report: Report) -> None:
        """The end."""
        self._progress.stop()
        print_report(report, diff=self._diff)
