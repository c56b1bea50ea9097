"""Errors that one process of ours tells another, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import backends.errors
from backends.errors import LaunchFailed, LifecycleError, MxcError, Problem

__all__ = ["telling_error", "told_error"]


def telling_error(error: MxcError) -> dict[str, Any]:
    """JSON-safe, for `told_error`."""
    return {"class": type(error).__name__, **error.as_dict()}


def told_error(told: Mapping[str, Any]) -> MxcError:
    """The error that was told, as if it had been raised here."""
    kind = getattr(backends.errors, told["class"], LaunchFailed)
    if not issubclass(kind, MxcError):
        kind = LaunchFailed
    problems = [
        Problem(one["code"], one["path"], one["message"], expected=one["expected"], fix=one["fix"])
        for one in told["problems"]
    ]
    if issubclass(kind, LifecycleError):
        return kind(told["code"], problems, retryable=told["retryable"])
    return kind(problems, retryable=told["retryable"])
