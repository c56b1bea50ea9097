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
    """What people are told of what the sandbox changed, and the host had changed too, or denies."""
    sandboxs = (
        f"the sandbox's version is kept as {conflict.kept_as}"
        if conflict.kept_as
        else "that the sandbox removed it, or gave it other permissions, has no effect"
    )
    return (
        f"{conflict.path} was changed on the host during the run, or is denied to the sandbox,"
        f" and stays as it is; {sandboxs} (granted by {conflict.pointer})"
    )
