"""Environment variables that an interpreter reads when it starts: too late for one that waits (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backends.base import SandboxRequest
from backends.errors import Problem
from backends.virtual_machine import CommandKind

__all__ = ["unheeded"]

# nodejs.org/api/cli.html: those that change what a program does. NODE_PATH, TZ and the like are heeded.
_AT_START: Mapping[CommandKind, tuple[str, ...]] = {
    CommandKind.NODE: (
        *("NODE_DEBUG", "NODE_DEBUG_NATIVE", "NODE_EXTRA_CA_CERTS", "NODE_ICU_DATA", "NODE_NO_WARNINGS"),
        *("NODE_OPTIONS", "NODE_PENDING_DEPRECATION", "NODE_PRESERVE_SYMLINKS", "NODE_REDIRECT_WARNINGS"),
        *("NODE_V8_COVERAGE", "OPENSSL_CONF"),
    )
}


def unheeded(request: SandboxRequest, kind: CommandKind | None) -> Iterator[Problem]:
    """Every variable of the request that its command's interpreter would have to be started with."""
    names = {name for name, _ in (*request.environment.entries, *request.environment.secrets)}
    for name in _AT_START.get(kind, ()) if kind else ():
        if name in names:
            yield Problem(
                "variable_unheeded",
                request.pointers.get("env", "/process/env"),
                f"{name} is for an interpreter that starts, and the one that takes the source waits already",
                expected=f"an environment without {name}",
                fix="mxcOps.args, which start one: node -e SOURCE",
            )
