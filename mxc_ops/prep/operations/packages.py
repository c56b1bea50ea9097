"""Packages."""

from __future__ import annotations

from collections.abc import Sequence

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def installed(packages: Sequence[str], family: str = "debian", item: str = "") -> Commands:
    """Have packages installed, without what they merely recommend.

    Parameters
    ----------
    family: of distributions: whose package manager is used.
    """
    yield from follow("packages.installed", item, packages=list(packages), family=family)
