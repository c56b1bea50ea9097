"""1.1.0-alpha: virtual machines come back. Source: config-schema.md §3.1, §7 and §8."""

from mxc_ops.config.models import v0_8, v0_9_alpha, v1_0
from mxc_ops.config.models.kinds import TEXT, changed, choice, list_of, section

_VERSION = "1.1.0-alpha"

SHAPES = changed(
    {**v1_0.SHAPES, **v0_9_alpha.requests(_VERSION)},
    Request={
        **v0_9_alpha.base(_VERSION),
        "containment": choice(
            *v1_0.SHAPES["Request"]["containment"].choices,
            "vm",
            "windows_sandbox",
            "microvm",
            "hyperlight",
        ),
        "hyperlight": section("Hyperlight"),
        "windowsSandbox": section("WindowsSandbox"),
        "test": section("Test"),
    },
    WindowsSandboxProvisionRequest={
        **v0_9_alpha.provision(_VERSION, "windows_sandbox"),
        "filesystem": section("Filesystem"),
    },
    Hyperlight={"runtime": choice("agent", "python", "python-shell", "node", "bash", "dotnet-jit")},
    WindowsSandbox=v0_8.CONTRACT["WindowsSandbox"],
    Test={"message": TEXT},
    ProcessContainerUi={"systemSettings": choice("none", "parameters", "display", "all")},
    WslcProvision={"portMappings": list_of(section("PortMapping"))},
)
