"""1.0.0: 0.9.0-alpha without the old names. Source: config-schema.md §7."""

from mxc_ops.config.models import v0_9_alpha
from mxc_ops.config.models.kinds import changed, choice

SHAPES = changed(
    {**v0_9_alpha.SHAPES, **v0_9_alpha.requests("1.0.0")},
    Request={
        **v0_9_alpha.base("1.0.0"),
        "containment": choice(
            "process",
            "processcontainer",
            "lxc",
            "bubblewrap",
            "seatbelt",
            "wslc",
            "isolation_session",
        ),
        "appContainer": None,
        "macos_sandbox": None,
    },
)
