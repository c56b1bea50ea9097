"""Files of this controller's that are brought to hosts."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from backends.errors import PrepFailed, Problem
from backends.inside.store import PROGRAMS, find_program

__all__ = ["key_in", "own_program"]

_PREPARE = {
    "launcher": "mxc-ops prep host --backend bubblewrap --yes",
    "agent": "mxc-ops prep host --backend bubblewrap --feature sessions --yes",
}
"""What builds each program here."""


@cache
def own_program(name: str, machine: str) -> dict[str, str]:
    """This controller's own build of one of our programs: its path as `source`, and its `sha256`.

    Parameters
    ----------
    name: one of `backends.inside.store.PROGRAMS`.
    machine: of the host that it is for.

    Raises `PrepFailed` when the controller has none, or is another kind of machine.
    """
    ours = os.uname().machine
    path = find_program(PROGRAMS[name])
    if path is None or ours != machine:
        message = (
            f"this controller has no {name}" if path is None else f"the host is {machine}, we are {ours}"
        )
        fix = "let the host compile it: --launcher build" if path else _PREPARE[name]
        raise PrepFailed(Problem(f"{name}_not_here", "--launcher", message, fix=fix))
    return {"source": path, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


@cache
def key_in(archive: str) -> str:
    """The key of the image in an archive of this controller's that ``mxc-ops image export`` wrote.

    Raises `PrepFailed` when it is no such archive.
    """
    from backends.errors import ConfigError
    from vm_images.archive import image_key

    try:
        return image_key(Path(archive))
    except ConfigError as error:
        raise PrepFailed(error.problems) from error
