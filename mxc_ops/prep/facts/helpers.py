"""The store of compiled helpers."""

from __future__ import annotations

from shlex import quote

from typing_extensions import override

from mxc_ops.prep.facts.common import LinesFact


class Stored(LinesFact):
    """The keys that a store holds, and what was left unfinished in it."""

    @override
    def command(self, store: str) -> str:
        return f"ls -1A {quote(store)} 2>/dev/null || true"
