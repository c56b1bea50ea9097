"""`mxc-exec`: runs one MXC config, in place of upstream's Linux executor.

Flags, streams and exit codes are those of spec cli-sdk.md §1; documents are ours: every version and `mxcOps`.

==========================================  ====  ==========================================================
what happened                               code  where it is said
==========================================  ====  ==========================================================
the workload ended                          its   nowhere
wrong command line                          2     usage on stderr
unreadable or invalid document              1     ``Request error`` and the reasons on stderr
containment that this host cannot have      1     ``error: …`` and the log on stderr
refused policy, or the launch failed        255   the reason, then a one-line ``{"error":…}``, on stderr
timed out                                   255   ``{"error":…}`` on stderr
lifecycle request                           0, 1  ``{"result":…}`` or ``{"error":…}`` on stdout
its command ended, or timed out             its,  as for a one-shot
                                            255
==========================================  ====  ==========================================================
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backends.errors import ConfigError, MxcError, UnsupportedContainment
from mxc_ops.cli.exec_flags import ExecOptions, FlagError, help_text, parse
from mxc_ops.cli.signals import Interrupted
from mxc_ops.cli.streams import answer_lost, fill_standard_descriptors, tell
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from mxc_ops.cli.exec_log import ExecLog
    from mxc_ops.config.document import Document

EXIT_USAGE = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mxc-exec` and return its exit code.

    Parameters
    ----------
    argv: the arguments after the program's name; by default the process's own.
    """
    fill_standard_descriptors()
    try:
        code = _dispatch(parse(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except FlagError as error:
        tell(str(error))
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Interrupted as interrupted:
        return interrupted.exit_code
    except OSError as error:
        lost = answer_lost(error, "mxc-exec")
        if lost is None:
            raise
        return lost
    return code


def _dispatch(options: ExecOptions) -> int:
    if options.has("--help"):
        print(help_text())
        return 0
    if options.has("--available-backends"):
        from mxc_ops.cli.exec_backends import print_available_backends

        return print_available_backends()
    if options.has("--setup-hyperlight"):
        from mxc_ops.cli.exec_setup import set_up_hyperlight

        return set_up_hyperlight(options.values["--setup-hyperlight"], anew=options.has("--force"))
    if options.has("--delete"):
        return _delete(options.values.get("--containername"))
    return _execute(options)


def _delete(name: str | None) -> int:
    """No container of ours outlives its run, and its names are ours: there is none to delete."""
    if name is None:
        return _complain("Error: --containername is required with --delete")
    print(f"Container '{printable(name)}' does not exist.")
    return EXIT_FAILED


def _execute(options: ExecOptions) -> int:
    from mxc_ops.cli.exec_log import ExecLog

    log = ExecLog(debug=options.has("--debug"), path=options.values.get("--log-file"))
    try:
        return _run_document(options, log)
    finally:
        log.close()


def _run_document(options: ExecOptions, log: ExecLog) -> int:
    source = b""
    try:
        found = _source(options)
        if found is None:
            return _complain("Error: No config provided. Use a positional path, --config, or --config-base64")
        source = found
        document = _load(source, options.command)
    except ConfigError as error:
        from mxc_ops.cli.lifecycle import names_phase, refuse

        return refuse(error) if names_phase(source) else _request_error(error, log)
    if document.body.get("phase") is not None:
        return _answer_lifecycle(document, options)
    return _run_one_shot(document, options, log)


def _answer_lifecycle(document: Document, options: ExecOptions) -> int:
    """The log stays out of it: standard output has the envelope, and nothing else."""
    from mxc_ops.cli import exec_run, lifecycle

    experimental = options.has("--experimental")
    if options.has("--dry-run"):
        return lifecycle.validate(document, experimental=experimental)
    return lifecycle.serve(document, exec_run.conclude, exec_run.lose, experimental=experimental)


def _source(options: ExecOptions) -> bytes | None:
    """The document's bytes: ``--config-base64`` wins over ``--config``, which wins over the argument."""
    from mxc_ops.cli.source import decode_base64, read_source

    if (encoded := options.values.get("--config-base64")) is not None:
        return decode_base64(encoded)
    path = options.values.get("--config", options.config_path)
    # Upstream's executor does not read standard input: it belongs to the workload.
    return None if path is None else read_source("./-" if path == "-" else path)


def _load(source: bytes, command: Sequence[str]) -> Document:
    from mxc_ops.config.verdicts import load_cached

    if command:
        from mxc_ops.cli.exec_command import with_command

        source = with_command(source, command)
    return load_cached(source)


def _run_one_shot(document: Document, options: ExecOptions, log: ExecLog) -> int:
    from mxc_ops.cli.exec_run import run_one_shot

    for warning in document.warnings:
        log.line(f"WARNING: {warning}")
    _log_request(document.body, log)
    try:
        return run_one_shot(
            document, log, dry_run=options.has("--dry-run"), experimental=options.has("--experimental")
        )
    except ConfigError as error:
        return _request_error(error, log)
    except UnsupportedContainment as error:
        _complain(f"error: {printable(error.problems[0].message)}")
        log.show(tell)
        return EXIT_FAILED


def _log_request(body: Mapping[str, Any], log: ExecLog) -> None:
    """The lines upstream writes for every request."""
    process: Mapping[str, Any] = body.get("process") or {}
    command: str | None = process.get("commandLine")
    if command is None:
        from mxc_ops.cli.exec_command import shell_line

        command = shell_line(body["mxcOps"]["args"])
    log.line(f"Script code length: {len(command.encode())}")
    log.line(f"Working directory: {process.get('cwd') or ''}")
    log.line(f"Script timeout: {process.get('timeout') or 0}")
    log.line(f"Container name: {body.get('containerId') or ''}")


def _request_error(error: MxcError, log: ExecLog) -> int:
    tell("Request error")
    for problem in error.problems:
        log.line(f"Configuration parse error: {problem}")
    log.show(tell)
    return EXIT_FAILED


def _complain(text: str) -> int:
    tell(text)
    return EXIT_FAILED
