"""Who else uses the ids we want: the files that give out uids and gids (passwd(5), group(5), subuid(5))."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

__all__ = ["ID_FILES", "overlaps"]

_SINGLE = ("/etc/passwd", "/etc/group")
_RANGES = ("/etc/subuid", "/etc/subgid")
ID_FILES = (*_SINGLE, *_RANGES)


def overlaps(texts: Mapping[str, str], first: int, count: int) -> list[str]:
    """Every entry that shares an id with ``first … first + count - 1``, as a sentence.

    Parameters
    ----------
    texts: contents by path; `ID_FILES` are read.
    """
    return [
        f"{path} gives {name} {start}" + (f" to {start + length - 1}" if length > 1 else "")
        for path in ID_FILES
        for name, start, length in _entries(path, texts.get(path, ""))
        if start < first + count and first < start + length
    ]


def _entries(path: str, text: str) -> Iterator[tuple[str, int, int]]:
    for line in text.splitlines():
        fields = line.split(":")
        numbers = [*fields[2:3], "1"] if path in _SINGLE else fields[1:3]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            yield fields[0], int(numbers[0]), int(numbers[1])
