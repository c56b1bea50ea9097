"""Windows hosts. A decision has one command at most: what must be done together stands in one script."""

from __future__ import annotations

from collections.abc import Mapping

from mxc_ops.prep.decision import Rule
from mxc_ops.prep.rules.windows import (
    boot_task,
    drive,
    edition,
    executor,
    features,
    hypervisor,
    null_device,
    wsl,
)

__all__ = ["RULES"]

RULES: Mapping[str, Rule] = {
    "edition": edition.RULE,
    "feature": features.RULE,
    "hypervisor": hypervisor.RULE,
    "wsl": wsl.RULE,
    "drive_entries": drive.RULE,
    "null_device": null_device.RULE,
    "boot_task": boot_task.RULE,
    "executor": executor.RULE,
}
