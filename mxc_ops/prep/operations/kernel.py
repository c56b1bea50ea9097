"""Kernel settings and modules."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def setting(key: str, wanted: str, kernel_default: str = "", item: str = "") -> Commands:
    """Have a sysctl at a value (``>=N``: at least), now and after a restart, where the kernel has it.

    Parameters
    ----------
    kernel_default: what it is after a restart when nothing sets it; "" when that will do, or is not known.
    """
    yield from follow("kernel.setting", item, key=key, wanted=wanted, kernel_default=kernel_default)


@operation
def module(module: str, proof: str = "", item: str = "") -> Commands:
    """Have a kernel module loaded, now and after a restart.

    Parameters
    ----------
    proof: a path that is there when the kernel can do what the module is for, however it was built.
    """
    yield from follow("kernel.module", item, module=module, proof=proof)
