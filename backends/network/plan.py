"""Policy and facts → all that one sandbox's network is made of. Pure: the same on any host."""

from __future__ import annotations

from collections.abc import Iterator

from backends.egress.settings import ListenerKind, Target
from backends.errors import BackendUnavailable, Problem
from backends.frozen import frozen
from backends.network.facts import Bridge, NetworkFacts
from backends.network.policy import Direction, NetworkPolicy, PortMapping, Protocol

__all__ = [
    "GATEWAY",
    "GATEWAY6",
    "GUEST",
    "GUEST6",
    "TAP",
    "UPLINK",
    "HelperUplink",
    "NetworkPlan",
    "Opening",
    "plan_network",
]

UPLINK, TAP = "uplink", "tap0"
GATEWAY, GUEST = "192.0.0.1", "192.0.0.2"
"""Between a machine and its gate: of a block that no network has (RFC 7335)."""
GATEWAY6, GUEST6 = "fdb5:6d78:63::1", "fdb5:6d78:63::2"

_LOOPBACK, _LOOPBACK6 = "127.0.0.1", "::1"
# Above the ports that the kernel gives away by itself, and none that a service is known for.
PROXY_PORT, REDIRECT_PORT, DNS_PORT = 61080, 61081, 53
_SEALED = ("--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none")
"""Neither the host's loopback nor its ports are reached through pasta (passt(1)); its defaults open both."""
_SLIRP_INSIDE = ("10.0.2.100",)
_SLIRP_OWN = ("10.0.2.2", "10.0.2.3")


@frozen
class HelperUplink:
    """A program that carries packets for who is not root.

    `inside`: the addresses that it gives the sandbox. `own`: those at which it answers itself.
    """

    argv: tuple[str, ...]
    ipv4: bool
    ipv6: bool
    inside: tuple[str, ...]
    own: tuple[str, ...] = ()


@frozen
class Opening:
    """Where something of ours listens, for the filtering proxy's process to serve.

    `inside`: in the sandbox's namespace, else on the host. `target`: what is connected to, for a forward.
    """

    kind: ListenerKind
    address: str
    port: int
    inside: bool = True
    target: Target | None = None
    pointer: str = "/network"

    @property
    def is_stream(self) -> bool:
        return self.kind not in (ListenerKind.DNS_UDP, ListenerKind.FORWARD_UDP)


@frozen
class NetworkPlan:
    """`routed`: the sandbox is a machine behind a tap; else its processes are in the namespace themselves.

    `filters`: whether our own proxy is there. `proxy_url`: what programs find in their environment; "" where
    there is none. `own`: addresses at which a helper answers. `nameservers`: whom programs ask. `kept`:
    decisions are read while the sandbox runs.
    """

    policy: NetworkPolicy
    routed: bool
    nft: str
    uplink: Bridge | HelperUplink | None
    carries: tuple[int, ...]
    has_ipv6: bool
    host_addresses: tuple[str, ...]
    own: tuple[str, ...]
    nameservers: tuple[str, ...]
    openings: tuple[Opening, ...]
    filters: bool
    proxy_url: str
    kept: bool = False

    @property
    def way_out(self) -> str:
        if self.uplink is None:
            return "nothing leads out but what listens there for it"
        if isinstance(self.uplink, Bridge):
            return f"out by the host's bridge {self.uplink.name}"
        return f"out by {self.uplink.argv[0]}"

    @property
    def resolv_conf(self) -> str:
        return "".join(f"nameserver {address}\n" for address in self.nameservers)


def plan_network(policy: NetworkPolicy, facts: NetworkFacts, *, root: bool, routed: bool) -> NetworkPlan:
    """Lay out the network of one sandbox.

    Parameters
    ----------
    root: whether we are, and use the host's bridge; else a helper.
    routed: whether the sandbox is a machine.

    Raises `BackendUnavailable` for what the host lacks.
    """
    if not facts.nft:
        raise _lacking("nft_missing", "nft, which holds the rules of a sandbox's network, is not installed")
    uplink = _uplink(facts, root=root) if policy.needs_uplink else None
    ours = (GATEWAY, GATEWAY6) if routed else (_LOOPBACK, _LOOPBACK6)
    ours = ours if facts.has_ipv6 else ours[:1]
    names = policy.needs_names
    own = uplink.own if isinstance(uplink, HelperUplink) else ()
    return NetworkPlan(
        policy=policy,
        routed=routed,
        nft=facts.nft,
        uplink=uplink,
        carries=_carried(facts, uplink),
        has_ipv6=facts.has_ipv6,
        host_addresses=(*facts.addresses, *own),
        own=own,
        nameservers=ours[:1] if names else facts.nameservers if uplink else (),
        openings=(
            *_own_proxy(ours, names=names),
            *_callers_proxy(policy, ours),
            *_mapped(policy, ours, routed),
        ),
        filters=names,
        proxy_url=_proxy_url(policy, ours[0], names=names),
    )


