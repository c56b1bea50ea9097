"""Scripts that run on the bed's host as root, with what sessions are opened and probed by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.network import in_session
from tests.network.flavours import PROBES
from tests.network.lab import Lab

__all__ = ["host_script"]


def host_script(lab: Lab, script: str, function: str, **more: Any) -> Any:
    """What `function` of `script`, which goes on from `tests.network.in_session`, returns of `more`."""
    given: dict[str, Any] = {
        "containment": lab.flavour.containment,
        "python_source": False,
        "command": [lab.flavour.interpreter, "-c", PROBES],
        "read_only": [],
        "env": {},
        **more,
    }
    source = Path(in_session.__file__).read_text() + script
    return lab.at_host.ask("script", source=source, function=function, given=given)
