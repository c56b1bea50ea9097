"""Whatever a caller calls "what to run" → one `SandboxRequest`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from backends.base import SandboxRequest
from backends.errors import ConfigError, Problem
from mxc_ops.config.document import Document


class MakesRequests(Protocol):
    """What `mxc_ops.Policy` is to this module: given a command, it becomes a request."""

    def request(self, command: str | Sequence[str]) -> SandboxRequest: ...


Source = MakesRequests | SandboxRequest | Document | Mapping[str, Any] | str | os.PathLike[str] | bytes

# One byte more than a document may have, so that the loader sees that it is too large.
_READ_AT_MOST = 1024 * 1024 + 1


def as_request(source: Source, command: str | Sequence[str] | None = None) -> SandboxRequest:
    """The request that `source` (and `command`, for a policy) stands for.

    Raises `ConfigError` (also for a command where the document has one, or none where one is needed), and
    what building the request refuses.
    """
    if isinstance(source, SandboxRequest):
        _no_command(command)
        return source
    if not isinstance(source, (Mapping, str, bytes, os.PathLike, Document)):
        if not hasattr(source, "request"):
            wanted = "a Policy, a path, bytes, a dict, a Document or a SandboxRequest"
            said = f"{type(source).__name__} says nothing to run"
            raise ConfigError(Problem("wrong_type", "source", said, expected=wanted))
        if command is None:
            raise ConfigError(Problem("missing_command", "command", "a policy needs a command to run"))
        return source.request(command)
    _no_command(command)
    from mxc_ops.config.request import build_request

    return build_request(as_document(source))


def as_document(source: Document | Mapping[str, Any] | str | os.PathLike[str] | bytes) -> Document:
    """Load and validate; a str or PathLike is the path of a file, bytes are the document itself."""
    if isinstance(source, Document):
        return source
    from mxc_ops.config.verdicts import load_cached

    if isinstance(source, Mapping):
        return load_cached(_to_json(source))
    return load_cached(source if isinstance(source, bytes) else _read(source))


def _to_json(source: Mapping[str, Any]) -> bytes:
    import json

    try:
        return json.dumps(source, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            Problem("not_json", "", f"the config cannot be written as JSON: {error}")
        ) from error


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is not needed for one read
            return file.read(_READ_AT_MOST)
    except (OSError, ValueError) as error:
        message = f"the config {os.fspath(path)!r} cannot be read: {error}"
        raise ConfigError(Problem("config_unreadable", "", message)) from error


def _no_command(command: object) -> None:
    if command is not None:
        message = "this source already holds a command"
        raise ConfigError(Problem("contradiction", "command", message, fix="pass a Policy, or no command"))
