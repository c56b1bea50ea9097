"""Fixes as commands for whoever asked: from here, for that host."""

from __future__ import annotations

import re
from shlex import quote

from mxc_ops.prep.engine.session import Session
from mxc_ops.prep.items import WINDOWS
from mxc_ops.prep.messages import Request

__all__ = ["from_here"]

_OUR_COMMAND = re.compile(r"mxc-ops (prep (?:host|undo|verify)|doctor)\b")


def from_here(fix: str, session: Session, request: Request) -> str:
    """The fix, with our own commands in it aimed at the host that it is for.

    A fix is made where nothing is known of inventories; as it is, it would mend the controller.
    """
    if not request.inventory:
        return fix
    asks = session.facts.system != WINDOWS and session.access.elevation in ("none", "sudo-password")
    there = f"--inventory {quote(request.inventory)} --limit {quote(session.host.name)}"
    aimed = f"{there} --ask-sudo-password" if asks else there
    return _OUR_COMMAND.sub(lambda found: f"{found.group()} {aimed}", fix)
