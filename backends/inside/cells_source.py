"""The programs that run cells in a guest: as packed into images, and as sent to those that lack them."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from backends.inside.cells_calls import HEADER
from backends.inside.store import SOURCE_FOLDER

__all__ = ["node_program", "python_modules", "python_program", "rehearsal"]

_MODULES = ("cells_calls", "cells_telling", "cells")
_LOAD = """import sys, types
KEY = {key!r}
SOURCES = {sources!r}
if getattr(sys.modules.get("backends.inside.cells"), "KEY", "") != KEY:
    for name, source in SOURCES:
        module = sys.modules[name] = types.ModuleType(name)
        module.KEY = KEY
        exec(compile(source, f"<{{name}}>", "exec"), vars(module))
"""
_SERVE = """
sys.modules["backends.inside.cells"].serve()
"""


@cache
def python_modules() -> str:
    """Source that loads all that `backends.inside.cells` is, unless just that was loaded before.

    An image with a zygote has it: compiling takes longer there than all the rest of a start.
    """
    sources = [
        (f"backends.inside.{name}", Path(SOURCE_FOLDER, f"{name}.py").read_text()) for name in _MODULES
    ]
    key = hashlib.sha256(repr(sources).encode()).hexdigest()
    return _LOAD.format(key=key, sources=sources)


def python_program() -> str:
    """Source for a zygote, or for ``python3 -c``."""
    return python_modules() + _SERVE


def node_program() -> str:
    """Source for a node that waits, or for ``node -e``."""
    return Path(SOURCE_FOLDER, "cells.cjs").read_text()


def rehearsal() -> tuple[bytes, bytes]:
    """What has an interpreter do once what it is for; what its output ends with when it has."""
    cell = json.dumps({"code": "print(1)\n1", "name": "", "stream": False, "tools": []}).encode()
    done = json.dumps({"code": 0, "repr": "1", "value": 1}).encode()
    return HEADER.pack(len(cell), ord("X")) + cell, done
