"""Python environments."""

from __future__ import annotations

from shlex import quote
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.rules.python import ABSENT, MARKER, OURS, listing


class Environment(FactBase[dict[str, Any]]):
    """``{"state", "packages"}`` of the place of an environment.

    The state is ``absent``, ``ours``, or what else is there, whose programs are not run: it may be anybody's.
    The packages are ``NAME==VERSION``.
    """

    @override
    def command(self, environment: str) -> str:
        place = quote(environment)
        safe = f'find {place} -maxdepth 0 -type d "(" -user 0 -o -user "$(id -u)" ")" ! -perm /0022'
        ours = f'test -n "$({safe})" && test -f {place}/{MARKER}'
        return (
            f"if test ! -e {place} && test ! -L {place}; then echo {ABSENT};"
            f" elif {ours}; then echo {OURS}; {listing(environment)};"
            f" elif test -e {place}/pyvenv.cfg; then echo an environment; else echo something else; fi"
        )

    @staticmethod
    @override
    def default() -> dict[str, Any]:
        return {"state": ABSENT, "packages": []}

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        return {"state": output[0], "packages": [line for line in output[1:] if "==" in line]}
