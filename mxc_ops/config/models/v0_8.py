"""0.8: directional network, denial capture. Three editions share the number.

`STABLE`: the published stable file 0.8.0-alpha (null is allowed). `CONTRACT`: the exact contract 0.8.0-alpha
of the development schemas, one closed object per request. `DEV`: 0.8.0-dev as it stood before 0.8.0-alpha;
upstream no longer publishes that file, so this is put together from config-schema.md §3.10 and §7.
"""

from mxc_ops.config.models import v0_7
from mxc_ops.config.models.kinds import (
    ANYTHING,
    FLAG,
    PORT,
    TEXT,
    TEXTS,
    TRUE,
    U32,
    U64,
    Shape,
    changed,
    choice,
    list_of,
    optional,
    required,
    section,
    text,
)

_ACTION = choice("allow", "deny")

DIRECTIONAL_NETWORK: dict[str, Shape] = {
    "Egress": {
        "default": _ACTION,
        "allow": list_of(section("NetworkRule")),
        "deny": list_of(section("NetworkRule")),
    },
    "Ingress": {"default": _ACTION, "hostLoopback": _ACTION},
    "NetworkRule": {
        "to": list_of(section("NetworkPeer"), min_length=1),
        "ports": list_of(section("NetworkPort"), min_length=1),
    },
    "NetworkPeer": {"cidr": required(TEXT), "except": TEXTS},
    "NetworkPort": {"protocol": choice("tcp", "udp", "icmp", "any"), "port": PORT, "endPort": PORT},
}

STABLE = changed(
    v0_7.ALPHA,
    Request={"appContainer": None, "runtimeConfig": section("RuntimeConfig")},
    RuntimeConfig={"networkProxy": TEXT},
    Process={"commandLine": TEXT},
    Network={"egress": section("Egress"), "ingress": section("Ingress")},
    **DIRECTIONAL_NETWORK,
    Proxy={"builtinTestServer": FLAG},
    ProcessContainer={
        "learningMode": FLAG,
        "captureDenials": section("CaptureDenials"),
        "network": section("ProcessContainerNetwork"),
    },
    CaptureDenials={"mode": choice("block", "allow"), "outputPath": TEXT, "retainEtl": FLAG},
    ProcessContainerNetwork={"allowedProxyPeer": TEXT},
    Lxc={"distribution": TEXT, "release": TEXT},
)

_EVERY_CONTAINMENT = v0_7.DEV["Request"]["containment"]

DEV = changed(
    STABLE,
    Request={
        "appContainer": section("ProcessContainer"),
        "containment": _EVERY_CONTAINMENT,
        "phase": v0_7.DEV["Request"]["phase"],
        "sandboxId": TEXT,
        "process": optional(section("Process")),
        "experimental": section("Experimental"),
    },
    Process={"commandLine": required(text(1))},
    Lxc=v0_7.ALPHA["Lxc"],
    Experimental={
        "macos_sandbox": None,
        "isolation_session": section("IsolationSession"),
        "telemetry": section("Telemetry"),
    },
    Telemetry={"enabled": FLAG},
    **{
        name: v0_7.DEV[name]
        for name in (
            "IsolationSession",
            "IsolationSessionProvision",
            "IsolationSessionStart",
            "IsolationSessionUser",
            "Nothing",
            "PortMapping",
            "Wslc",
        )
    },
)

ANNOTATIONS: Shape = {"$schema": TEXT, "_comment": ANYTHING}
_BASE: Shape = {**ANNOTATIONS, "version": required(choice("0.8.0-alpha"))}
_TELEMETRY_ONLY = section("TelemetryOnly")
_LATER_PHASE: Shape = {
    **_BASE,
    "sandboxId": required(TEXT),
    "correlationVector": TEXT,
    "experimental": _TELEMETRY_ONLY,
}

_STABLE_ROOT = STABLE["Request"]

CONTRACT = changed(
    STABLE,
    Request={
        **_BASE,
        "containment": choice(
            "process",
            "processcontainer",
            "appcontainer",
            "lxc",
            "bubblewrap",
            "seatbelt",
            "macos_sandbox",
            "vm",
            "windows_sandbox",
            "microvm",
            "hyperlight",
            "wslc",
            "isolation_session",
        ),
        "appContainer": _STABLE_ROOT["processContainer"],
        "macos_sandbox": _STABLE_ROOT["seatbelt"],
        "experimental": section("Experimental"),
    },
    IsolationSessionProvisionRequest={
        **_BASE,
        "phase": required(choice("provision")),
        "containment": required(choice("isolation_session")),
        "network": required(section("IsolationSessionNetwork")),
        "experimental": section("IsolationSessionProvisionExperimental"),
    },
    WslcProvisionRequest={
        **_BASE,
        "phase": required(choice("provision")),
        "containment": required(choice("wslc")),
        "filesystem": section("Filesystem"),
        "network": section("Network"),
        "experimental": section("WslcProvisionExperimental"),
    },
    WindowsSandboxProvisionRequest={
        **_BASE,
        "phase": required(choice("provision")),
        "containment": required(choice("windows_sandbox")),
        "filesystem": section("Filesystem"),
        "experimental": _TELEMETRY_ONLY,
    },
    StartRequest={**_LATER_PHASE, "phase": required(choice("start"))},
    ExecRequest={
        **_LATER_PHASE,
        "phase": required(choice("exec")),
        "process": required(section("Process")),
        "network": section("Network"),
    },
    StopRequest={**_LATER_PHASE, "phase": required(choice("stop"))},
    DeprovisionRequest={**_LATER_PHASE, "phase": required(choice("deprovision"))},
    Process={"commandLine": required(text(1))},
    Proxy={"builtinTestServer": TRUE},
    Lxc={"distribution": required(TEXT), "release": required(TEXT)},
    Telemetry={"enabled": FLAG},
    TelemetryOnly={"telemetry": section("Telemetry")},
    Experimental={"macos_sandbox": None, "telemetry": section("Telemetry")},
    WindowsSandbox={"idleTimeout": U32},
    Wslc={"portMappings": list_of(section("PortMapping")), "cpuCount": U32, "memoryMb": U64},
    PortMapping={"windowsPort": required(PORT), "containerPort": required(PORT), "protocol": choice("tcp")},
    IsolationSessionNetwork={
        "defaultPolicy": required(choice("allow")),
        "allowLocalNetwork": required(TRUE),
    },
    IsolationSession={"provision": section("IsolationSessionProvision")},
    IsolationSessionProvision={"appId": TEXT},
    IsolationSessionProvisionExperimental={
        "isolation_session": section("IsolationSession"),
        "telemetry": section("Telemetry"),
    },
    WslcProvisionExperimental={"wslc": section("StateAwareWslc"), "telemetry": section("Telemetry")},
    StateAwareWslc={"provision": section("WslcProvision")},
    WslcProvision={"image": TEXT, "imageTarPath": TEXT},
)
