"""Kernel settings and modules."""

from __future__ import annotations

from shlex import quote

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.facts.common import WordFact


class Setting(FactBase[str | None]):
    """The value of a sysctl now; None where the kernel has no such key."""

    @override
    def command(self, key: str) -> str:
        return f"cat {quote('/proc/sys/' + key.replace('.', '/'))} 2>/dev/null || true"

    @staticmethod
    @override
    def default() -> str | None:
        return None

    @override
    def process(self, output: list[str]) -> str:
        return output[0].strip()


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
