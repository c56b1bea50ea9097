"""Ranges of uids and gids."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def recorded_range(path: str, wanted: str, item: str = "") -> Commands:
    """Have a range of ids (``first:count``) recorded as ours in a JSON file, unless somebody has them."""
    yield from follow("ids.recorded_range", item, path=path, wanted=wanted)


@operation
def subordinate(user: str, count: int, item: str = "") -> Commands:
    """Have a range of subordinate uids and gids for a user, as subuid(5) says."""
    yield from follow("ids.subordinate", item, user=user, count=count)
