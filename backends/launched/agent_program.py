"""The agent's program on the host, which the sessions of bubblewrap and of LXC start in their sandboxes."""

from __future__ import annotations

from collections.abc import Collection

from backends.errors import BackendUnavailable, Problem
from backends.inside.store import AGENT, find_program
from backends.needs import Health, Probe

__all__ = ["probe_agent", "require_agent"]

_WHY = "a session's sandbox runs the agent as its first program, which starts the commands"


def require_agent(backend: str) -> str:
    """The path of the agent that was built from our sources.

    Parameters
    ----------
    backend: whose sessions want it; it is named in the fix.

    Raises `BackendUnavailable` (``agent_missing``).
    """
    program = find_program(AGENT)
    if program is None:
        message = "the agent of sessions is not built"
        raise BackendUnavailable(Problem("agent_missing", "", message, fix=_fix(backend)))
    return program


def probe_agent(backend: str, features: Collection[str]) -> Probe:
    """Whether sessions can run, as the probe ``<backend>.sessions``.

    A host without the agent was not prepared for sessions: that is no fault, unless they were asked for.
    """
    identifier = f"{backend}.sessions"
    program = find_program(AGENT)
    if program is not None:
        return Probe(identifier, Health.OK, f"the agent, built from the current sources: {program}", _WHY)
    asked = "sessions" in features
    seen = "no agent that is built from these sources"
    return Probe(
        identifier,
        Health.FAILED if asked else Health.OK,
        seen if asked else f"not prepared for: {seen}",
        _WHY,
        _fix(backend),
        "root",
    )


def _fix(backend: str) -> str:
    return f"mxc-ops prep host --backend {backend} --feature sessions --yes"
