"""Kernel settings."""

from __future__ import annotations

from shlex import quote

from pyinfra.api.facts import FactBase
from typing_extensions import override


class Setting(FactBase[str | None]):
    """The value of a sysctl now; None where the kernel has no such key."""

    @override
    def command(self, key: str) -> str:
        return f"cat {quote('/proc/sys/' + key.replace('.', '/'))} 2>/dev/null || true"

    @override
    def process(self, output: list[str]) -> str:
        return output[0].strip()
