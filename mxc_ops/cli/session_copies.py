"""Copies of sandboxes: made of one that runs, or of a snapshot that is kept of it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from backends.errors import Problem, UsageError
from mxc_ops.cli.output import complete, print_document
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from backends.sessions import Scope

__all__ = ["configure"]


def configure(commands: Any) -> None:
    fork = commands.add_parser("fork", help="copies of a sandbox that runs, with ids of their own")
    fork.add_argument("id", metavar="ID", help="an id, its beginning, or a name")
    fork.add_argument("count", nargs="?", type=int, default=1, metavar="N", help="how many (default: 1)")
    fork.add_argument("--from", dest="snapshot", default="", metavar="NAME", help="of a snapshot of it")
    complete(fork, _fork)
    snapshot = commands.add_parser("snapshot", help="keep a sandbox that runs as it is now")
    snapshot.add_argument("id", metavar="ID", help="an id, its beginning, or a name")
    which = snapshot.add_mutually_exclusive_group()
    which.add_argument("--name", default="", metavar="NAME", help="what to call it (default: a number)")
    which.add_argument("--remove", default="", metavar="NAME", help="remove that one")
    complete(snapshot, _snapshot)


def _fork(options: Namespace) -> int:
    from mxc_ops.session.service import Sessions

    if options.count < 1:
        raise UsageError(Problem("usage", "N", "at least one copy is made"))
    forked = Sessions().fork(options.id, options.count, options.snapshot)
    if options.json:
        made = [entry.as_dict() for entry in forked.entries]
        print_document({"sandboxes": made, **forked.scope.as_dict()})
        return 0
    for entry in forked.entries:
        print(entry.id)
    _tell_scope(forked.scope)
    return 0


def _snapshot(options: Namespace) -> int:
    from mxc_ops.session.service import Sessions

    service = Sessions()
    if options.remove:
        service.remove_snapshot(options.id, options.remove)
        return 0
    made = service.snapshot(options.id, options.name)
    if options.json:
        print_document(made.as_dict())
        return 0
    print(made.name)
    _tell_scope(made.scope)
    return 0


def _tell_scope(scope: Scope) -> None:
    for line in _lines(scope):
        print(line, file=sys.stderr)


def _lines(scope: Scope) -> Iterator[str]:
    yield f"copied: {', '.join(map(printable, scope.copied)) or 'nothing'}"
    yield f"shared: {', '.join(map(printable, scope.shared)) or 'nothing'}"
    yield from map(printable, scope.notes)
