"""Which of two drivers runs a request of Hyperlight's."""

from __future__ import annotations

from backends.base import SandboxRequest
from backends.frozen import replace
from backends.hyperlight_settings import Driver

__all__ = ["with_driver"]


def with_driver(request: SandboxRequest) -> SandboxRequest:
    """The request with its driver: the one that it asks for, else what works here and can hold it."""
    settings = request.hyperlight
    if settings is None or settings.why:
        return request
    chosen = replace(settings, driver=Driver.QEMU, why="asked for")
    return replace(request, hyperlight=chosen)
