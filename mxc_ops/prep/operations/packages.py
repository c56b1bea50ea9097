"""Packages."""

from __future__ import annotations

from collections.abc import Sequence

from mxc_ops.prep.decisions import installed_packages
from mxc_ops.prep.facts.packages import Missing
from mxc_ops.prep.operations.common import Commands, carry_out, operation, read


@operation
def installed(packages: Sequence[str]) -> Commands:
    """Have packages installed, without what they merely recommend."""
    yield from carry_out(installed_packages(read(Missing, packages=packages), packages))
