"""Text that is safe to print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.ended import Conflict


def printable(text: str) -> str:
    """Escape what a terminal would act upon: control and format characters, line separators, surrogates."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def conflict_text(conflict: Conflict) -> str:
    """What people are told of a file that host and sandbox both changed."""
    return (
        f"{conflict.path} was changed on the host during the run and stays as it is;"
        f" the sandbox's version is kept as {conflict.kept_as} (granted by {conflict.pointer})"
    )
