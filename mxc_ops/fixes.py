"""Fixes as commands that can be pasted on this host, by whoever asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import quote

__all__ = ["for_this_host", "own_command"]

_ELEVATES_ITSELF = "mxc-ops prep "
_OURS = "mxc-ops "
_OF_THE_SHELL = frozenset("|&;<>")


def for_this_host(fix: str, privilege: str) -> str:
    """The fix of a probe, with root's rights where it takes them and we have none.

    Parameters
    ----------
    fix: one command, for a shell that has the rights; "" where no command mends it.
    privilege: as in `backends.needs.Probe`.
    """
    if not fix or privilege != "root" or os.geteuid() == 0 or fix.startswith(_ELEVATES_ITSELF):
        return fix
    if fix.startswith(_OURS):
        return f"sudo {quote(own_command())} {fix.removeprefix(_OURS)}"
    return f"sudo sh -c {quote(fix)}" if _OF_THE_SHELL & set(fix) else f"sudo {fix}"


def own_command() -> str:
    """How to call us from a shell of root's, whose search path is another."""
    beside = Path(sys.executable).with_name("mxc-ops")
    return str(beside) if beside.exists() else "mxc-ops"
