"""Ports of a sandbox's loopback, each behind one of the host's: part of the sandbox's supervisor (asyncio).

Each connection is a stream of its own through the agent. What waits on its way is bounded, in either
direction, by that stream's windows: one that reads nothing holds up its own server, and nobody else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestError
from backends.agent.relay import Relay
from backends.errors import LaunchFailed, MxcError, PolicyRefused, Problem
from backends.inside.agent_protocol import Channel, GuestCommand
from mxc_ops.policy.host_loopback import POINTER

__all__ = ["ORDERS", "Ports", "port_refusal"]

ORDERS = ("open-port", "close-port", "ports")
_HOST = "127.0.0.1"
_BACKLOG = 128
_MOST_AT_ONCE = 256
_HIGHEST = 65535
_CONNECT_S = 30.0
_PAUSE_S = 1.0
_NO_INTERNET = "strict"


def port_refusal(document: Mapping[str, Any]) -> PolicyRefused | None:
    """Why a sandbox with this canonical document gets no ports, if so."""
    ingress: Mapping[str, Any] = document.get("network", {}).get("ingress", {})
    if ingress.get("hostLoopback") != "allow":
        message = "the sandbox was provisioned without a way from the host's loopback into it"
        fix = "provision one with it: mxc-ops session provision --host-loopback"
        return PolicyRefused(Problem("port_not_allowed", POINTER, message, expected="allow", fix=fix))
    if document.get("mxcOps", {}).get("seccomp") == _NO_INTERNET:
        message = f"the profile {_NO_INTERNET!r} has no sockets that a port could lead to"
        fix = "provision a sandbox with the profile 'default'"
        return PolicyRefused(Problem("port_not_possible", "/mxcOps/seccomp", message, fix=fix))
    return None


class Ports:
    """Belongs to the loop of a sandbox's supervisor."""

    def __init__(self, relay: Relay, document: Mapping[str, Any]) -> None:
        self._relay = relay
        self._refusal = port_refusal(document)
        self._connection: GuestConnection | None = None
        self._ports: dict[int, _Port] = {}

    @property
    def clients(self) -> int:
        """How many of the relay's clients are we."""
        return 0 if self._connection is None else 1

    async def do(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """One of `ORDERS`; its answer has ``opened``, the host's port, or ``problem``, why it cannot be done.

        Raises `ValueError`, `KeyError`, `TypeError` for what is no order.
        """
        opened = 0
        try:
            if order["do"] == "open-port":
                opened = await self._open(_number(order["host"], 0), _number(order["inside"], 1))
            elif order["do"] == "close-port":
                self._close(int(order["host"]))
        except MxcError as error:
            return {"problem": {"class": type(error).__name__, **error.as_dict()}}
        return {"opened": opened, "ports": [port.as_dict() for port in self._ports.values()]}

    async def close(self) -> None:
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        if self._connection is not None:
            await self._connection.close()

    async def _open(self, host: int, inside: int) -> int:
        if self._refusal is not None:
            raise self._refusal
        listening = _listen(host)
        try:
            connection = await self._connected()
        except BaseException:
            listening.close()
            raise
        port = _Port(listening, inside, connection)
        self._ports[port.host] = port
        return port.host

    def _close(self, host: int) -> None:
        port = self._ports.pop(host, None)
        if port is None:
            raise LaunchFailed(Problem("no_such_port", "HOST_PORT", f"the sandbox has no port {host} open"))
        port.close()

    async def _connected(self) -> GuestConnection:
        if self._connection is None or self._connection.lost.done():
            ours, theirs = socket.socketpair()
            self._relay.serve(theirs)
            try:
                self._connection = await GuestConnection.open(ours, deadline_s=_CONNECT_S)
            except GuestError as error:
                message = f"the sandbox's agent opens no port: {error}"
                raise LaunchFailed(Problem("agent_silent", "", message), retryable=True) from error
        return self._connection


class _Port:
    """One that listens, and its connections."""

    def __init__(self, listening: socket.socket, inside: int, connection: GuestConnection) -> None:
        self.host: int = listening.getsockname()[1]
        self._inside = inside
        self._listening = listening
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_failure = ""
        self._accepts = False
        self._accept_on()

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        told = {"host": self.host, "inside": self._inside, "connections": len(self._tasks)}
        return {**told, "lastFailure": self._last_failure}

    def close(self) -> None:
        """Connections are cut."""
        self._accept_no_more()
        self._listening.close()
        for task in self._tasks:
            task.cancel()

    def _accept_on(self) -> None:
        if not self._accepts and self._listening.fileno() >= 0:
            self._accepts = True
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept_no_more(self) -> None:
        if self._accepts:
            self._accepts = False
            self._loop.remove_reader(self._listening.fileno())

    def _accept(self) -> None:
        try:
            sock, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as error:  # no descriptors any more, for now
            self._last_failure = os.strerror(error.errno or 0)
            self._accept_no_more()
            self._loop.call_later(_PAUSE_S, self._accept_on)
            return
        task = self._loop.create_task(self._pass(sock))
        self._tasks.add(task)
        task.add_done_callback(self._passed)
        if len(self._tasks) >= _MOST_AT_ONCE:
            self._accept_no_more()

    def _passed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._accept_on()

    async def _pass(self, sock: socket.socket) -> None:
        command = GuestCommand(args=("port",), port=self._inside)
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                process = await self._connection.execute(
                    command, stdin=sock.fileno(), stdout=sock.fileno(), stderr=_nowhere, deadline_s=_CONNECT_S
                )
            except (GuestError, OSError) as error:  # nobody listens inside: the client sees it closed
                self._last_failure = str(error)
                _reset(sock)
                return
            try:
                await process.output_ended[Channel.STDOUT]
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
                with suppress(GuestError):
                    await process.wait()
            except asyncio.CancelledError:
                process.abandon()
                raise


def _nowhere(_data: memoryview) -> None:
    return


def _reset(sock: socket.socket) -> None:
    """Closing it tells the client that it was refused, not that it was over."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _number(value: Any, lowest: int) -> int:
    if type(value) is not int or not lowest <= value <= _HIGHEST:
        raise ValueError(f"{value!r} is no port")
    return value


def _listen(host: int) -> socket.socket:
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((_HOST, host))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        code = "port_taken" if error.errno == errno.EADDRINUSE else "port_not_opened"
        message = f"the host's port {host} cannot be had: {error.strerror}"
        fix = "take another one, or 0 for any that is free"
        raise LaunchFailed(Problem(code, "HOST_PORT", message, fix=fix)) from error
    return listening
