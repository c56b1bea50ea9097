"""The store of compiled helpers."""

from __future__ import annotations

from shlex import quote

from pyinfra.api.facts import FactBase
from typing_extensions import override


class Stored(FactBase[list[str]]):
    """The keys that a store holds, and what was left unfinished in it."""

    @override
    def command(self, store: str) -> str:
        return f"ls -1A {quote(store)} 2>/dev/null || true"

    @staticmethod
    @override
    def default() -> list[str]:
        return []

    @override
    def process(self, output: list[str]) -> list[str]:
        return list(output)
