"""Packages, as each family's package manager knows them."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from mxc_ops.prep.facts.common import LinesFact, WordFact
from mxc_ops.prep.rules.package_managers import MANAGERS, joined, only


class Missing(LinesFact):
    """Those of the given packages that are not installed; all, where we know no package manager."""

    @override
    def command(self, packages: Sequence[str], family: str) -> str:
        if family not in MANAGERS:
            return f"printf '%s\\n' {joined(packages)}"
        return MANAGERS[family].missing(packages)


class Removal(LinesFact):
    """Those of the given packages that are there, and all that would have to go with them.

    Parameters
    ----------
    kept: further packages, whose configuration would stay.
    """

    @override
    def command(self, packages: Sequence[str], kept: Sequence[str], family: str) -> str:
        return MANAGERS[family].removal(packages, kept) if packages or kept else "true"


class Wanted(LinesFact):
    """Those of the given packages that an administrator asked for, rather than that came along.

    Parameters
    ----------
    virtual: names that we asked for and that others provide: what provides them came by us.
    """

    @override
    def command(self, packages: Sequence[str], virtual: Sequence[str], family: str) -> str:
        return f"{MANAGERS[family].wanted(virtual)} | {only(packages)} || true" if packages else "true"


class Tool(WordFact):
    """The program that installs packages: of the family's the first that is there; "" when none is.

    Where the system is an image: ``rpm-ostree`` or ``transactional-update``.
    """

    @override
    def command(self, family: str) -> str:
        tools = MANAGERS[family].tools if family in MANAGERS else ()
        image = "command -v transactional-update >/dev/null && grep -q '^[^ ]* / [^ ]* ro[ ,]' /proc/mounts"
        return (
            "if test -e /run/ostree-booted; then echo rpm-ostree;"
            f" elif {image}; then echo transactional-update;"
            f" else for tool in {joined(tools)}; do"
            " if command -v $tool >/dev/null; then echo $tool; break; fi; done; fi"
        )
