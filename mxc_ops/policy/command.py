"""What may be handed to a program: execve(2) takes no string longer than MAX_ARG_STRLEN. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from backends.errors import ConfigError, Problem
from backends.virtual_machine import LANGUAGES, CommandKind

__all__ = ["MAX_SOURCE_BYTES", "MAX_STRING_BYTES", "check_command", "too_long"]

MAX_STRING_BYTES = 128 * 1024
"""Longest argument or environment entry, its final NUL included."""

MAX_SOURCE_BYTES = 1024 * 1024
"""Longest source, which reaches an interpreter in one message: as long as a document may be."""


def too_long(text: str) -> bool:
    """Whether the kernel would refuse `text` as one argument or environment entry."""
    # Measured only when it can be too long: every character takes one to four bytes.
    if len(text) * 4 < MAX_STRING_BYTES:
        return False
    return len(text.encode("utf-8", "surrogateescape")) >= MAX_STRING_BYTES


def check_command(
    shell: str | None,
    args: Sequence[str],
    shell_pointer: str,
    args_pointer: str,
    kind: CommandKind | None = None,
) -> None:
    """Refuse a command that no kernel would start.

    Parameters
    ----------
    shell, args: a line for the shell, or an argument vector; the other is None or empty.
    shell_pointer, args_pointer: where the caller wrote them.
    kind: what it is in a virtual machine; there, source may be longer than an argument.

    Raises `ConfigError` with every string that is too long.
    """
    if kind is not None and kind in LANGUAGES:
        _check_source(shell or "", shell_pointer, LANGUAGES[kind].name)
        return
    parts = [(shell_pointer, shell)] if shell is not None else []
    separator = "/{}" if args_pointer.startswith("/") else "[{}]"
    parts += [(args_pointer + separator.format(index), argument) for index, argument in enumerate(args)]
    problems = [
        Problem(
            "command_too_long",
            pointer,
            f"longer than the {MAX_STRING_BYTES} bytes that the kernel takes in one argument",
            fix="put the script into a file in a granted path, or give it to the shell as standard input",
        )
        for pointer, text in parts
        if too_long(text)
    ]
    if problems:
        raise ConfigError(problems)


def _check_source(source: str, pointer: str, language: str) -> None:
    if len(source.encode("utf-8", "surrogateescape")) > MAX_SOURCE_BYTES:
        raise ConfigError(
            Problem(
                "command_too_long",
                pointer,
                f"longer than the {MAX_SOURCE_BYTES} bytes that {language} source may have",
                fix="put the source into a file in a granted path, and run that",
            )
        )
