"""Device nodes."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def accessible(path: str, group: str, item: str = "") -> Commands:
    """Have a device that the members of a group may open, where it is there and works.

    Parameters
    ----------
    group: "" stands for everybody.
    """
    yield from follow("devices.accessible", item, path=path, group=group)
