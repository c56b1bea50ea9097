"""A connection to a libvirt, every call of it under a deadline, every failure an error of ours.

libvirt's calls block, some for as long as its daemon is silent, and nothing interrupts them. Each is made in
a thread of its own, which does not keep this process from ending. Where a deadline passes the connection is
given up: what the daemon still does with the call is not known, and a next one would only wait behind it.

The Python module is the optional extra ``libvirt``, loaded with the first connection.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from importlib import import_module
from typing import Any, TypeVar, cast

from backends.errors import BackendUnavailable, ConfigError, LaunchFailed, MxcError, Problem

__all__ = ["DEADLINE_S", "Code", "Connection", "under_deadline"]

_T = TypeVar("_T")
DEADLINE_S = 30.0
"""For one call; a daemon's first answer takes 8 s (it asks QEMU what it can)."""

_INSTALL = (
    "sudo apt-get install -y libvirt-dev pkg-config gcc python3-dev"
    " && .venv/bin/python -m pip install -c constraints.txt -e '.[libvirt]'"
)
_DOCTOR = "mxc-ops doctor --backend vm --feature libvirt"


class Code(IntEnum):
    """Of the errors of libvirt that mean something to us (virErrorNumber)."""

    OTHER = 0
    OPERATION_FAILED = 9
    OPERATION_DENIED = 29
    NO_DOMAIN = 42
    AUTH_FAILED = 45
    OPERATION_INVALID = 55
    OPERATION_TIMEOUT = 68
    AUTH_CANCELLED = 79
    AUTH_UNAVAILABLE = 80
    ACCESS_DENIED = 88

    @classmethod
    def of(cls, error: Exception) -> Code:
        """`OTHER` for what is not libvirt's, too."""
        number = getattr(error, "get_error_code", int)()
        return next((code for code in cls if code == number), cls.OTHER)


_DENIED = (
    *(Code.OPERATION_DENIED, Code.AUTH_FAILED, Code.AUTH_CANCELLED),
    *(Code.AUTH_UNAVAILABLE, Code.ACCESS_DENIED),
)


class Connection:
    """Made by `open`. Usable from one event loop, by many tasks at once.

    Parameters
    ----------
    raw: libvirt's own virConnect.
    deadline_s: for each call.
    """

    def __init__(self, uri: str, module: Any, raw: Any, deadline_s: float) -> None:
        self.uri = uri
        self._module = module
        self._raw = raw
        self._deadline_s = deadline_s
        self._silent = False
        self._closed = False

    @classmethod
    async def open(cls, uri: str, *, deadline_s: float = DEADLINE_S) -> Connection:
        """Connect to the libvirt at `uri` (libvirt: uri.html), e.g. ``qemu:///system``.

        Raises `BackendUnavailable`: no module, nobody answers, or in time, or we are not let in.
        """
        try:
            module: Any = import_module("libvirt")
        except ImportError as error:
            problem = Problem("libvirt_module", "", f"Python cannot load libvirt: {error}", fix=_INSTALL)
            raise BackendUnavailable(problem) from error
        # What it raises it also prints, unless there is a handler.
        module.registerErrorHandler(_quiet, None)
        try:
            raw = await under_deadline(lambda: module.open(uri), deadline_s)
        except TimeoutError as error:
            raise _silence(uri, deadline_s) from error
        except module.libvirtError as error:
            refused = Code.of(error) in _DENIED
            raise (_denied if refused else _unreachable)(uri, error) from error
        return cls(uri, module, raw, deadline_s)

    async def call(self, what: str, work: Callable[[Any], _T]) -> _T:
        """What `work` makes of libvirt's virConnect.

        Parameters
        ----------
        what: in an error's message, e.g. ``starting domain a``.

        Raises `BackendUnavailable` when libvirt is silent, gone or refuses us, `ConfigError` for a domain
        that it does not know, `LaunchFailed` for anything else that it says, `ValueError` after `close`; what
        `work` raises itself.
        """
        if self._closed:
            raise ValueError("the connection to libvirt is closed")
        if self._silent:
            raise _silence(self.uri, self._deadline_s)
        raw = self._raw
        try:
            return await under_deadline(lambda: work(raw), self._deadline_s)
        except TimeoutError as error:
            self._silent = True
            raise _silence(self.uri, self._deadline_s) from error
        # A traceback has libvirt's objects, and each of them keeps the connection open.
        except MxcError as error:
            raise error.with_traceback(None) from None
        except self._module.libvirtError as error:
            raise self._explained(what, error) from error.with_traceback(None)

    async def close(self) -> None:
        """Does not wait for a libvirt that was silent: the thread of that call ends the connection."""
        if not self._silent and not self._closed:
            self._closed = True
            with suppress(TimeoutError, self._module.libvirtError):
                await under_deadline(self._raw.close, self._deadline_s)

    def _explained(self, what: str, error: Exception) -> MxcError:
        code = Code.of(error)
        listing = f"virsh -c '{self.uri}' list --all"
        if not self._raw.isAlive():
            return _unreachable(self.uri, error)
        if code in _DENIED:
            return _denied(self.uri, error)
        if code is Code.NO_DOMAIN:
            return ConfigError(Problem("domain_unknown", "name", f"{what}: {error}", fix=listing))
        if code is Code.OPERATION_INVALID:
            return LaunchFailed(Problem("domain_state", "name", f"{what}: {error}", fix=listing))
        if code is Code.OPERATION_TIMEOUT:
            return LaunchFailed(
                Problem("domain_busy", "name", f"{what}: {error}", fix=listing), retryable=True
            )
        return LaunchFailed(Problem("libvirt_failed", "", f"{what}: {error}", fix=_DOCTOR))


async def under_deadline(work: Callable[[], _T], deadline_s: float) -> _T:
    """What `work` returns or raises, from a thread of its own.

    Raises `TimeoutError` after `deadline_s`; the thread goes on, and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast(_T, result))
        else:
            future.set_exception(error)

    def tell(result: _T | None, error: Exception | None) -> None:
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    def body() -> None:
        try:
            result = work()
        except Exception as error:
            tell(None, error)
        else:
            tell(result, None)

    threading.Thread(target=body, name="libvirt", daemon=True).start()
    async with asyncio.timeout(deadline_s):
        return await future


def _quiet(_context: object, _error: object) -> None:
    pass


def _silence(uri: str, deadline_s: float) -> MxcError:
    message = f"libvirt at {uri} has not answered within {deadline_s:g} s; open a new connection to ask again"
    return BackendUnavailable(Problem("libvirt_silent", "", message, fix=_DOCTOR), retryable=True)


def _unreachable(uri: str, error: Exception) -> MxcError:
    fix = "mxc-ops prep host --backend vm --feature libvirt --yes"
    return BackendUnavailable(
        Problem("libvirt_unreachable", "", f"libvirt at {uri}: {error}", fix=fix), retryable=True
    )


def _denied(uri: str, error: Exception) -> MxcError:
    fix = 'sudo usermod -aG libvirt "$USER"'
    return BackendUnavailable(Problem("libvirt_denied", "", f"libvirt at {uri}: {error}", fix=fix))
