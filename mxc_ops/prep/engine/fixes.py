"""Fixes as commands for whoever asked: from here, for that host."""

from __future__ import annotations

import re
from shlex import join, quote

from backends.needs import Probe
from mxc_ops.fixes import for_this_host
from mxc_ops.prep.engine.session import Session
from mxc_ops.prep.items import WINDOWS
from mxc_ops.prep.messages import Request

__all__ = ["from_here", "of_probe"]

_OUR_COMMAND = re.compile(r"mxc-ops (prep (?:host|undo|verify)|doctor)\b")
_ROOT = "root"


def from_here(fix: str, session: Session, request: Request) -> str:
    """The fix, with our own commands in it aimed at the host that it is for.

    A fix is made where nothing is known of inventories; as it is, it would mend the controller.
    """
    if not request.inventory:
        return fix
    aimed = f"--inventory {quote(request.inventory)} --limit {quote(session.host.name)}"
    aimed += " --ask-sudo-password" if _asks(session) else ""
    aimed += " --ask-ssh-password" if request.ssh_password else ""
    return _OUR_COMMAND.sub(lambda found: f"{found.group()} {aimed}", fix)


def of_probe(probe: Probe, session: Session, request: Request) -> str:
    """The one command that a probe has for its fix, so that it runs on the host that was probed.

    A command that is not ours is brought there by plain pyinfra, which reaches every host that we do.
    """
    if not probe.fix:
        return ""
    if not request.inventory:
        return for_this_host(probe.fix, probe.privilege)
    if _OUR_COMMAND.match(probe.fix):
        return from_here(probe.fix, session, request)
    command = probe.fix
    words = ["pyinfra", "-y", *(["--ssh-password-prompt"] if request.ssh_password else [])]
    if probe.privilege == _ROOT and session.access.elevation == "doas":
        command = f"doas sh -c {quote(command)}"  # for which pyinfra has no flag
    elif probe.privilege == _ROOT and session.access.elevation != _ROOT:
        words += ["--sudo", *(["--use-sudo-password"] if _asks(session) else [])]
    return join([*words, "--limit", session.host.name, request.inventory, "exec", "--", command])


def _asks(session: Session) -> bool:
    """Whether sudo wants a password there, or may."""
    return session.facts.system != WINDOWS and session.access.elevation in ("none", "sudo-password")
