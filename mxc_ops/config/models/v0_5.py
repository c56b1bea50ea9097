"""0.5.0-alpha: user interface, proxy by address, experimental backends. Source: published schema 0.5.0-alpha.

Upstream also publishes a "strict" file of this version: the same without `experimental` and its containments.
"""

from mxc_ops.config.models import v0_4
from mxc_ops.config.models.kinds import FLAG, TEXT, U32, changed, choice, integer, section

SHAPES = changed(
    v0_4.SHAPES,
    Request={
        "containment": choice("appcontainer", "windows_sandbox", "lxc", "microvm", "wslc", "macos_sandbox"),
        "ui": section("Ui"),
        "experimental": section("Experimental"),
    },
    Ui={"disable": FLAG, "clipboard": choice("none", "read", "write", "all"), "injection": FLAG},
    ProcessContainer={"ui": section("ProcessContainerUi")},
    ProcessContainerUi={
        "isolation": choice("desktop", "handles", "atoms", "container"),
        "desktopSystemControl": FLAG,
        "systemSettings": TEXT,
        "ime": FLAG,
    },
    Proxy={"url": TEXT},
    Experimental={
        "test": section("Test"),
        "windows_sandbox": section("WindowsSandbox"),
        "wslc": section("Wslc"),
        "macos_sandbox": section("MacosSandbox"),
    },
    Test={"message": TEXT},
    WindowsSandbox={"idleTimeoutMs": U32, "daemonPipeName": TEXT},
    Wslc={
        "targetOs": TEXT,
        "image": TEXT,
        "imageTarPath": TEXT,
        "cpuCount": integer(1, 2**32 - 1),
        "memoryMb": integer(256, 2**64 - 1),
        "gpu": FLAG,
        "storagePath": TEXT,
    },
    MacosSandbox={"mode": choice("exec", "inproc"), "profileOverride": TEXT},
)
