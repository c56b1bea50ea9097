"""The examples of the Python API's page run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.backend("bubblewrap")
def test_the_pages_examples_run_in_order(checkout: Path):
    page = (checkout / "docs/python-api.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 8
    names: dict[str, Any] = {"__name__": "example"}
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"python-api.md example {number}", "exec"), names)
