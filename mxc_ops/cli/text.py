"""Text that is safe to print."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what a terminal would act upon: control and format characters, line separators, surrogates."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
