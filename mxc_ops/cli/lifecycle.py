"""How lifecycle documents are answered, by `mxc-exec` as by `mxc-ops`: one JSON envelope on stdout.

Spec: lifecycle.md §4. ``{"result":…}`` and 0, or ``{"error":…}`` and 1. Only a command that was launched has
standard output to itself; what goes wrong from then on is said on stderr. Warnings are, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from backends.errors import BackendUnavailable, ConfigError, MxcError, Problem
from mxc_ops.cli.source import as_object
from mxc_ops.cli.streams import tell
from mxc_ops.cli.text import conflict_text, printable
from mxc_ops.config.document import RequestKind

if TYPE_CHECKING:
    from backends.base import Handles, Running, SandboxRequest, Streams
    from mxc_ops.config.document import Document
    from mxc_ops.result import Result

EXIT_FAILED = 1

# Behind upstream's --experimental (config-schema.md §2); ids do not tell a microvm from a vm.
_EXPERIMENTAL = frozenset({"microvm"})

Ended = Callable[["SandboxRequest", "Result"], int]
Lost = Callable[[MxcError], int]


def names_phase(source: bytes) -> bool:
    """Whether a document that may be invalid otherwise can be read far enough to be a lifecycle request."""
    import json

    try:
        body = as_object(json.loads(source))
    except (ValueError, RecursionError):
        return False
    return body is not None and body.get("phase") is not None


def take(source: bytes) -> Document | None:
    """Load a document; None for a lifecycle request that cannot be taken, which was answered then.

    Raises `ConfigError` for any other document that is not valid.
    """
    from mxc_ops.config.verdicts import load_cached

    try:
        return load_cached(source)
    except ConfigError as error:
        if not names_phase(source):
            raise
        refuse(error)
        return None


def refuse(error: MxcError) -> int:
    """Answer a request that cannot be taken, or was not carried out; the exit code."""
    from mxc_ops.session.errors import lifecycle_code

    told = {"code": lifecycle_code(error), "message": printable("; ".join(map(_said, error.problems)))}
    fixes = dict.fromkeys(problem.fix for problem in error.problems if problem.fix)
    if fixes:
        told["remediation"] = printable("; ".join(fixes))
    _answer({"error": told})
    return EXIT_FAILED


def _said(problem: Problem) -> str:
    said = f"{problem.path}: {problem.message}" if problem.path else problem.message
    return f"{said}; expected: {problem.expected}" if problem.expected else said


def validate(document: Document, *, experimental: bool = True) -> int:
    """Answer a request that is only to be checked; the exit code. `experimental`: see `serve`."""
    from mxc_ops.session.lifecycle import validate as check

    try:
        _gate(document, experimental=experimental)
        _warn(check(document))
    except MxcError as error:
        return refuse(error)
    _answer({"result": {}})
    return 0


def serve(document: Document, ended: Ended, lost: Lost, *, experimental: bool = True) -> int:
    """Carry out a request and answer it; the exit code.

    Parameters
    ----------
    ended: told of a command that ran to its end; answers the exit code.
    lost: told what went wrong once a command was launched; answers the exit code.
    experimental: whether experimental containments may be provisioned.
    """
    try:
        if document.kind is RequestKind.EXEC:
            return _execute(document, ended, lost)
        _gate(document, experimental=experimental)
        return _carry_out(document)
    except MxcError as error:
        return refuse(error)


def _gate(document: Document, *, experimental: bool) -> None:
    containment = document.body.get("containment")
    if containment in _EXPERIMENTAL and not experimental:
        message = f"the '{containment}' backend is experimental; enable experimental features to use it"
        raise BackendUnavailable(Problem("experimental", "/containment", message, fix="--experimental"))


def _carry_out(document: Document) -> int:
    from mxc_ops.session import lifecycle

    if document.kind is RequestKind.PROVISION:
        # What is refused is named as the document names it, which is not how the policy does.
        _warn(lifecycle.validate(document))
    result, settled = lifecycle.carry_out(document)
    _warn((*settled.warnings, *map(conflict_text, settled.conflicts)))
    try:
        _answer({"result": result})
    except OSError:
        if document.kind is RequestKind.PROVISION:
            _forget(result["sandboxId"])
        raise
    return 0


def _forget(identifier: str) -> None:
    """Nobody was told the id, so nobody would ever deprovision it."""
    from mxc_ops.session.service import Sessions

    with suppress(MxcError):
        Sessions().deprovision(identifier)


def _execute(document: Document, ended: Ended, lost: Lost) -> int:
    from mxc_ops.cli.foreground import run_in_foreground
    from mxc_ops.session.lifecycle import ready_command

    with ready_command(document) as prepared:
        _warn(prepared.warnings)
        launcher: Any = _Launcher(prepared.backend)
        prepared.backend = launcher
        try:
            result = run_in_foreground(prepared)
        except MxcError as error:
            if not launcher.launched:
                raise
            return lost(error)
    return ended(prepared.request, result)


class _Launcher:
    """Launches, and knows whether it did: from then on standard output is the command's."""

    def __init__(self, backend: Any) -> None:
        self.launched = False
        self._backend = backend

    def launch(
        self, plan: Any, handles: Handles, streams: Streams, secrets: tuple[tuple[str, str], ...] = ()
    ) -> Running:
        running = self._backend.launch(plan, handles, streams, secrets)
        self.launched = True
        return running


def _warn(warnings: tuple[str, ...]) -> None:
    for text in warnings:
        tell(printable(f"warning: {text}"))


def _answer(envelope: dict[str, Any]) -> None:
    import json

    print(json.dumps(envelope, separators=(",", ":")))
    sys.stdout.flush()
