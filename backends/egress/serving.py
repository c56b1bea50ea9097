"""Put the parts together, and serve until the owner's control line ends."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from backends.egress.clients import Clients, Handler, TcpListener
from backends.egress.control import serve_control
from backends.egress.datagrams import Datagrams
from backends.egress.dns_service import DnsService
from backends.egress.events import Events
from backends.egress.faults import report_context
from backends.egress.forwards import UdpForward, serve_forward
from backends.egress.gate import Gate
from backends.egress.host_names import HostsFile, Nameservers
from backends.egress.own_addresses import OwnAddresses
from backends.egress.proxy_port import serve_proxy
from backends.egress.redirected import serve_redirected
from backends.egress.resolving import Resolver, ask_nameservers
from backends.egress.settings import EgressSettings, Listener, ListenerKind
from backends.egress.socket_factory import SocketFactory

__all__ = ["serve"]

_ENDING_S = 1.0


async def serve(settings: EgressSettings) -> None:
    """Serve all listeners; returns when the control socket, or the owner, has ended."""
    asyncio.get_running_loop().set_exception_handler(report_context)
    resolver = Resolver(HostsFile(), ask_nameservers(Nameservers(settings.nameservers)))
    gate = Gate(settings.rules, resolver, OwnAddresses(), Events(settings.events))
    clients = Clients(gate)
    parts = _Parts(gate, clients, settings)
    listening = [parts.listen(listener) for listener in settings.listeners]
    served = asyncio.ensure_future(serve_control(gate, socket.socket(fileno=settings.control)))
    if settings.owner is not None:
        asyncio.get_running_loop().add_reader(settings.owner, served.cancel)
    await asyncio.wait({served})
    for each in listening:
        each.close()
    await clients.end("stopped", _ENDING_S)


class _Parts:
    """What serves each kind of listener."""

    def __init__(self, gate: Gate, clients: Clients, settings: EgressSettings) -> None:
        self._gate = gate
        self._clients = clients
        self._dns = DnsService(gate)
        self._factory: SocketFactory | None = None
        if settings.sockets is not None:
            self._factory = SocketFactory(socket.socket(fileno=settings.sockets))

    def listen(self, listener: Listener) -> TcpListener | Datagrams | UdpForward:
        sock = socket.socket(fileno=listener.fd)
        target = listener.target
        if listener.kind is ListenerKind.DNS_UDP:
            return self._dns.listen(sock)
        if target is not None and listener.kind is ListenerKind.FORWARD_UDP:
            return UdpForward(self._gate, sock, target, self._factory)
        if target is not None:
            forward = partial(serve_forward, self._gate, target=target, factory=self._factory)
            return TcpListener(sock, "forward", forward, self._clients)
        handlers: dict[ListenerKind, tuple[str, Handler]] = {
            ListenerKind.PROXY: ("connect", partial(serve_proxy, self._gate)),
            ListenerKind.REDIRECTED: ("tls", partial(serve_redirected, self._gate)),
            ListenerKind.DNS_TCP: ("dns", self._dns.serve),
        }
        protocol, handler = handlers[listener.kind]
        return TcpListener(sock, protocol, handler, self._clients)
