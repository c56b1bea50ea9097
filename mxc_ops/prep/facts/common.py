"""The shapes that most facts have."""

from __future__ import annotations

from pyinfra.api.facts import FactBase
from typing_extensions import override

__all__ = ["EntriesFact", "LinesFact", "WordFact"]


class WordFact(FactBase[str]):
    """The first line of what a command prints; "" when it prints nothing."""

    @staticmethod
    @override
    def default() -> str:
        return ""

    @override
    def process(self, output: list[str]) -> str:
        return output[0]


class LinesFact(FactBase[list[str]]):
    """What a command prints, line by line."""

    @staticmethod
    @override
    def default() -> list[str]:
        return []

    @override
    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]


class EntriesFact(FactBase[list[dict[str, str]]]):
    """What a command tells of several things, each by name; none when it prints nothing."""

    @staticmethod
    @override
    def default() -> list[dict[str, str]]:
        return []