def _uplink(facts: NetworkFacts, *, root: bool) -> Bridge | HelperUplink:
    if root:
        if facts.bridge is None or not facts.forwards:
            why = (
                "this host has no bridge with NAT for sandboxes"
                if facts.bridge is None
                else "forwarding is off"
            )
            raise _lacking("uplink_missing", f"root's sandboxes reach other networks by a bridge, and {why}")
        return facts.bridge
    if not facts.carries:
        raise BackendUnavailable(
            Problem(
                "host_has_no_network",
                "/network",
                "the policy lets packets out, and this host has no default route for them",
                fix="ip route; ip -6 route",
            )
        )
    ipv4, ipv6 = 4 in facts.carries, 6 in facts.carries
    if facts.pasta:
        words = ("--quiet", "--foreground", "--config-net", "--ns-ifname", UPLINK, *_SEALED)
        families = () if ipv4 and ipv6 else ("--ipv4-only",) if ipv4 else ("--ipv6-only",)
        argv = (facts.pasta, *words, *families, "--netns-only", "--netns", "@network")
        inside = tuple(one for one in facts.addresses if "/" not in one)  # the host's very own
        return HelperUplink(argv, ipv4, ipv6, inside)
    if facts.slirp:
        # Its IPv6 comes by router advertisements, which nothing on a sandbox's link may send.
        words = ("--configure", "--mtu=65520", "--disable-host-loopback", "--disable-dns", "--enable-seccomp")
        argv = (facts.slirp, *words, "--netns-type=path", "@network", UPLINK)
        return HelperUplink(argv, ipv4=True, ipv6=False, inside=_SLIRP_INSIDE, own=_SLIRP_OWN)
    raise _lacking(
        "uplink_missing", "neither pasta nor slirp4netns, which carry a user's packets, is installed"
    )


def _lacking(code: str, why: str) -> BackendUnavailable:
    fix = "mxc-ops prep host --backend bubblewrap --feature network --yes"
    return BackendUnavailable(Problem(code, "/network", why, fix=fix))


def _carried(facts: NetworkFacts, uplink: Bridge | HelperUplink | None) -> tuple[int, ...]:
    if uplink is None:
        return ()
    if isinstance(uplink, HelperUplink):
        return tuple(family for family, there in ((4, uplink.ipv4), (6, uplink.ipv6)) if there)
    has6 = bool(uplink.address6) and 6 in facts.forwards
    return tuple(family for family in facts.forwards if family == 4 or has6)


def _own_proxy(ours: tuple[str, ...], *, names: bool) -> Iterator[Opening]:
    if not names:
        return
    for address in ours:
        yield Opening(ListenerKind.PROXY, address, PROXY_PORT)
        yield Opening(ListenerKind.REDIRECTED, address, REDIRECT_PORT)
        yield Opening(ListenerKind.DNS_UDP, address, DNS_PORT)
        yield Opening(ListenerKind.DNS_TCP, address, DNS_PORT)


def _callers_proxy(policy: NetworkPolicy, ours: tuple[str, ...]) -> Iterator[Opening]:
    if policy.proxy is None:
        return
    host = "127.0.0.1" if policy.proxy.host == "localhost" else policy.proxy.host.strip("[]")
    target = Target(host, policy.proxy.port, inside=False, rule="proxy")
    for address in ours:
        yield Opening(
            ListenerKind.FORWARD_TCP, address, policy.proxy.port, target=target, pointer=policy.proxy.pointer
        )


def _mapped(policy: NetworkPolicy, ours: tuple[str, ...], routed: bool) -> Iterator[Opening]:
    for mapping in policy.mappings:
        kind = ListenerKind.FORWARD_UDP if mapping.protocol is Protocol.UDP else ListenerKind.FORWARD_TCP
        if mapping.direction is Direction.TO_HOST:
            target = Target(mapping.host_address, mapping.host_port, inside=False, rule=mapping.name)
            for address in ours:
                yield Opening(kind, address, mapping.sandbox_port, target=target, pointer=mapping.pointer)
        else:
            target = Target(
                _inside_address(mapping, routed), mapping.sandbox_port, inside=True, rule=mapping.name
            )
            address, port = mapping.host_address, mapping.host_port
            yield Opening(kind, address, port, inside=False, target=target, pointer=mapping.pointer)


def _inside_address(mapping: PortMapping, routed: bool) -> str:
    """Of the family that the host listens in."""
    six = ":" in mapping.host_address
    if routed:
        return GUEST6 if six else GUEST
    return _LOOPBACK6 if six else _LOOPBACK


def _proxy_url(policy: NetworkPolicy, address: str, *, names: bool) -> str:
    if policy.proxy is not None:
        return f"{policy.proxy.scheme}://{address}:{policy.proxy.port}"
    return f"http://{address}:{PROXY_PORT}" if names else ""
