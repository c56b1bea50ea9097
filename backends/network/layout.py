"""Where a ruleset is loaded: which interfaces and addresses of a network namespace are whose. Pure data."""

from __future__ import annotations

from backends.frozen import frozen

__all__ = ["Layout", "LocalLayout", "RoutedLayout"]


@frozen
class LocalLayout:
    """The sandbox's own namespace, over which its processes have no right: no CAP_NET_ADMIN, no raw sockets.

    Parameters
    ----------
    uplink: the interface that leads out; empty: there is none.
    own: the sandbox's own addresses on the uplink, which alone it may send from. An unprivileged program can
        bind any IPv6 address (IPV6_FREEBIND, ipv6(7)). Empty: not known, and what leads out must see to it.
    host_addresses: addresses or networks of the host itself, closed ahead of everything.
    proxy_port: where the filtering proxy listens, on 127.0.0.1 and ::1, for clients that ask it.
    redirect_port: where it listens there for TCP that was meant for other addresses.
    dns_port: where it answers DNS there, over UDP and TCP.
    redirected: the TCP ports whose connections go to `redirect_port`.
    """

    uplink: str = ""
    own: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    proxy_port: int | None = None
    redirect_port: int | None = None
    dns_port: int | None = None
    redirected: tuple[int, ...] = (80, 443)


@frozen
class RoutedLayout:
    """A namespace of ours between a virtual machine's tap and the uplink; nothing else runs in it.

    Parameters
    ----------
    guest: the machine's addresses; what comes from the tap with any other is dropped.
    gateway: our addresses on the tap; the proxy listens at the first of each family.
    forwards: (``tcp`` or ``udp``, port) at the gateway that lead to the host.

    The others are as in `LocalLayout`.
    """

    tap: str = "tap0"
    uplink: str = ""
    guest: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    proxy_port: int | None = None
    redirect_port: int | None = None
    dns_port: int | None = None
    redirected: tuple[int, ...] = (80, 443)
    forwards: tuple[tuple[str, int], ...] = ()


Layout = LocalLayout | RoutedLayout
