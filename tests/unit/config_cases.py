"""Short ways to load a document in a test and to name what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.errors import ConfigError, Problem
from mxc_ops.config.document import Strictness
from mxc_ops.config.loader import load

RUN: dict[str, Any] = {"process": {"commandLine": "true"}}


def one_shot(version: str | None = "0.8.0-alpha", **fields: Any) -> dict[str, Any]:
    """A minimal one-shot document with these fields besides."""
    document: dict[str, Any] = {**RUN, **fields}
    return document if version is None else {"version": version, **document}


def problems(document: Any, **options: Any) -> tuple[Problem, ...]:
    """What is wrong with a document; the test fails when nothing is."""
    source = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ConfigError) as caught:
        load(source, **options)
    return caught.value.problems


def signs(document: Any, **options: Any) -> set[tuple[str, str]]:
    """Code and pointer of everything that is wrong."""
    return {(problem.code, problem.path) for problem in problems(document, **options)}


def accept(document: Any, **options: Any) -> tuple[Problem, ...]:
    """Load a document and return its warnings."""
    return load(json.dumps(document).encode(), **options).warnings


CONTRACT = {"strictness": Strictness.CONTRACT}
