"""Which of two drivers runs a request of Hyperlight's: found out by doing it."""

from __future__ import annotations

from backends.base import SandboxRequest
from backends.errors import BackendUnavailable, PolicyRefused, Problem
from backends.frozen import replace
from backends.hyperlight.native.refusals import FIX, native_problems
from backends.hyperlight_settings import Driver, HyperlightSettings

__all__ = ["with_driver"]

_ASKED = "it was asked for"
_KEPT = "the native driver keeps no machine between runs"


def with_driver(request: SandboxRequest, *, kept: bool) -> SandboxRequest:
    """The request with its driver, and why it is that one: what it asks for, else what works and can hold it.

    Parameters
    ----------
    request: its `vm` holds what was said of the machine, without defaults.
    kept: the machine is one of a session, or waits for its run.

    Raises `PolicyRefused` and `BackendUnavailable` where the native driver was asked for and cannot run it.
    """
    settings = request.hyperlight
    if settings is None or settings.why:
        return request
    if settings.driver is Driver.NATIVE:
        _require_native(request, kept)
        chosen = replace(settings, why=_ASKED)
    elif settings.driver is Driver.QEMU:
        chosen = replace(settings, why=_ASKED)
    else:
        chosen = _chosen(request, settings, kept)
    return replace(request, hyperlight=chosen)


def _require_native(request: SandboxRequest, kept: bool) -> None:
    pointer = request.pointers.get("driver", "/mxcOps/hyperlight/driver")
    if kept:
        raise PolicyRefused(Problem("driver_not_supported", pointer, _KEPT, fix=FIX))
    if problems := native_problems(request):
        raise PolicyRefused(problems)
    if why := _why_not(request):
        message = f"the native driver does not work here: {why}"
        raise BackendUnavailable(Problem("native_not_working", pointer, message, fix=FIX))


def _chosen(request: SandboxRequest, settings: HyperlightSettings, kept: bool) -> HyperlightSettings:
    problems = native_problems(request)
    if kept or problems:
        why = _KEPT if kept else f"{problems[0].path}: {problems[0].message}"
        return replace(settings, driver=Driver.QEMU, why=why)
    if why := _why_not(request):
        return replace(settings, driver=Driver.QEMU, why=f"the native driver does not work here: {why}")
    return replace(settings, driver=Driver.NATIVE, why="a sandbox of the packages ran here")


def _why_not(request: SandboxRequest) -> str:
    """Why no sandbox of the packages runs here; "" where one did."""
    from backends.hyperlight.native.packages import find_packages

    packages, why = find_packages()
    if packages is None:
        return why
    from backends.hyperlight.native.observe import observe_native

    return observe_native(request).why
