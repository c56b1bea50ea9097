"""Which objects wait for the code that asks: it serves one of their runs, and so cannot wait for them."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator
from contextlib import contextmanager

from backends.errors import ConfigError, Problem

__all__ = ["CALLBACK", "TOOL", "refuse_own", "served", "serving"]

TOOL, CALLBACK = "a tool", "a callback for output"


class _Service:
    """One call of a function of the host. What it leaves behind inherits this, and outlives it."""

    def __init__(self, owner: int, what: str) -> None:
        self.owner = owner
        self.what = what
        self.is_over = False


_services: contextvars.ContextVar[frozenset[_Service]] = contextvars.ContextVar(
    "services", default=frozenset()
)


@contextmanager
def serving(owner: int, what: str) -> Generator[None]:
    """What is called in here serves a run of the object with that id, as a `TOOL` or a `CALLBACK`."""
    service = _Service(owner, what)
    _services.set(frozenset(other for other in _services.get() if not other.is_over) | {service})
    try:
        yield
    finally:
        service.is_over = True


def served(owner: int, callback: Callable[[str], object] | None) -> Callable[[str], object] | None:
    """The same callback, which is known to serve the object with that id."""
    if callback is None:
        return None
    wanted = callback

    def call(text: str) -> None:
        with serving(owner, CALLBACK):
            wanted(text)

    return call


def refuse_own(owner: int, *kinds: str) -> None:
    """Raises `ConfigError` in what serves the object with that id, as one of `kinds`."""
    for service in _services.get():
        if service.owner == owner and not service.is_over and service.what in kinds:
            message = f"{service.what} cannot use the object whose run has called it: that waits for its end"
            raise ConfigError(Problem("called_by_itself", "", message, fix="use another Hyperlight object"))
