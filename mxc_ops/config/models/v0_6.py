"""0.6.0-alpha: AppContainer is called process container, `fallback`, local network; experiments move
to the development schemas. Source: published schema 0.6.0-alpha.
"""

from mxc_ops.config.models import v0_5
from mxc_ops.config.models.kinds import FLAG, changed, choice, section

SHAPES = changed(
    v0_5.SHAPES,
    Request={
        "containment": choice("process", "processcontainer", "lxc", "bubblewrap"),
        "appContainer": None,
        "processContainer": section("ProcessContainer"),
        "fallback": section("Fallback"),
        "experimental": None,
    },
    Fallback={"allowDaclMutation": FLAG},
    Network={"allowLocalNetwork": FLAG},
)

CONTRACT = changed(
    SHAPES,
    Request={
        "containment": choice("process", "processcontainer", "appcontainer", "lxc", "bubblewrap"),
        "appContainer": section("ProcessContainer"),
    },
)
"""The contract also reads the old names of the process container (its fixture ``app_container_alias``)."""
