"""0.9.0-alpha, the first exact contract: features leave `experimental` for the root, one network shape.

Source: config-schema.md §2, §3 and §8 (upstream publishes no file of it).
"""

from mxc_ops.config.models import v0_8
from mxc_ops.config.models.kinds import (
    FLAG,
    TEXT,
    TEXTS,
    Kind,
    Shape,
    changed,
    choice,
    required,
    section,
)

_CONTRACT_0_8 = v0_8.CONTRACT


def base(version: str) -> dict[str, Kind]:
    """What every request of an exact contract has."""
    return {**v0_8.ANNOTATIONS, "version": required(choice(version)), "telemetry": section("Telemetry")}


def provision(version: str, containment: str) -> dict[str, Kind]:
    return {
        **base(version),
        "phase": required(choice("provision")),
        "containment": required(choice(containment)),
    }


def requests(version: str) -> dict[str, Shape]:
    """The closed objects of the contracts from 0.9.0-alpha on, except the one-shot: config-schema.md §8."""
    later: Shape = {**base(version), "sandboxId": required(TEXT)}
    return {
        "IsolationSessionProvisionRequest": {
            **provision(version, "isolation_session"),
            "network": required(section("IsolationSessionNetwork")),
            "isolationSession": section("IsolationSession"),
        },
        "WslcProvisionRequest": {
            **provision(version, "wslc"),
            "filesystem": section("Filesystem"),
            "network": section("Network"),
            "wslc": section("StateAwareWslc"),
        },
        "StartRequest": {**later, "phase": required(choice("start"))},
        "ExecRequest": {
            **later,
            "phase": required(choice("exec")),
            "process": required(section("Process")),
            "network": section("Network"),
            "runtimeConfig": section("RuntimeConfig"),
        },
        "StopRequest": {**later, "phase": required(choice("stop"))},
        "DeprovisionRequest": {**later, "phase": required(choice("deprovision"))},
    }


_ALLOW = required(choice("allow"))
_GONE = (
    "Experimental",
    "IsolationSessionProvisionExperimental",
    "Proxy",
    "TelemetryOnly",
    "Test",
    "WindowsSandbox",
    "WindowsSandboxProvisionRequest",
    "WslcProvisionExperimental",
)

SHAPES = changed(
    {name: shape for name, shape in _CONTRACT_0_8.items() if name not in _GONE} | requests("0.9.0-alpha"),
    Request={
        **base("0.9.0-alpha"),
        "containment": choice(
            "process",
            "processcontainer",
            "appcontainer",
            "lxc",
            "bubblewrap",
            "seatbelt",
            "macos_sandbox",
            "wslc",
            "isolation_session",
        ),
        "experimental": None,
        "wslc": section("Wslc"),
    },
    Process={"inheritDefaultEnv": FLAG},
    Network=dict.fromkeys(
        (
            "defaultPolicy",
            "enforcementMode",
            "allowedHosts",
            "blockedHosts",
            "allowLocalNetwork",
            "proxy",
        )
    ),
    IsolationSessionNetwork={
        "defaultPolicy": None,
        "allowLocalNetwork": None,
        "egress": required(section("OpenEgress")),
        "ingress": required(section("OpenIngress")),
    },
    OpenEgress={"default": _ALLOW},
    OpenIngress={"default": _ALLOW, "hostLoopback": _ALLOW},
    ProcessContainer={"filesystem": section("ProcessContainerFilesystem")},
    ProcessContainerFilesystem={"enumeratePaths": TEXTS},
    Seatbelt={"launchMethod": None},
)
