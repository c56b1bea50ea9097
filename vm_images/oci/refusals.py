"""How an image is refused: with the archive, and in it the layer and the entry that is at fault."""

from __future__ import annotations

from backends.errors import ConfigError, Problem

__all__ = ["BadEntry", "refused", "shown"]

_SHOWN = 120


class BadEntry(Exception):
    """What is wrong with one entry; whoever reads the layer knows which, and tells it by `refused`."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def refused(code: str, source: object, message: str, *, expected: str = "", fix: str = "") -> ConfigError:
    """An image that is not taken in.

    Parameters
    ----------
    source: the archive or reference.
    """
    return ConfigError(Problem(code, str(source), message, expected=expected, fix=fix))


def shown(name: str) -> str:
    """A name out of an image, safe to print: whoever made it chose its characters."""
    return ascii(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")
