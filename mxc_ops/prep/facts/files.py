"""Files and directories."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.facts.common import LinesFact, WordFact

_KINDS = {"d": "directory", "-": "file", "l": "symbolic link"}
_MARK = "=== "


class Status(FactBase[dict[str, str] | None]):
    """``{"kind", "mode", "owner"}`` of a path, None where there is nothing; links are not followed."""

    @override
    def command(self, path: str) -> str:
        return f"stat -c '%A %a %u' {quote(path)} 2>/dev/null || true"

    @staticmethod
    @override
    def default() -> dict[str, str] | None:
        return None

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        rights, mode, owner = output[0].split()
        return {"kind": _KINDS.get(rights[0], "special file"), "mode": mode, "owner": owner}


class Checksum(WordFact):
    """SHA-256 of a program of root's that all may run and none may write; "" where there is no such."""

    @override
    def command(self, path: str) -> str:
        name = quote(path)
        safe = f"find {name} -maxdepth 0 -type f -user 0 -perm -0555 ! -perm /0022"
        return f'if test -n "$({safe} 2>/dev/null)"; then sha256sum < {name}; fi'

    @override
    def process(self, output: list[str]) -> str:
        return output[0].split()[0]


class Existing(LinesFact):
    """Those of the given paths where there is something, links included."""

    @override
    def command(self, paths: Sequence[str]) -> str:
        names = " ".join(quote(path) for path in paths)
        return f'for path in {names}; do if test -e "$path" || test -L "$path"; then echo "$path"; fi; done'


class Texts(FactBase[dict[str, str]]):
    """Contents of text files by path; those that are not there, or cannot be read, are missing."""

    @override
    def command(self, paths: Sequence[str]) -> str:
        names = " ".join(quote(path) for path in paths)
        shown = f'echo "{_MARK}$path"; cat "$path"; echo'
        # Of what is in /sys, more may be refused than its mode says.
        return f'for path in {names}; do if cat "$path" >/dev/null 2>&1; then {shown}; fi; done'

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        texts: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in output:
            if line.startswith(_MARK):
                lines = texts.setdefault(line.removeprefix(_MARK), [])
            else:
                lines.append(line)
        return {path: "\n".join(found) for path, found in texts.items()}
