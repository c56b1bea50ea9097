"""The `mxc-ops` command: finds the command group that was asked for and imports only that.

Exit codes of every command: 0 done, 1 failed, 64 the command line is wrong, 128 + n ended by signal n. What
else a command returns is in docs/cli.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mxc_ops.cli.streams import answer_lost, fill_standard_descriptors

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

EXIT_USAGE = 64
EXIT_INTERRUPTED = 130

# Group → what it does. The module is mxc_ops.cli.<group>; it offers configure(parser), which sets `handler`.
GROUPS = {
    "run": "run one config, or one command, in a sandbox",
    "plan": "show what a run would do, touching nothing",
    "config": "check a config, convert it between versions, print a schema",
    "backends": "list every containment, whether it works here, and why not",
    "doctor": "prove what works on hosts, and say how to mend what does not",
    "session": "keep sandboxes between commands: provision, start, exec, stop, deprovision",
    "image": "build the images of virtual machines, list, verify and move them",
    "prep": "prepare hosts for backends, look for drift, undo",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `mxc-ops` command and return its exit code.

    Parameters
    ----------
    argv: the arguments after the program's name; by default the process's own.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    fill_standard_descriptors()
    try:
        try:
            code = _run_command(arguments)
        except SystemExit as stop:  # argparse ends --help and usage errors so
            code = stop.code if isinstance(stop.code, int) else EXIT_USAGE
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        lost = answer_lost(error, "mxc-ops")
        if lost is None:
            raise
        return lost
    return code


def _run_command(arguments: list[str]) -> int:
    from backends.errors import MxcError, UsageError

    if arguments[:1] == ["--version"]:
        from mxc_ops import __version__

        print(f"mxc-ops {__version__}")
        return 0
    arguments, command = _split_command(arguments)
    options = _parser(arguments).parse_args(arguments)
    options.command = command
    handler: Callable[[Namespace], int] = options.handler
    try:
        return handler(options)
    except UsageError as error:
        parser: ArgumentParser = options.parser
        parser.error(str(error))
    except MxcError as error:
        from mxc_ops.cli.output import report_error

        report_error(error, as_json=options.json)
        return 1


def _split_command(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """Part the command after ``--`` from the flags before it; None when there is no ``--``."""
    if not _takes_command(arguments) or "--" not in arguments:
        return arguments, None
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _takes_command(arguments: list[str]) -> bool:
    return arguments[:1] == ["run"] or arguments[:2] == ["session", "exec"]


def _parser(arguments: list[str]) -> ArgumentParser:
    from importlib import import_module

    from mxc_ops.cli.output import Parser

    parser = Parser(
        prog="mxc-ops",
        description="Prepare hosts for untrusted code and run it, from one JSON config.",
        epilog="mxc-ops COMMAND --help tells more.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in GROUPS.items():
        group = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            import_module(f"mxc_ops.cli.{name}").configure(group)
    return parser
