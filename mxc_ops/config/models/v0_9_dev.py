"""0.9.0-dev: the end of the ranged line; null is allowed for whatever is optional. Source: published schema
0.9.0-dev, here closed inside `experimental` too.
"""

from mxc_ops.config.models import v0_7, v0_8
from mxc_ops.config.models.kinds import TEXT, Shapes, changed, optional, section

_EXPERIMENTAL_NAMES = (
    "Experimental",
    "Telemetry",
    "WindowsSandbox",
    "Wslc",
    "PortMapping",
    "IsolationSession",
    "IsolationSessionProvision",
    "WslcProvision",
)

SHAPES: Shapes = changed(
    changed(v0_8.STABLE, **{name: v0_8.CONTRACT[name] for name in _EXPERIMENTAL_NAMES}),
    Request={
        "containment": v0_7.DEV["Request"]["containment"],
        "phase": v0_7.DEV["Request"]["phase"],
        "sandboxId": TEXT,
        "process": optional(section("Process")),
        "experimental": section("Experimental"),
        "correlationVector": TEXT,
    },
    Experimental={
        "macos_sandbox": None,
        "seatbelt": section("Seatbelt"),
        "isolation_session": section("IsolationSession"),
    },
    Wslc={"provision": section("WslcProvision")},
)
