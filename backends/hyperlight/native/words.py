"""What the packages say, made readable (pure)."""

from __future__ import annotations

__all__ = ["without_repeats"]

_MOST_LETTERS = 400


def without_repeats(message: str) -> str:
    """The causes in a message, each once: Hyperlight's errors repeat the message of every error below them.

    A cause is what stands between colons. What is still too long loses its middle, for its end tells most.
    """
    causes = list(dict.fromkeys(part.strip() for part in " ".join(message.split()).split(": ")))
    text = ": ".join(cause for cause in causes if cause)
    if len(text) <= _MOST_LETTERS:
        return text
    half = _MOST_LETTERS // 2
    return f"{text[:half]} … {text[-half:]}"
