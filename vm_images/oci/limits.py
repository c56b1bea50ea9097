"""How much an image may be, so that none fills a disk, a memory or a day."""

from __future__ import annotations

from backends.errors import ConfigError, Problem
from backends.frozen import field_names, frozen

__all__ = ["MAX_ID", "MAX_NAME", "MAX_PATH", "Limits", "with_limits"]

MAX_ID = 65_535
"""The greatest uid and gid: as many are mapped where it is unpacked, and granted to users."""
MAX_NAME = 255
"""Bytes of one name: what file systems take (NAME_MAX)."""
MAX_PATH = 4095
"""Bytes of a whole path, and of what a link leads to: what system calls take (PATH_MAX, without its end)."""


@frozen
class Limits:
    """Bounds of one image. The defaults hold what is in use, with room.

    Parameters
    ----------
    archive_bytes: of an archive once decompressed, and of what a registry sends: twice the next, since an
        archive may hold layers that hide one another.
    unpacked_bytes: of all layers together, decompressed, headers and all: the larger of the two sizes of disk
        that templates of machines are made for.
    entries: of all layers together. Images for machine learning have some 300 000; each costs us memory.
    layers: what Docker takes at most.
    depth: directories above a file. Nested packages of JavaScript get to 40.
    document_bytes: of one JSON document: registries take manifests of 4 MiB at most.
    """

    archive_bytes: int = 16 << 30
    unpacked_bytes: int = 8 << 30
    entries: int = 500_000
    layers: int = 127
    depth: int = 128
    document_bytes: int = 4 << 20


def with_limits(words: list[str], path: str) -> Limits:
    """The defaults, but for what is told as ``NAME=NUMBER``; names as above, with ``-`` for ``_``.

    Raises `ConfigError` for anything else.
    """
    names = {name.replace("_", "-"): name for name in field_names(Limits)}
    values: dict[str, int] = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in names or not number.isascii() or not number.isdigit() or int(number) < 1:
            message = f"{word[:80]!r} is no limit of an image"
            expected = f"one of {', '.join(names)}, as {next(iter(names))}={1 << 30}"
            raise ConfigError(Problem("image_limit", path, message, expected=expected))
        values[names[name]] = int(number)
    return Limits(**values)
