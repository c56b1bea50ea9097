"""A config document that was accepted: what `loader.load` answers. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from backends.errors import Problem
from backends.frozen import frozen

__all__ = ["Document", "RequestKind", "Strictness"]


class Strictness(Enum):
    """What a document is held against.

    RANGED: what upstream's own parser of that line takes, closed at every depth, plus our ``mxcOps``.
    CONTRACT: exactly the contract of the version named, nothing of ours.
    """

    RANGED = "ranged"
    CONTRACT = "contract"


class RequestKind(Enum):
    """One-shot, or the lifecycle phase that the document's ``phase`` names (spec: lifecycle.md §1)."""

    ONE_SHOT = "one-shot"
    PROVISION = "provision"
    START = "start"
    EXEC = "exec"
    STOP = "stop"
    DEPROVISION = "deprovision"


@frozen
class Document:
    """A validated document.

    Parameters
    ----------
    declared_version: as written; None when absent, null or "" (ranged line only).
    contract: the exact contract that governs it (``0.9.0-alpha``, ``1.0.0``, ``1.1.0-alpha``); None in the
        ranged line.
    kind: one-shot or the lifecycle phase.
    body: the JSON object as written: aliases not folded, ``mxcOps`` and nulls included. Not to be changed.
    warnings: what the user should know although the document loads.
    """

    declared_version: str | None
    contract: str | None
    kind: RequestKind
    body: Mapping[str, Any]
    warnings: tuple[Problem, ...] = ()
