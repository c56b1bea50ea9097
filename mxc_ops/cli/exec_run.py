"""What `mxc-exec` runs once a document was taken: as upstream's executor does, one-shot or in a sandbox."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from backends import registry
from backends.errors import ConfigError, MxcError, Problem, UnsupportedContainment
from mxc_ops.cli.foreground import run_in_foreground
from mxc_ops.cli.streams import tell
from mxc_ops.cli.text import conflict_text, printable
from mxc_ops.config.request import build_request
from mxc_ops.one_shot import prepare

if TYPE_CHECKING:
    from backends.base import SandboxRequest
    from mxc_ops.cli.exec_log import ExecLog
    from mxc_ops.config.document import Document
    from mxc_ops.result import Result

EXIT_BACKEND = 255  # upstream's -1, as a shell sees it

_STARTING = {"bubblewrap": "Bubblewrap: spawning bwrap", "lxc": "LXC: starting the container"}

# Behind upstream's --experimental on Linux, in every release (config-schema.md §2).
_EXPERIMENTAL = frozenset({"hyperlight", "microvm"})


def run_one_shot(document: Document, log: ExecLog, *, dry_run: bool, experimental: bool) -> int:
    """Run (or only check) a document; the exit code.

    Raises `UnsupportedContainment` and `ConfigError`: upstream reports those in other ways than what its
    backend refuses, which is reported here.
    """
    _check_containment(document, experimental=experimental)
    started = time.monotonic()
    exit_code, failure, timed_out = 0, "", False
    try:
        request = build_request(document)
        with prepare(request, may_import=not dry_run) as prepared:
            _log_policy(document, request, log)
            if not dry_run:
                log.line(_STARTING.get(request.containment, "Starting the virtual machine"))
                result = run_in_foreground(prepared)
                exit_code, timed_out = result.exit_code, result.timed_out
                _tell_conflicts(result, log)
    except (ConfigError, UnsupportedContainment):
        raise
    except MxcError as error:
        failure = "; ".join(str(problem) for problem in error.problems)
        exit_code = EXIT_BACKEND
    else:
        if timed_out:
            failure = _timed_out(request)
            exit_code = EXIT_BACKEND
    log.line(f"Runner completed in {(time.monotonic() - started) * 1000:.0f}ms")
    if dry_run:
        _tell_dry_run(failure, log)
    else:
        _tell_end(exit_code, failure, log)
        if failure:
            _tell_failure(failure, as_text=not timed_out)
    return exit_code


def conclude(request: SandboxRequest, result: Result) -> int:
    """The exit code of a command that ended in a sandbox of a lifecycle; a timeout is told."""
    if not result.timed_out:
        return result.exit_code
    _tell_failure(_timed_out(request), as_text=False)
    return EXIT_BACKEND


def lose(error: MxcError) -> int:
    """Tell that a command in a sandbox of a lifecycle was lost; the exit code."""
    _tell_failure("; ".join(map(str, error.problems)), as_text=True)
    return EXIT_BACKEND


def _timed_out(request: SandboxRequest) -> str:
    return f"script timed out after {request.timeout.after_ms}ms"


def _check_containment(document: Document, *, experimental: bool) -> None:
    """Refuse, in upstream's words, what its Linux executor refuses before it looks at the policy."""
    containment = registry.resolve_intent(document.body.get("containment"), sys.platform)
    if "linux" not in registry.CONTAINMENTS[containment].platforms:
        message = f"the '{containment}' backend is not available on Linux"
    elif containment in _EXPERIMENTAL and not experimental:
        message = f"the '{containment}' backend is experimental; enable experimental features to use it"
    else:
        return
    raise UnsupportedContainment(Problem("containment_not_available", "/containment", message))


def _log_policy(document: Document, request: SandboxRequest, log: ExecLog) -> None:
    log.event(
        {
            "event": "mxc.PolicyHash",
            "backend": request.containment,
            "policy_hash": str(request.document_hash),
            "config_schema_version": document.declared_version or "",
        }
    )


def _tell_dry_run(failure: str, log: ExecLog) -> None:
    log.line(f"Dry run completed. Result: validation {f'failed: {failure}' if failure else 'passed'}")
    log.show(print)


def _tell_conflicts(result: Result, log: ExecLog) -> None:
    """Files of the user's that are not as the workload left them: never passed over in silence."""
    for conflict in result.conflicts:
        tell(printable(f"warning: {conflict_text(conflict)}"))
        log.line(f"WARNING: {conflict_text(conflict)}")


def _tell_end(exit_code: int, failure: str, log: ExecLog) -> None:
    code = -1 if failure else exit_code
    log.line(f"Exit code: {code} (0x{code & 0xFFFFFFFF:08X})")
    if failure:
        log.line(f"Error: {failure}")


def _tell_failure(failure: str, *, as_text: bool) -> None:
    """The reason for people, and upstream's one-line envelope for programs (alone after a timeout)."""
    import json

    message = printable(failure)
    if as_text:
        tell(message)
    envelope = {"error": {"code": "backend_error", "message": message}}
    tell(json.dumps(envelope, separators=(",", ":")))
