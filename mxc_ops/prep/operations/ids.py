"""Ranges of uids and gids."""

from __future__ import annotations

from backends.linux.id_ranges import ID_FILES
from mxc_ops.prep.decisions import id_range
from mxc_ops.prep.facts.files import Texts
from mxc_ops.prep.operations.common import Commands, carry_out, operation, read


@operation
def recorded_range(path: str, wanted: str) -> Commands:
    """Have a range of ids (``first:count``) recorded as ours in a JSON file, unless somebody has them."""
    yield from carry_out(id_range(read(Texts, paths=[path, *ID_FILES]), path, wanted))
