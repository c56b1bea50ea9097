"""How commands speak: JSON documents, tables for people, plain lines for pipes, errors with their fix."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, HelpFormatter, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, NoReturn

from mxc_ops.cli.streams import tell
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from backends.errors import MxcError, Problem

SCHEMA_VERSION = 1
EXIT_USAGE = 64
_COLUMNS = 80


class Parser(ArgumentParser):
    """An argument parser that takes no abbreviations and ends with 64 on a wrong command line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {printable(message)}\n")


class _Help(HelpFormatter):
    """Asks for the terminal's width itself: argparse would import shutil, and with it every compressor."""

    def __init__(self, prog: str, **options: Any) -> None:
        try:
            columns = int(os.environ.get("COLUMNS", "")) or os.get_terminal_size().columns
        except (ValueError, OSError):
            columns = _COLUMNS
        super().__init__(prog, width=columns - 2, **options)


def complete(
    parser: ArgumentParser,
    handler: Callable[[Namespace], int],
    *,
    as_json: str = "answer with one JSON document",
) -> None:
    """Give a command what every command has: ``--json`` and the function that carries it out.

    Parameters
    ----------
    as_json: what ``--json`` does, for its help.
    """
    parser.add_argument("--json", action="store_true", help=as_json)
    parser.set_defaults(handler=handler, parser=parser)


def document(content: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """One JSON document with our `schemaVersion` in front."""
    import json

    return json.dumps(
        {"schemaVersion": SCHEMA_VERSION} | {**content, "schemaVersion": SCHEMA_VERSION}, indent=indent
    )


def print_document(content: Mapping[str, Any]) -> None:
    print(document(content))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, otherwise aligned plain lines without a heading's decoration or colour."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headers, box=box.SIMPLE_HEAD)
        for row in cells:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    lines = [list(headers), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def write_file(name: str, text: str) -> None:
    """Write a file the user named. Raises `MxcError` with the system's reason."""
    try:
        with open(name, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is not needed to start
            file.write(text)
    except (OSError, ValueError) as error:
        from backends.errors import MxcError, Problem

        raise MxcError(Problem("cannot_write", name, str(error))) from error


def report_error(error: MxcError, *, as_json: bool, stream: IO[str] | None = None) -> None:
    """Say why a command failed.

    Parameters
    ----------
    as_json: one line ``{"schemaVersion":1,"error":{…}}`` on `stream` (default: stdout), not text on stderr.
    """
    if as_json:
        print(document({"error": error.as_dict()}, indent=None), file=stream or sys.stdout)
        return
    for problem in error.problems:
        for line in problem_lines(problem):
            tell(line)


def problem_lines(problem: Problem) -> list[str]:
    """What is wrong, then what was expected and how to mend it, indented below it."""
    place = f"{problem.path}: " if problem.path else ""
    lines = [f"mxc-ops: error: {printable(place + problem.message)}"]
    if problem.expected:
        lines.append(f"  expected: {printable(problem.expected)}")
    if problem.fix:
        lines.append(f"  fix: {printable(problem.fix)}")
    return lines


def warn(text: str) -> None:
    tell(f"mxc-ops: warning: {printable(text)}")
