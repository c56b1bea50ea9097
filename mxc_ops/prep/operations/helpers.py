"""Programs that are compiled on the host."""

from __future__ import annotations

from collections.abc import Sequence

from mxc_ops.prep.decisions import helper_program
from mxc_ops.prep.facts.files import Executable
from mxc_ops.prep.operations.common import Commands, carry_out, operation, read


@operation
def built(path: str, build: Sequence[str]) -> Commands:
    """Have a program at a path, compiled by a command; the path changes with the source."""
    yield from carry_out(helper_program(read(Executable, path=path), path, build))
