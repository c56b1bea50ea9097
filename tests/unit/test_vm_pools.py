"""The pools of a process, without a machine in them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from backends.errors import BackendUnavailable, Problem
from backends.qemu import pool as pool_module
from backends.qemu.pools import keep_parked


def test_a_pool_that_could_not_be_filled_is_not_tried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller has an error in hand and nothing to close: who should end what came to be ready later?"""
    tried: list[object] = []

    async def full(*arguments: object) -> Any:
        tried.append(arguments)
        raise BackendUnavailable(Problem("host_full", "", "the host is full"), retryable=True)

    monkeypatch.setattr(pool_module, "shared_template", full)
    monkeypatch.setattr(pool_module, "_RETRY_S", 0.01)
    plan: Any = SimpleNamespace(key="any")

    async def main() -> None:
        with pytest.raises(BackendUnavailable, match="the host is full"):
            await keep_parked(plan, "any confinement", 1)  # pyright: ignore[reportArgumentType]
        before = len(tried)
        await asyncio.sleep(0.1)
        assert len(tried) == before

    asyncio.run(main())
