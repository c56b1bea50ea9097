"""0.4.0-alpha: the first version still read. Source: published schema 0.4.0-alpha."""

from mxc_ops.config.models.kinds import (
    FLAG,
    PORT,
    TEXT,
    TEXTS,
    TRUE,
    U32,
    Shapes,
    choice,
    required,
    section,
    text,
)

SHAPES: Shapes = {
    "Request": {
        "version": TEXT,
        "containerId": TEXT,
        "containment": choice("appcontainer", "lxc"),
        "lifecycle": section("Lifecycle"),
        "process": required(section("Process")),
        "filesystem": section("Filesystem"),
        "network": section("Network"),
        "appContainer": section("ProcessContainer"),
        "lxc": section("Lxc"),
    },
    "Lifecycle": {"destroyOnExit": FLAG, "preservePolicy": FLAG},
    # The published schemas up to 0.7 do not bound `timeout`; every parser reads an unsigned 32-bit number.
    "Process": {"commandLine": required(text(1)), "cwd": TEXT, "env": TEXTS, "timeout": U32},
    "Filesystem": {"readwritePaths": TEXTS, "readonlyPaths": TEXTS, "deniedPaths": TEXTS},
    "Network": {
        "defaultPolicy": choice("allow", "block"),
        "enforcementMode": choice("capabilities", "firewall", "both"),
        "allowedHosts": TEXTS,
        "blockedHosts": TEXTS,
        "proxy": section("Proxy"),
    },
    # Exactly one of its fields: `editions.Edition.one_proxy`.
    "Proxy": {"localhost": PORT, "builtinTestServer": TRUE},
    "ProcessContainer": {"leastPrivilege": FLAG, "capabilities": TEXTS},
    "Lxc": {"distribution": required(TEXT), "release": required(TEXT)},
}
