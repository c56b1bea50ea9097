"""How a build is told: one changing line on a terminal, else a line for each step; nothing with --json."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mxc_ops.cli.streams import tell
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from vm_images.build import Report


@contextmanager
def progress(*, as_json: bool) -> Generator[Report]:
    """What a build tells its steps to. Everything goes to standard error."""
    if as_json:
        yield lambda _step: None
        return
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield lambda step: tell(printable(step))
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        line = shown.add_task("beginning", total=None)
        yield lambda step: shown.update(line, description=printable(step))
