"""Recorded changes, taken back."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, go_back, operation
from mxc_ops.prep.receipts import Receipt


@operation
def reversed_change(receipt: Receipt, insist: bool = False) -> Commands:
    """Have what a receipt records taken back, and the receipt gone.

    Parameters
    ----------
    insist: also where the host has drifted from what was made.
    """
    yield from go_back(receipt, insist=insist)
