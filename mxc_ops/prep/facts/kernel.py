"""Kernel settings and modules."""

from __future__ import annotations

import re
from shlex import quote

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.facts.common import EntriesFact, WordFact


class Setting(FactBase[str | None]):
    """The value of a sysctl now, its parts one blank apart; None where the kernel has no such key."""

    @override
    def command(self, key: str) -> str:
        return f"cat {quote('/proc/sys/' + key.replace('.', '/'))} 2>/dev/null || true"

    @staticmethod
    @override
    def default() -> str | None:
        return None

    @override
    def process(self, output: list[str]) -> str:
        return " ".join(output[0].split())


class Configured(EntriesFact):
    """What sysctl.d(5) sets a key to when the host starts: ``{"path", "value"}`` of each, the last one holds.

    Of /etc/sysctl.conf only what a link in one of the directories makes known: not everybody reads it else.
    """

    @override
    def command(self, key: str) -> str:
        name = re.escape(key).replace(r"\.", "[./]")
        sets = quote(f"^[[:space:]]*-?[[:space:]]*{name}[[:space:]]*=")
        # A file in an earlier directory takes the place of those of its name in later ones, even if empty.
        return (
            'set --; seen=" "; for folder in /etc /run /usr/local/lib /usr/lib /lib; do'
            ' for file in "$folder"/sysctl.d/*.conf; do name=${file##*/};'
            ' case "$seen" in *" $name "*) ;; *) seen="$seen$name "; set -- "$@" "$file";; esac; done; done;'
            f' grep -sHE {sets} "$@" /dev/null || true'
        )

    @override
    def process(self, output: list[str]) -> list[dict[str, str]]:
        parts = [line.partition(":") for line in output if ":" in line]
        found = [{"path": path, "value": " ".join(text.partition("=")[2].split())} for path, _, text in parts]
        return sorted(found, key=lambda entry: entry["path"].rpartition("/")[2])


class Module(WordFact):
    """A kernel module: ``loaded``, ``built-in``, ``available`` (it can be loaded) or ``absent``.

    Parameters
    ----------
    proof: a path that is there when the kernel can do what the module is for; "" when there is none.
    """

    @override
    def command(self, module: str, proof: str = "") -> str:
        # A built-in module without parameters has no directory in /sys (modules.builtin, kernel: kbuild).
        tree = '"/lib/modules/$(uname -r)"'
        listed = f"grep -qs '/{module.replace('_', '[-_]')}[.]ko' {tree}/modules"
        told = f" || test -e {quote(proof)}" if proof else ""
        return (
            f"if grep -q '^{module} ' /proc/modules; then echo loaded;"
            f" elif test -d /sys/module/{module}{told} || {listed}.builtin; then echo built-in;"
            f" elif {listed}.dep; then echo available; else echo absent; fi"
        )

    @staticmethod
    @override
    def default() -> str:
        return "absent"
