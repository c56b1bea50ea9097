"""What tests of sessions share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mxc_ops.session.session import Session

DEADLINE_S = 60


def told(session: Session, line: str) -> bytes:
    """What a line for the shell prints inside; it must succeed."""
    result = session.exec(line)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def until(holds: Callable[[], Any]) -> None:
    """Returns as soon as it holds; fails the test when it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
