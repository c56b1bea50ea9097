"""Python environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def environment(
    environment: str,
    requirements: Sequence[str],
    checksums: Mapping[str, Sequence[str]] | None = None,
    item: str = "",
) -> Commands:
    """Have a Python environment with exactly these packages.

    Parameters
    ----------
    environment: the path of its directory.
    requirements: each ``NAME==VERSION``, with all that they need.
    checksums: the SHA-256 of each requirement's wheels; none: any that the index has.
    """
    yield from follow(
        "python.environment",
        item,
        environment=environment,
        requirements=list(requirements),
        checksums={name: list(sums) for name, sums in (checksums or {}).items()},
    )
