"""Kernel settings."""

from __future__ import annotations

from mxc_ops.prep.decisions import kernel_setting
from mxc_ops.prep.facts.kernel import Setting
from mxc_ops.prep.operations.common import Commands, carry_out, operation, read


@operation
def setting(key: str, wanted: str) -> Commands:
    """Have a sysctl at a value (``>=N``: at least), now and after a restart, where the kernel has it."""
    yield from carry_out(kernel_setting(read(Setting, key=key), key, wanted))
