"""The probe: a static program that makes one attempt after another and says what came of each."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import CHECKOUT

__all__ = ["build_probe"]

_SOURCES = CHECKOUT / "tests" / "security" / "probe"
_FLAGS = ("-std=gnu17", "-O1", "-static", "-Wall", "-Wextra", "-Werror")


def build_probe(folder: Path) -> Path:
    """Compile it into `folder`, which becomes readable for everybody."""
    folder.chmod(0o755)
    program = folder / "probe"
    subprocess.run(["gcc", *_FLAGS, "-o", program, *sorted(_SOURCES.glob("*.c"))], check=True)
    return program
