"""Python of ours that the prepared host's own python3 runs, with the libvirt module of its distribution.

So that no process of ours loads libvirt, and a host far away is prepared exactly as this one is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["OBJECTS", "SYSTEM", "TRIAL", "command", "source"]

SYSTEM = "qemu:///system"
"""Where the host's own daemon is asked, as libvirt names it (libvirt: uri.html)."""
OBJECTS, TRIAL = "libvirt_objects", "libvirt_trial"
_PYTHON = "/usr/bin/python3"


@cache
def source(script: str) -> str:
    """The text of a script of this folder: `OBJECTS` or `TRIAL`."""
    return Path(__file__).with_name(f"{script}.py").read_text()


def command(script: str, request: Mapping[str, Any]) -> tuple[str, ...]:
    """The argument vector that runs a script on the host.

    The distribution's own interpreter, isolated from variables and modules of whoever calls: only it has the
    distribution's libvirt module.

    Parameters
    ----------
    request: what is asked of the script; JSON.
    """
    return _PYTHON, "-I", "-c", source(script), json.dumps(request)
