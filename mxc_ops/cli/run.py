"""`mxc-ops run`: one config, or one command, in one sandbox, on our own standard streams.

Exit codes: the workload's own (128 + n when signal n ended it), 124 timed out, 125 refused or failed before
the start, 64 wrong command line, 128 + n when signal n ended us. ``--json`` and ``--result-file`` tell the
cases apart: the document goes to standard error (one line, the last one) or to the file, never to standard
output, which is the workload's.

A lifecycle document (one with a `phase`) is answered with its envelope on standard output, and 0 or 1; what
an exec request ran is reported, and ends us, like any other command.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends.errors import ConfigError, MxcError, PolicyLost, Problem, UsageError
from mxc_ops.cli.foreground import run_in_foreground
from mxc_ops.cli.machine_flags import add_accelerator_flag, with_accelerator
from mxc_ops.cli.output import complete, document, report_error, warn
from mxc_ops.cli.run_flags import add_policy_flags, given_flags, name_flags, request_from_flags
from mxc_ops.cli.signals import Interrupted
from mxc_ops.cli.streams import tell
from mxc_ops.cli.text import conflict_text

if TYPE_CHECKING:
    from backends.base import SandboxRequest
    from mxc_ops.config.document import Document
    from mxc_ops.result import Result

EXIT_USAGE = 64
EXIT_REFUSED = 125


def configure(parser: ArgumentParser) -> None:
    parser.usage = "mxc-ops run [OPTIONS] CONFIG | -\n       mxc-ops run [OPTIONS] [POLICY] -- CMD..."
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a config file; - is standard input")
    parser.add_argument("--result-file", metavar="FILE", help="write the result document here")
    parser.add_argument(
        "--quiet", "-q", action="store_true", help="no warnings and remarks of our own on stderr"
    )
    add_accelerator_flag(parser)
    add_policy_flags(parser)
    complete(parser, _run)


def _run(options: Namespace) -> int:
    _check_form(options)
    report = _Report(options)
    try:
        report.open()
        request = _request(options, report)
        if isinstance(request, int):
            return request
        result = _run_request(with_accelerator(request, options), report)
    except UsageError:
        raise
    except MxcError as error:
        error = name_flags(error, options) if options.command else error
        report.refused(error)
        return EXIT_USAGE if options.command and isinstance(error, ConfigError) else EXIT_REFUSED
    except Interrupted as interrupted:
        report.interrupted(interrupted)
        return interrupted.exit_code
    report.ended(result)
    return result.exit_code


def _check_form(options: Namespace) -> None:
    if options.command is None:
        if options.config is None:
            raise UsageError(Problem("usage", "", "name a CONFIG, or a command after --"))
        if given := given_flags(options):
            raise UsageError(
                Problem("usage", given[0], "a CONFIG says its policy itself", fix="write it there")
            )
        return
    if options.config is not None:
        raise UsageError(Problem("usage", "", "a CONFIG and a command after -- exclude each other"))
    if not options.command:
        raise UsageError(Problem("usage", "", "there is no command after --"))


def _request(options: Namespace, report: _Report) -> SandboxRequest | int:
    """What is to be run, or the exit code of a lifecycle document, which was answered."""
    if options.command:
        return request_from_flags(options)
    from mxc_ops.cli.lifecycle import EXIT_FAILED, take
    from mxc_ops.cli.source import read_source
    from mxc_ops.config.request import build_request

    document = take(read_source(options.config))
    if document is None:
        return EXIT_FAILED
    if document.body.get("phase") is None:
        return build_request(document)
    return _serve(document, options, report)


def _serve(document: Document, options: Namespace, report: _Report) -> int:
    from mxc_ops.cli.lifecycle import serve

    if options.accel is not None:
        raise UsageError(Problem("usage", "--accel", "a provision request says it itself: mxcOps.vm.accel"))
    if options.result_file and document.body["phase"] != "exec":
        raise UsageError(Problem("usage", "--result-file", "the answer of this phase is on standard output"))

    def ended(_request: SandboxRequest, result: Result) -> int:
        report.ended(result)
        return result.exit_code

    def lost(error: MxcError) -> int:
        report.refused(error)
        return EXIT_REFUSED

    return serve(document, ended, lost)


def _run_request(request: SandboxRequest, report: _Report) -> Result:
    from mxc_ops.one_shot import prepare

    with prepare(request) as prepared:
        report.warnings(prepared.warnings)
        return run_in_foreground(prepared)


class _Report:
    """What is said beside the workload's own output: the result document, and remarks for people."""

    def __init__(self, options: Namespace) -> None:
        self._json: bool = options.json
        self._talk: bool = not options.json and not options.quiet
        self._path: str | None = options.result_file
        self._file = -1
        self._warned = 0

    def open(self) -> None:
        """Open the result file before anything runs. Raises `MxcError` when that fails."""
        if self._path is None:
            return
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except (OSError, ValueError) as error:
            raise MxcError(Problem("cannot_write", "--result-file", f"{self._path}: {error}")) from error

    def warnings(self, warnings: tuple[str, ...]) -> None:
        """Tell those that were not told before."""
        for text in warnings[self._warned :] if self._talk else ():
            warn(text)
        self._warned = len(warnings)

    def refused(self, error: MxcError) -> None:
        if not self._json:
            report_error(error, as_json=False)
        outcome = "policy lost" if isinstance(error, PolicyLost) else "refused"
        self._write({"outcome": outcome, "exitCode": None, "error": error.as_dict()})

    def interrupted(self, interrupted: Interrupted) -> None:
        self._write({"outcome": "killed", "exitCode": interrupted.exit_code, "signal": interrupted.number})

    def ended(self, result: Result) -> None:
        self.warnings(result.warnings)
        if self._talk:
            for name in result.limits_hit:
                warn(f"the limit {name} was hit")
            for conflict in result.conflicts:
                warn(conflict_text(conflict))
        if self._json or self._file >= 0:
            # The workload wrote to the descriptors itself: the result has captured nothing.
            content = {
                name: value for name, value in result.as_dict().items() if name not in ("stdout", "stderr")
            }
            self._write(content)

    def _write(self, content: Mapping[str, Any]) -> None:
        if self._json:
            tell(document(content, indent=None))
        if self._file >= 0:
            with os.fdopen(self._file, "w", encoding="utf-8") as file:
                print(document(content), file=file)
            self._file = -1
