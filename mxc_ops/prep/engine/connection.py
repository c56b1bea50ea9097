"""Connections to hosts, on which nothing is waited for without end: a host that falls silent holds up nobody.

pyinfra's timeout is for reading output only; for everything else it would wait an hour, or for ever.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyinfra annotates hosts and connectors incompletely.

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import uniform
from typing import Any, TypeVar

import gevent
from paramiko import SSHException
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host

from mxc_ops.prep.operations.common import HostFailure

__all__ = ["assert_not_lost", "connect"]

_RETRIES = "ssh_connect_retries"
_CONNECTED_S = 120
_CHANNEL_S = 30
_ALIVE_S = 10
_UNANSWERED = 3
_MARGIN_S = 10
_UPLOADED_S = 120
_SLOWEST_BYTES_PER_S = 50_000
_SILENT = "it has fallen silent: it does not answer any more"
_Result = TypeVar("_Result")


def connect(host: Host) -> None:
    """Connect; try again only what may go better, so that a host that is gone holds nobody up.

    An sshd that is asked for many connections at once drops some (sshd_config(5), MaxStartups).
    Raises `PyinfraError`, or `OSError`.
    """
    connection: Any = _Connection(host.connector)
    host.connector = connection
    data: dict[str, Any] = connection.data
    tries = int(data.get(_RETRIES) or 0)
    if _RETRIES in data:
        data[_RETRIES] = 0  # pyinfra itself would try everything again
    while True:
        try:
            host.connect(show_errors=False, raise_exceptions=True)
            return
        except ConnectError as error:
            if not tries or not _was_dropped(str(error)):
                raise
        tries -= 1
        gevent.sleep(uniform(0.1, 0.5))  # noqa: S311 - so that they do not all come at once again


def assert_not_lost(host: Host) -> None:
    """pyinfra tells of a lost connection only that a command failed.

    Raises `ConnectionError`, or `TimeoutError` for a host that has fallen silent.
    """
    connection: Any = host.connector
    connection.assert_not_lost()


def _was_dropped(message: str) -> bool:
    return any(words in message for words in ("protocol banner", "EOF", "reset by peer", "kex_exchange"))


class _Connection:
    """A connector of pyinfra's, each of whose calls ends.

    A call raises `TimeoutError` past its deadline, or when the host has fallen silent, and `ConnectionError`
    for a command whose connection was lost, which a connector takes for one that failed.
    """

    def __init__(self, connector: Any) -> None:
        self._connector = connector
        self._silent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connector, name)

    def connect(self) -> None:
        self._ended(_CONNECTED_S, self._connector.connect)
        transport = self._transport
        if transport is not None:
            transport.channel_timeout = _CHANNEL_S
            gevent.spawn(self._watch, transport)

    def run_shell_command(self, *arguments: Any, **named: Any) -> tuple[bool, Any]:
        limit_s = named.get("_timeout")
        call = partial(self._connector.run_shell_command, *arguments, **named)
        worked, output = self._ended(limit_s and limit_s + _MARGIN_S, call)
        if not worked:
            self.assert_not_lost()
        return worked, output

    def assert_not_lost(self) -> None:
        """See `assert_not_lost`."""
        transport = self._transport
        gevent.sleep(0)  # the transport ends its channels first
        if transport is not None and not transport.is_active():
            raise TimeoutError(_SILENT) if self._silent else ConnectionError("the connection was lost")

    def put_file(self, source: Any, *arguments: Any, **named: Any) -> bool:
        limit_s = _UPLOADED_S + _size(source) // _SLOWEST_BYTES_PER_S
        try:
            return self._ended(limit_s, partial(self._connector.put_file, source, *arguments, **named))
        except ConnectError as error:  # there is a connection, but no SFTP on it
            raise HostFailure(str(error)) from error

    def _ended(self, limit_s: int | None, call: Callable[[], _Result]) -> _Result:
        limit = gevent.Timeout(limit_s)
        try:
            with limit:
                return call()
        except gevent.Timeout as reached:
            if reached is not limit:
                raise
            raise TimeoutError(f"it did not answer within {limit_s} s") from None
        except Exception as error:
            if self._silent:
                raise TimeoutError(_SILENT) from error
            raise

    @property
    def _transport(self) -> Any:
        client = getattr(self._connector, "client", None)
        return client.get_transport() if client else None

    def _watch(self, transport: Any) -> None:
        """Hang up on a host that falls silent, as ssh_config(5) has it with ServerAliveInterval."""
        interval_s = self._connector.client.alive_s or _ALIVE_S
        while transport.is_active():
            gevent.sleep(interval_s)
            if not gevent.with_timeout(_UNANSWERED * interval_s, _answers, transport, timeout_value=False):
                self._silent = transport.is_active()
                transport.close()


def _answers(transport: Any) -> bool:
    with suppress(SSHException, OSError, EOFError):
        transport.global_request("keepalive@openssh.com")
        return True
    return False


def _size(source: Any) -> int:
    """Of what is to be brought, a path or an open file."""
    if isinstance(source, str):
        return os.stat(source).st_size  # noqa: PTH116 - as pyinfra opens it
    place = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(place)
    return size
