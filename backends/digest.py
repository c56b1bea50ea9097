"""SHA-256 without loading OpenSSL, which takes several ms of every cold start; and only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def sha256(data: bytes = b"") -> Digest:
    """A new SHA-256 over `data` so far: the interpreter's own implementation, else hashlib's."""
    for module in ("_sha256", "_sha2", "hashlib"):
        try:
            return __import__(module).sha256(data)
        except ImportError:
            continue
    raise ImportError("this Python has no SHA-256")


class Fingerprint:
    """What identifies something large, taken when it is first looked at; equal to one that says the same."""

    __slots__ = ("_take", "_taken")

    def __init__(self, take: Callable[[], str]) -> None:
        self._take: Callable[[], str] | None = take
        self._taken = ""

    def __str__(self) -> str:
        if self._take is not None:
            self._taken, self._take = self._take(), None  # with all that it was taken of
        return self._taken

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[type[Fingerprint], tuple[Callable[[], str]]]:
        return Fingerprint, (partial(str, str(self)),)

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, Fingerprint) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))
