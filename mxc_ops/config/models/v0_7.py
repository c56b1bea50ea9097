"""0.7: Seatbelt, annotations. 0.7.0-dev: lifecycle requests, experimental backends.

Sources: published schemas 0.7.0-alpha and 0.7.0-dev.
"""

from mxc_ops.config.models import v0_6
from mxc_ops.config.models.kinds import (
    ANYTHING,
    FLAG,
    PORT,
    TEXT,
    TEXTS,
    changed,
    choice,
    list_of,
    optional,
    required,
    section,
)

_SEATBELT = {
    "profileOverride": TEXT,
    "guiAccess": FLAG,
    "launchMethod": choice("exec", "open"),
    "nestedPty": FLAG,
    "keychainAccess": FLAG,
    "extraMachLookups": TEXTS,
}

ALPHA = changed(
    v0_6.SHAPES,
    Request={
        "$schema": TEXT,
        "_comment": ANYTHING,
        "containment": choice("process", "processcontainer", "lxc", "bubblewrap", "seatbelt"),
        "appContainer": section("ProcessContainer"),
        "seatbelt": section("Seatbelt"),
    },
    Seatbelt=_SEATBELT,
)

CONTRACT = changed(
    ALPHA,
    Request={
        "containment": choice(
            "process", "processcontainer", "appcontainer", "lxc", "bubblewrap", "seatbelt", "macos_sandbox"
        ),
        "macos_sandbox": section("Seatbelt"),
    },
)
"""The contract also reads the old names (fixtures ``app_container_alias``, ``macos_sandbox_alias``)."""

_CONFIGURATION = choice("small", "medium", "large", "composable")

DEV = changed(
    v0_6.SHAPES,
    Request={
        "containment": choice(
            "process",
            "processcontainer",
            "vm",
            "windows_sandbox",
            "lxc",
            "microvm",
            "hyperlight",
            "wslc",
            "seatbelt",
            "isolation_session",
            "bubblewrap",
        ),
        "phase": choice("provision", "start", "exec", "stop", "deprovision"),
        "sandboxId": TEXT,
        # Only one-shot and exec have one; the schema leaves that to the parser.
        "process": optional(section("Process")),
        "experimental": section("Experimental"),
    },
    Experimental={
        "macos_sandbox": None,
        "seatbelt": section("Seatbelt"),
        "isolation_session": section("IsolationSession"),
    },
    Seatbelt=_SEATBELT,
    Wslc={"portMappings": list_of(section("PortMapping"))},
    PortMapping={
        "windowsPort": required(PORT),
        "containerPort": required(PORT),
        "protocol": choice("tcp", "udp"),
    },
    IsolationSession={
        "configurationId": _CONFIGURATION,
        "provision": section("IsolationSessionProvision"),
        "start": section("IsolationSessionStart"),
        "stop": section("Nothing"),
        "deprovision": section("Nothing"),
    },
    IsolationSessionProvision={"user": section("IsolationSessionUser")},
    IsolationSessionStart={"configurationId": _CONFIGURATION, "user": section("IsolationSessionUser")},
    IsolationSessionUser={"upn": required(TEXT), "wamToken": required(TEXT)},
    Nothing={},
)
