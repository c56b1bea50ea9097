"""Where a config document comes from: a file, standard input, base64 on the command line."""

from __future__ import annotations

import binascii
import os
import sys
from collections.abc import Mapping
from typing import Any, cast

from backends.errors import ConfigError, Problem

# One byte more than a document may have, so that the loader sees that it is too large.
_READ_AT_MOST = 1024 * 1024 + 1


def read_source(name: str) -> bytes:
    """The bytes of the file `name`, or of standard input for ``-``. Raises `ConfigError` when unreadable."""
    if name == "-":
        return _read(sys.stdin.fileno())
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ConfigError(
            Problem("config_not_found", "", f"Configuration file not found: {name}", fix=f"ls -l -- {name}")
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            Problem("config_unreadable", "", f"Configuration file cannot be read: {name}: {reason}")
        ) from error


def decode_base64(text: str) -> bytes:
    """Decode the standard alphabet, padded. Rule: config-schema.md §6."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ConfigError(
            Problem(
                "invalid_base64",
                "",
                "Failed to decode base64 configuration",
                expected="the standard alphabet with padding",
                fix="base64 -w0 config.json",
            )
        ) from None


def as_object(value: Any) -> Mapping[str, Any] | None:
    """A parsed JSON value when it is an object, else None."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else None


def _read(descriptor: int) -> bytes:
    parts: list[bytes] = []
    left = _READ_AT_MOST
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
