"""Take clients' TCP connections on, up to a bound, and see each of them through to its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from backends.egress.bounds import CLIENTS
from backends.egress.faults import report
from backends.egress.gate import Gate
from backends.egress.passages import Connection, Refused
from backends.egress.streams import Stream

__all__ = ["Clients", "Handler", "TcpListener"]

Handler = Callable[[Connection], Awaitable[None]]

_PER_TURN = 64
_PAUSE_S = 0.1
_TELL_S = 1.0


class Clients:
    """All who are served at the moment: `gate.connections`. One too many is hung up on at once."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._turned_away = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self, sock: socket.socket, protocol: str, handler: Handler) -> None:
        """Serve `sock` by `handler`, in a task of its own."""
        if len(self._gate.connections) >= CLIENTS:
            sock.close()
            self._turned_away += 1
            if self._timer is None:
                self._tell(protocol)
            return
        connection = Connection(self._gate.number(), Stream(sock))
        self._gate.connections.add(connection)
        connection.task = self._loop.create_task(self._serve(connection, protocol, handler))

    async def end(self, reason: str, within_s: float) -> None:
        """End them all."""
        tasks = [each.task for each in self._gate.connections if each.task is not None]
        for connection in tuple(self._gate.connections):
            connection.end(reason)
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    async def _serve(self, connection: Connection, protocol: str, handler: Handler) -> None:
        try:
            await handler(connection)
        except Refused as refused:
            verdict = "denied" if refused.denied else "closed"
            refused.passage.write(self._gate.events, verdict, refused.reason)
            await connection.stream.linger()
        except OSError:
            pass  # it went away; what it had begun has told of that
        except Exception as error:
            report(error)
            self._gate.events.write("closed", protocol, id=connection.number, reason="internal_error")
        finally:
            connection.stream.close()
            self._gate.connections.discard(connection)

    def _tell(self, protocol: str) -> None:
        """One event a second, of however many."""
        self._timer = None
        if self._turned_away:
            count, self._turned_away = self._turned_away, 0
            self._gate.events.write("denied", protocol, reason="too_many_connections", count=count)
            self._timer = self._loop.call_later(_TELL_S, self._tell, protocol)


class TcpListener:
    """Accepts on `sock` for as long as it is open; where the host has no room, a little later again."""

    def __init__(self, sock: socket.socket, protocol: str, handler: Handler, clients: Clients) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._protocol = protocol
        self._handler = handler
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _listen(self) -> None:
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_PER_TURN):
            try:
                client, _address = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # that one is gone already (accept(2))
            except OSError:
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(_PAUSE_S, self._listen)
                return
            self._clients.take(client, self._protocol, self._handler)
