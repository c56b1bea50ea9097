"""The examples of the page about Hyperlight run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.backend("microvm"), pytest.mark.usefixtures("python_image")]


def test_the_pages_examples_run_in_order(checkout: Path) -> None:
    page = (checkout / "docs/hyperlight.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 8
    names: dict[str, Any] = {"__name__": "example"}
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"hyperlight.md example {number}", "exec"), names)
