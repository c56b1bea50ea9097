"""What a host must have for process containers, as data (host-prep.md §1, §3, §7)."""

from __future__ import annotations

from collections.abc import Iterable

from backends.needs import Need, NeedKind, chosen
from backends.windows.executor import executor

__all__ = ["NEEDS", "NULL_DEVICE", "needs"]

ALL_PACKAGES, ALL_RESTRICTED_PACKAGES = "S-1-15-2-1", "S-1-15-2-2"
METADATA = "0x00120088"
"""READ_ATTRIBUTES, READ_EA, READ_CONTROL and SYNCHRONIZE: neither listing, nor reading, nor writing."""
NULL_DEVICE = (
    "O:BAG:SYD:(A;;GRGWGX;;;WD)(A;;FA;;;SY)(A;;FA;;;BA)(A;;GRGX;;;RC)(A;;GRGWGX;;;AC)"
    "(A;;GRGWGX;;;S-1-15-2-2)S:(ML;;NW;;;LW)"
)

NEEDS: tuple[Need, ...] = (
    Need(
        "processcontainer.edition",
        NeedKind.WINDOWS_EDITION,
        "the oldest Windows that upstream supports for app containers",
        data={"build": "26100"},
        system="windows",
    ),
    Need(
        "processcontainer.drive",
        NeedKind.DRIVE_ENTRIES,
        "programs in an app container look at the root of the drive before they open what is below",
        data={"sids": (ALL_PACKAGES, ALL_RESTRICTED_PACKAGES), "mask": METADATA},
        system="windows",
    ),
    Need(
        "processcontainer.null-device",
        NeedKind.NULL_DEVICE,
        "programs in an app container cannot open the null device otherwise",
        data={"sddl": NULL_DEVICE},
        system="windows",
    ),
    Need(
        "processcontainer.boot-task",
        NeedKind.BOOT_TASK,
        "Windows makes the null device anew at every start",
        data={"task": "mxc-ops-null-device", "script": "null-device", "sddl": NULL_DEVICE},
        system="windows",
    ),
    executor("processcontainer"),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
