"""Files and directories."""

from __future__ import annotations

from mxc_ops.prep.decisions import root_directory as decide
from mxc_ops.prep.facts.files import Status
from mxc_ops.prep.operations.common import Commands, carry_out, operation, read


@operation
def root_directory(path: str) -> Commands:
    """Have a directory that only root may write to."""
    yield from carry_out(decide(read(Status, path=path), path))
