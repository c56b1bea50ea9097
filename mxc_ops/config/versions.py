"""Which version governs a document: the exact contracts by name, all others by range (config-schema §1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from backends.errors import ConfigError, Problem
from mxc_ops.config import wording
from mxc_ops.config.document import Strictness
from mxc_ops.config.models import editions
from mxc_ops.config.models.editions import Edition

_POINTER = "/version"
_CURRENT_MINOR = 9  # what a document without a version is read as
_DIRECTIONAL_SINCE = 8


@dataclass(frozen=True)
class Governing:
    """The version that governs a document.

    Parameters
    ----------
    declared: as written, None when absent, null or "".
    contract: the exact contract's name, None in the ranged line.
    edition: the shapes to hold the document against.
    published: the published version whose novelties are worth a warning, None when there is none.
    directional: whether the directional network shape exists in this version (0.8 and later).
    """

    declared: str | None
    contract: str | None
    edition: Edition
    published: str | None = None
    directional: bool = True


def governing(body: Mapping[str, Any], strictness: Strictness) -> Governing:
    """Find the version that governs `body`. Raises `ConfigError` at ``/version``."""
    declared = body.get("version")
    if strictness is Strictness.CONTRACT:
        return _of_contract(body, declared)
    if declared is None or declared == "":
        return _of_range("")
    if not isinstance(declared, str):
        raise _wrong_type(declared)
    return _of_range(declared)


@lru_cache(maxsize=64)
def _of_range(declared: str) -> Governing:
    if not declared:
        return Governing(None, None, editions.ranged(_CURRENT_MINOR))
    if declared in editions.EXACT:
        return Governing(declared, declared, editions.exact(declared))
    minor = _ranged_minor(declared)
    published = _published(declared, minor)
    return Governing(declared, None, editions.ranged(minor), published, minor >= _DIRECTIONAL_SINCE)


def _of_contract(body: Mapping[str, Any], declared: Any) -> Governing:
    known = wording.listed(editions.CONTRACTS)
    if "version" not in body:
        raise _refused("missing_field", "a contract needs the field 'version'", expected=known)
    if not isinstance(declared, str):
        raise _wrong_type(declared)
    edition = editions.CONTRACTS.get(declared)
    if edition is None:
        raise _refused(
            "unsupported_version", f"there is no contract {wording.shown(declared)}", expected=known
        )
    return Governing(declared, declared if declared in editions.EXACT else None, edition)


def _ranged_minor(declared: str) -> int:
    numbers = _semver(declared)
    if numbers is None:
        raise _refused(
            "invalid_version",
            f"{wording.shown(declared)} is not a version",
            expected="X.Y.Z or X.Y.Z-alpha",
        )
    major, minor, _patch = numbers
    oldest, newest = editions.RANGED_MINORS[0], editions.RANGED_MINORS[-1]
    if (0, oldest) <= (major, minor) <= (0, newest):
        return minor
    supported = f"0.{oldest} to 0.{newest}, or exactly {wording.listed(editions.EXACT)}"
    if (major, minor) < (0, oldest):
        raise _refused(
            "unsupported_version",
            f"config schema version {wording.shown(declared)} is older than supported",
            expected=supported,
            fix=f"rewrite the document for a newer version, e.g. {editions.EXACT[1]}",
        )
    raise _refused(
        "unsupported_version",
        f"config schema version {wording.shown(declared)} is newer than supported",
        expected=supported,
        fix=f"set version to '{editions.EXACT[1]}', or upgrade mxc-ops",
    )


def _semver(text: str) -> tuple[int, int, int] | None:
    """The three numbers of a semantic version (semver.org 2.0.0), None when it is not one."""
    core, plus, build = text.partition("+")
    core, dash, label = core.partition("-")
    if (plus and not _identifiers(build, leading_zeros=True)) or (dash and not _identifiers(label)):
        return None
    numbers = core.split(".")
    if len(numbers) != 3 or not all(_is_number(number) for number in numbers):
        return None
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def _is_number(text: str) -> bool:
    short = 0 < len(text) <= 20
    return short and text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")


def _identifiers(text: str, *, leading_zeros: bool = False) -> bool:
    for part in text.split("."):
        if not part.isascii() or not part.replace("-", "a").isalnum():
            return False
        if part.isdigit() and not leading_zeros and not _is_number(part):
            return False
    return True


def _published(declared: str, minor: int) -> str:
    """The published version that stands for a declared one: its own, else the one of its minor and label."""
    if declared in editions.PUBLISHED:
        return declared
    development = f"0.{minor}.0-dev"
    wants_development = declared.partition("-")[2].startswith("dev")
    stable = f"0.{minor}.0-alpha"
    if (wants_development and development in editions.PUBLISHED) or stable not in editions.PUBLISHED:
        return development
    return stable


def _wrong_type(declared: Any) -> ConfigError:
    return _refused(
        "wrong_type", f"'version' is {wording.shown(declared)}", expected="a string such as '1.0.0'"
    )


def _refused(code: str, message: str, *, expected: str = "", fix: str = "") -> ConfigError:
    return ConfigError(Problem(code, _POINTER, message, expected=expected, fix=fix))
