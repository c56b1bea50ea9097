"""Run a prepared request on our own standard streams: the descriptors themselves, nothing is copied."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mxc_ops.cli.signals import raise_on_signals

if TYPE_CHECKING:
    from mxc_ops.one_shot import Prepared
    from mxc_ops.result import Result


def run_in_foreground(prepared: Prepared) -> Result:
    """Run on descriptors 0, 1 and 2. SIGINT, SIGTERM and SIGHUP end the sandbox and raise `Interrupted`.

    Raises what `mxc_ops.one_shot.run` raises.
    """
    from mxc_ops.ends import Ends

    sys.stdout.flush()
    raise_on_signals()
    return prepared.run(Ends(stdin=0, stdout=1, stderr=2))
