"""``mxc-exec … -- COMMAND``: the command replaces `process.commandLine`. Spec: cli-sdk.md §1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.errors import ConfigError, Problem
from mxc_ops.cli.source import as_object
from mxc_ops.policy.machine import CONTAINMENTS

# Upstream quotes for these as for Windows, wherever they run (cli-sdk.md §1).
_WINDOWS_RULES = frozenset({"microvm", "hyperlight", "processcontainer"})
_OF_MACHINES = "vm:"
_QUOTED_FOR_PROCESS = frozenset(' \t\n\v"')
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-")


def with_command(source: bytes, command: Sequence[str]) -> bytes:
    """The document with `command`, quoted for what takes its command line, as that line.

    Our own ``mxcOps.args`` gives way to it too; where a virtual machine is given arguments, `command` takes
    their place, and so it does in a sandbox whose id does not tell what it takes a line for. What is wrong
    with the document otherwise is left for the loader to say.

    Raises `ConfigError` when the source is no JSON or a lifecycle request other than exec.
    """
    import json

    from mxc_ops.config.text import parse

    if any("\0" in argument for argument in command):
        raise _refused("CLI command arguments must not contain null bytes")
    body = as_object(parse(source))
    if body is None:
        return source
    phase = body.get("phase")
    if phase is not None and phase != "exec":
        raise _refused("a command after -- is for one-shot and exec requests only")
    return json.dumps(_changed(body, command)).encode()


def _changed(body: Mapping[str, Any], command: Sequence[str]) -> dict[str, Any]:
    if body.get("phase") == "exec" and str(body.get("sandboxId")).startswith(_OF_MACHINES):
        return _with_arguments(body, command)
    changed = dict(body)
    extension = as_object(body.get("mxcOps"))
    kind = (as_object((extension or {}).get("vm")) or {}).get("command")
    if kind is None and body.get("containment") in CONTAINMENTS and "args" in (extension or {}):
        kind = "args"
    if extension is not None and kind == "args":
        changed["mxcOps"] = {**extension, "args": list(command)}
        return changed
    process = as_object(body.get("process", {}))
    if process is not None:
        changed["process"] = {**process, "commandLine": _line(command, body.get("containment"), kind)}
    if extension is not None:
        changed["mxcOps"] = {name: value for name, value in extension.items() if name != "args"}
    return changed


def _with_arguments(body: Mapping[str, Any], command: Sequence[str]) -> dict[str, Any]:
    changed = dict(body)
    process, extension = as_object(body.get("process", {})), as_object(body.get("mxcOps", {}))
    if process is not None:
        changed["process"] = {name: value for name, value in process.items() if name != "commandLine"}
    if extension is not None:
        changed["mxcOps"] = {**extension, "args": list(command)}
    return changed


def _line(command: Sequence[str], containment: object, kind: object) -> str:
    if kind in ("python", "node"):
        return " ".join(command)  # in quotes it would be a text, and the program do nothing
    if containment in _WINDOWS_RULES and kind != "shell":
        return process_line(command)
    return shell_line(command)


def shell_line(arguments: Sequence[str]) -> str:
    """Arguments as one line for a POSIX shell: in single quotes unless every character is harmless."""
    return " ".join(map(_quote, arguments))


def process_line(arguments: Sequence[str]) -> str:
    """Arguments as one line for CreateProcess: in double quotes when there are blanks or quotes in them.

    Backslashes count only before a quote, where each is doubled (Microsoft: parsing C++ command-line
    arguments).
    """
    return " ".join(map(_quote_for_process, arguments))


def _quote_for_process(argument: str) -> str:
    if argument and _QUOTED_FOR_PROCESS.isdisjoint(argument):
        return argument
    quoted, backslashes = "", 0
    for character in argument:
        if character == '"':
            quoted += "\\" * (backslashes + 1)
        backslashes = backslashes + 1 if character == "\\" else 0
        quoted += character
    return '"' + quoted + "\\" * backslashes + '"'


def _quote(argument: str) -> str:
    if argument and _PLAIN.issuperset(argument):
        return argument
    return "'" + argument.replace("'", "'\\''") + "'"


def _refused(message: str) -> ConfigError:
    return ConfigError(Problem("invalid_command", "--", message))
