"""Python environments."""

from __future__ import annotations

from collections.abc import Sequence

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def environment(environment: str, requirements: Sequence[str], item: str = "") -> Commands:
    """Have a Python environment with exactly these packages.

    Parameters
    ----------
    environment: the path of its directory.
    requirements: each ``NAME==VERSION``, with all that they need.
    """
    yield from follow("python.environment", item, environment=environment, requirements=list(requirements))
