"""Environment variables that an interpreter reads when it starts: too late for one that waits (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backends.base import SandboxRequest
from backends.errors import Problem
from backends.virtual_machine import CommandKind

__all__ = ["unheeded"]

# Those that change what a program does, by nodejs.org/api/cli.html and docs.python.org/3/using/cmdline.html.
# NODE_PATH, PYTHONPATH, TZ and the like are heeded, see zygote.js and zygote.py; a program's own code reads
# PYTHONASYNCIODEBUG and PYTHONBREAKPOINT; PYTHONSTARTUP is for those who type.
_AT_START: Mapping[CommandKind | None, tuple[str, ...]] = {
    CommandKind.NODE: (
        *("NODE_DEBUG", "NODE_DEBUG_NATIVE", "NODE_EXTRA_CA_CERTS", "NODE_ICU_DATA", "NODE_NO_WARNINGS"),
        *("NODE_OPTIONS", "NODE_PENDING_DEPRECATION", "NODE_PRESERVE_SYMLINKS", "NODE_REDIRECT_WARNINGS"),
        *("NODE_V8_COVERAGE", "OPENSSL_CONF"),
    ),
    CommandKind.PYTHON: (
        *("PYTHONCOERCECLOCALE", "PYTHONDEBUG", "PYTHONDEVMODE", "PYTHONDUMPREFS", "PYTHONDUMPREFSFILE"),
        *("PYTHONHASHSEED", "PYTHONHOME", "PYTHONINSPECT", "PYTHONINTMAXSTRDIGITS", "PYTHONIOENCODING"),
        *("PYTHONMALLOC", "PYTHONMALLOCSTATS", "PYTHONNODEBUGRANGES", "PYTHONNOUSERSITE", "PYTHONOPTIMIZE"),
        *("PYTHONPERFSUPPORT", "PYTHONPLATLIBDIR", "PYTHONPROFILEIMPORTTIME", "PYTHONPYCACHEPREFIX"),
        *("PYTHONSAFEPATH", "PYTHONTRACEMALLOC", "PYTHONUSERBASE", "PYTHONUTF8", "PYTHONVERBOSE"),
        *("PYTHONWARNDEFAULTENCODING", "PYTHON_CPU_COUNT", "PYTHON_FROZEN_MODULES", "PYTHON_GIL"),
        *("PYTHON_PERF_JIT_SUPPORT", "PYTHON_PRESITE"),
    ),
}

_STARTS_ONE: Mapping[CommandKind | None, str] = {
    CommandKind.NODE: "node -e SOURCE",
    CommandKind.PYTHON: "python3 -c SOURCE",
}


def unheeded(request: SandboxRequest, kind: CommandKind | None) -> Iterator[Problem]:
    """Every variable of the request that its command's interpreter would have to be started with."""
    names = {name for name, _ in (*request.environment.entries, *request.environment.secrets)}
    if kind not in _AT_START:
        return
    for name in _AT_START[kind]:
        if name in names:
            yield Problem(
                "variable_unheeded",
                request.pointers.get("env", "/process/env"),
                f"{name} is for an interpreter that starts, and the one that takes the source waits already",
                expected=f"an environment without {name}",
                fix=f"mxcOps.args, which start one: {_STARTS_ONE[kind]}",
            )
