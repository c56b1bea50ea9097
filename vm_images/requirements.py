"""Python packages for an image: which lines of a requirements file are accepted. Pure.

Everything must be pinned by hash (pip: "Secure installs"), so that the index is trusted with nothing, and
nothing may lead elsewhere: no other index, no other file, no address, no local path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from backends.errors import Problem

__all__ = ["check_requirements", "logical_lines"]

_PINNED = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,\s-]*\])?\s*==\s*[A-Za-z0-9.+!_-]+\s*(;[^#]*?)?"
    r"(\s+--hash=sha(256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128}))+\s*"
)
_EXPECTED = "NAME==VERSION --hash=sha256:…"


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with the number of the first: continued ones joined, comments gone."""
    waiting, started = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        content = re.sub(r"(^|\s)#.*$", "", line)
        started = started or number
        if content.endswith("\\"):
            waiting += content[:-1] + " "
            continue
        if joined := (waiting + content).strip():
            yield started, joined
        waiting, started = "", 0
    if waiting.strip():
        yield started, waiting.strip()


def check_requirements(text: str, place: str) -> list[Problem]:
    """Every line that is not an exact version with its hashes.

    Parameters
    ----------
    place: the file's name, for the messages.
    """
    return [
        Problem(
            "unpinned_requirement",
            f"{place}: line {number}",
            f"{line[:80]!r} is not a version pinned by its hash",
            expected=_EXPECTED,
            fix="pip-compile --generate-hashes, or uv pip compile --generate-hashes",
        )
        for number, line in logical_lines(text)
        if not _PINNED.fullmatch(line)
    ]
