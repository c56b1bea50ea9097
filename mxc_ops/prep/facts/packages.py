"""Packages of Debian's package database."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from pyinfra.api.facts import FactBase
from typing_extensions import override


class Missing(FactBase[list[str]]):
    """Those of the given packages that are not installed."""

    @override
    def command(self, packages: Sequence[str]) -> str:
        names = " ".join(quote(name) for name in packages)
        return (
            f"for name in {names}; do dpkg-query -W -f='${{db:Status-Status}}' \"$name\" 2>/dev/null"
            ' | grep -qx installed || echo "$name"; done'
        )

    @staticmethod
    @override
    def default() -> list[str]:
        return []

    @override
    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]
