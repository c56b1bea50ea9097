"""The templates that a process has open."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from backends.errors import BackendUnavailable, Problem
from backends.qemu import open_templates
from backends.qemu.open_templates import shared_template


def test_nobody_is_told_of_a_failure_that_came_before_he_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wanted the template then was interrupted; the making went on, and failed."""
    opened: list[object] = []

    async def open_it(*_: object) -> Any:
        opened.append(None)
        await asyncio.sleep(0.01)
        if len(opened) == 1:
            raise BackendUnavailable(Problem("host_full", "", "the host is full"), retryable=True)
        return "a template"

    monkeypatch.setattr(open_templates, "open_template", open_it)
    plan: Any = SimpleNamespace(key="any")
    store: Any = SimpleNamespace(folder="/any")

    async def main() -> object:
        first = asyncio.ensure_future(shared_template(plan, "any", store))  # pyright: ignore[reportArgumentType]
        await asyncio.sleep(0)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        await asyncio.sleep(0.05)
        return await shared_template(plan, "any", store)  # pyright: ignore[reportArgumentType]

    assert asyncio.run(main()) == "a template"
    assert len(opened) == 2
