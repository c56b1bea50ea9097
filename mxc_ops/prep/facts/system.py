"""What kind of host it is, and whether root's rights can be had."""

from __future__ import annotations

import shlex

from pyinfra.api.facts import FactBase
from typing_extensions import override


class OsRelease(FactBase[dict[str, str]]):
    """os-release(5) as a dictionary; empty where there is none."""

    @override
    def command(self) -> str:
        return "cat /etc/os-release /usr/lib/os-release 2>/dev/null || true"

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in output:
            name, equals, value = line.partition("=")
            if equals and not name.startswith("#"):
                found.setdefault(name, "".join(shlex.split(value)))
        return found


class Elevation(FactBase[str]):
    """``root``: we are; ``sudo``: it works without a password; ``none``."""

    @override
    def command(self) -> str:
        return "test $(id -u) = 0 && echo root || { sudo -n true 2>/dev/null && echo sudo || echo none; }"

    @override
    def process(self, output: list[str]) -> str:
        return output[0]
