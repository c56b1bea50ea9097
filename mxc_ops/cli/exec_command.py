"""``mxc-exec … -- COMMAND``: the command replaces `process.commandLine`. Spec: cli-sdk.md §1."""

from __future__ import annotations

from collections.abc import Sequence

from backends.errors import ConfigError, Problem
from mxc_ops.cli.source import as_object

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-")


def with_command(source: bytes, command: Sequence[str]) -> bytes:
    """The document with `command`, quoted for a POSIX shell, as its command line.

    Our own ``mxcOps.args`` gives way to it too. What is wrong with the document otherwise is left for the
    loader to say. Raises `ConfigError` when the source is no JSON or a lifecycle request other than exec.
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
    changed = dict(body)
    process = as_object(body.get("process", {}))
    if process is not None:
        changed["process"] = {**process, "commandLine": shell_line(command)}
    extension = as_object(body.get("mxcOps"))
    if extension is not None:
        changed["mxcOps"] = {name: value for name, value in extension.items() if name != "args"}
    return json.dumps(changed).encode()


def shell_line(arguments: Sequence[str]) -> str:
    """Arguments as one line for a POSIX shell: in single quotes unless every character is harmless."""
    return " ".join(map(_quote, arguments))


def _quote(argument: str) -> str:
    if argument and _PLAIN.issuperset(argument):
        return argument
    return "'" + argument.replace("'", "'\\''") + "'"


def _refused(message: str) -> ConfigError:
    return ConfigError(Problem("invalid_command", "--", message))
