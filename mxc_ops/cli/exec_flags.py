"""The flags of `mxc-exec`: the union of upstream's 0.7.0 and 1.0.1 Linux executors, read as they read them.

Spec: cli-sdk.md §1. A table of our own, because argparse alone costs a sixth of what `mxc-exec` may take.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from backends.frozen import frozen
from mxc_ops.cli.text import printable


class Takes(Enum):
    NOTHING = "nothing"
    VALUE = "a value, after a space or ="
    OPTIONAL_VALUE = "a value, only after ="


@frozen
class Flag:
    takes: Takes
    help: str
    metavar: str = ""


FLAGS = {
    "--config": Flag(Takes.VALUE, "config file (JSON); wins over CONFIG_PATH", "CONFIG"),
    "--config-base64": Flag(Takes.VALUE, "config as base64; wins over --config", "CONFIG_BASE64"),
    "--debug": Flag(Takes.NOTHING, "print the log to stdout as it is written"),
    "--delete": Flag(Takes.NOTHING, "delete a container (with --containername)"),
    "--containername": Flag(Takes.VALUE, "the container to delete", "CONTAINERNAME"),
    "--experimental": Flag(Takes.NOTHING, "allow experimental backends"),
    "--allow-testing-features": Flag(Takes.NOTHING, "allow features that exist for upstream's tests only"),
    "--available-backends": Flag(Takes.NOTHING, "print the backends that work here as JSON, and exit"),
    "--dry-run": Flag(Takes.NOTHING, "check the config against this host, run nothing"),
    "--log-file": Flag(Takes.VALUE, "append the log to this file", "LOG_FILE"),
    "--setup-hyperlight": Flag(Takes.OPTIONAL_VALUE, "build, warm images for it, and exit", "RUNTIMES"),
    "--force": Flag(Takes.NOTHING, "with --setup-hyperlight: build of today's packages"),
    "--help": Flag(Takes.NOTHING, "print this help"),
}

_USAGE = "Usage: mxc-exec [OPTIONS] [CONFIG_PATH] [-- COMMAND...]"
_HINT = "For more information, try '--help'."


class FlagError(Exception):
    """The command line is wrong; the text is complete, as upstream's argument parser words it."""


@frozen
class ExecOptions:
    """The command line as read. `given` holds the flags without a value, `values` the others, `command` what
    stood after ``--`` (empty: nothing did)."""

    given: frozenset[str]
    values: dict[str, str]
    config_path: str | None
    command: tuple[str, ...]

    def has(self, flag: str) -> bool:
        return flag in self.given or flag in self.values


def parse(arguments: Sequence[str]) -> ExecOptions:
    """Read the command line. Raises `FlagError` at the first mistake; ``--help`` ends the reading."""
    given: set[str] = set()
    values: dict[str, str] = {}
    config_path: str | None = None
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if word in ("-h", "--help"):
            return ExecOptions(frozenset({"--help"}), {}, None, ())
        if word.startswith("-") and word != "-":
            _read_flag(word, rest, given, values)
        elif config_path is None:
            config_path = word
        else:
            raise _error(f"unexpected argument '{printable(word)}' found")
    if "--force" in given and "--setup-hyperlight" not in values:
        missing = "  --setup-hyperlight[=<RUNTIMES>]"
        raise _error(f"the following required arguments were not provided:\n{missing}")
    if len(rest) == 1 and config_path is None and not values.keys() & {"--config", "--config-base64"}:
        config_path = (
            rest.pop()
        )  # upstream's reading of `--`; without a config there is no command to replace
    return ExecOptions(frozenset(given), values, config_path, tuple(rest))


def help_text() -> str:
    lines = [
        "Runs one MXC config in a sandbox; takes what upstream's Linux executor takes.",
        "",
        _USAGE,
        "",
        "Arguments:",
        "  [CONFIG_PATH]  config file (JSON)",
        "  [COMMAND...]   run this instead of the config's process.commandLine",
        "",
        "Options:",
    ]
    for name, flag in FLAGS.items():
        short = "-h, " if name == "--help" else "    "
        lines.append(f"  {short}{_spelled(name, flag):<34} {flag.help}")
    return "\n".join(lines)


def _read_flag(word: str, rest: list[str], given: set[str], values: dict[str, str]) -> None:
    name, equals, value = word.partition("=")
    flag = FLAGS.get(name)
    if flag is None:
        raise _unknown(name)
    if name in given or name in values:
        raise _error(f"the argument '{_spelled(name, flag)}' cannot be used multiple times")
    if flag.takes is Takes.NOTHING:
        if equals:
            raise _error(f"unexpected value '{printable(value)}' for '{name}' found; no more were expected")
        given.add(name)
    elif flag.takes is Takes.OPTIONAL_VALUE or equals:
        values[name] = value
    elif rest and (rest[0] == "-" or not rest[0].startswith("-")):
        values[name] = rest.pop(0)
    else:
        spelled = _spelled(name, flag)
        raise FlagError(f"error: a value is required for '{spelled}' but none was supplied\n\n{_HINT}")


def _spelled(name: str, flag: Flag) -> str:
    if flag.takes is Takes.VALUE:
        return f"{name} <{flag.metavar}>"
    if flag.takes is Takes.OPTIONAL_VALUE:
        return f"{name}[=<{flag.metavar}>]"
    return name


def _unknown(name: str) -> FlagError:
    from difflib import get_close_matches

    near = get_close_matches(name, FLAGS, n=1, cutoff=0.75)
    name = printable(name)
    tip = f"a similar argument exists: '{near[0]}'" if near else f"to pass '{name}' on, use '-- {name}'"
    return _error(f"unexpected argument '{name}' found\n\n  tip: {tip}")


def _error(message: str) -> FlagError:
    return FlagError(f"error: {message}\n\n{_USAGE}\n\n{_HINT}")
