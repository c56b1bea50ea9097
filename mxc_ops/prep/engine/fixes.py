"""Fixes as commands for whoever asked: from here, for that host."""

# pyright: reportUnknownMemberType=false
# pyinfra annotates hosts incompletely.

from __future__ import annotations

import re
from shlex import join, quote

from backends.needs import Probe
from mxc_ops.fixes import for_this_host
from mxc_ops.prep.engine.session import Session
from mxc_ops.prep.items import WINDOWS
from mxc_ops.prep.messages import Request

__all__ = ["from_here", "of_probe", "with_all_rights"]

_OUR_COMMAND = re.compile(r"mxc-ops (prep (?:host|undo|verify)|doctor)\b")
_ROOT, _SUDO, _DOAS = "root", ("sudo", "sudo-password"), "doas"


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
    """The one command that a probe has for its fix, so that it runs on the host that was probed."""
    if not probe.fix:
        return ""
    if not request.inventory:
        return for_this_host(probe.fix, probe.privilege)
    if _OUR_COMMAND.match(probe.fix):
        return from_here(probe.fix, session, request)
    return _brought(probe.fix, session, request, elevated=probe.privilege == _ROOT)


def with_all_rights(script: str, session: Session, request: Request) -> str:
    """A command to be pasted here that has a shell of root's run the script on the host."""
    if request.inventory:
        return _brought(script, session, request, elevated=True)
    gained = {**dict.fromkeys(_SUDO, "sudo "), _DOAS: "doas "}.get(session.access.elevation, "")
    return f"{gained}sh -c {quote(script)}"


def _brought(command: str, session: Session, request: Request, *, elevated: bool) -> str:
    """Plain pyinfra brings a command to every host that we reach."""
    words = ["pyinfra", "-y", *(["--ssh-password-prompt"] if request.ssh_password else [])]
    if elevated and session.access.elevation == _DOAS:
        command = f"doas sh -c {quote(command)}"  # for which pyinfra has no flag
    elif elevated and session.access.elevation != _ROOT:
        words += ["--sudo", *(["--use-sudo-password"] if _asks(session) else [])]
    return join([*words, "--limit", session.host.name, request.inventory, "exec", "--", command])


def _asks(session: Session) -> bool:
    """Whether sudo wants a password there, or may."""
    return session.facts.system != WINDOWS and session.access.elevation in ("none", "sudo-password")
