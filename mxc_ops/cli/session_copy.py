"""`mxc-ops session cp`: files and directories into a sandbox that runs, and out of it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from backends.errors import Problem, UsageError
from mxc_ops.cli.output import complete, print_document

_MAX_MIB = 1024


def configure(commands: Any) -> None:
    copy = commands.add_parser("cp", help="copy files and directories into a sandbox, or out of it")
    copy.usage = "mxc-ops session cp [OPTIONS] SRC ID:/DST | ID:/SRC DST"
    add = copy.add_argument
    add("source", metavar="SRC", help="a path, or one inside a sandbox: an id, its beginning or a name, :/…")
    add("destination", metavar="DST", help="the other; in a directory that exists it keeps its name")
    add("--max", type=int, default=_MAX_MIB, metavar="MIB", help=f"refuse more, by default {_MAX_MIB}")
    complete(copy, _copy)


def _copy(options: Namespace) -> int:
    source, source_path = _split(options.source)
    destination, destination_path = _split(options.destination)
    if bool(source) == bool(destination):
        expected = "one path of the host, and one inside a sandbox, ID:/PATH"
        message = "a copy goes from the host into a sandbox, or the other way"
        raise UsageError(Problem("usage", "SRC DST", message, expected=expected))
    from mxc_ops.session.session import Session

    session = Session.attach(source or destination)
    if destination:
        copied = session.put(source_path, destination_path, max_mib=options.max)
    else:
        copied = session.get(source_path, destination_path, max_mib=options.max)
    if options.json:
        print_document({"bytes": copied.bytes, "entries": copied.entries})
    return 0


def _split(text: str) -> tuple[str, str]:
    """(which sandbox, path in it); "" and the path for one of the host, which begins with ``/`` or ``.``."""
    sandbox, colon, path = text.partition(":/")
    if not colon or text.startswith(("/", ".")):
        return "", text
    return sandbox, f"/{path}"
