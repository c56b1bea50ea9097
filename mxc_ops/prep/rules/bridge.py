"""What makes a bridge of ours and its table: shell commands and rules for nft(8). Pure.

The host itself speaks to nobody on the bridge: what is attached may go through it, to other networks.
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface
from shlex import quote

__all__ = ["ALIAS", "FORWARDS_IPV6", "bring_up", "ruleset"]

ALIAS = "mxc-ops prep host"
_IPV6 = "/proc/sys/net/ipv6/conf"
FORWARDS_IPV6 = (
    f"test \"$(cat {_IPV6}/all/forwarding {_IPV6}/all/disable_ipv6 2>/dev/null | tr -d '\\n')\" = 10"
)
"""A test: the host has IPv6, and forwards it."""


def ruleset(bridge: str, address: str, address6: str, table: str) -> str:
    """The table, just as nft(8) lists it.

    What is attached may reach other networks, under the host's address. From there nothing comes in but
    answers: a host that forwards would otherwise let its neighbours in. The host answers at none of its own
    addresses but to who looks for its neighbour in IPv6, without which there is no route (ARP is not seen
    here). Ports are apart from each other already; what bridges hand to us of them goes no further either.
    """
    nat = f'\t\tip saddr {IPv4Interface(address).network} oifname != "{bridge}" masquerade\n'
    if address6:
        nat += f'\t\tip6 saddr {IPv6Interface(address6).network} oifname != "{bridge}" masquerade\n'
    return (
        f"table inet {table} {{\n"
        "\tchain input {\n"
        "\t\ttype filter hook input priority filter; policy accept;\n"
        f'\t\tiifname "{bridge}" icmpv6 type nd-neighbor-solicit accept\n'
        f'\t\tiifname "{bridge}" icmpv6 type nd-neighbor-advert accept\n'
        f'\t\tiifname "{bridge}" drop\n'
        "\t}\n\n"
        "\tchain forward {\n"
        "\t\ttype filter hook forward priority filter; policy accept;\n"
        f'\t\tiifname "{bridge}" oifname "{bridge}" drop\n'
        f'\t\tiifname "{bridge}" accept\n'
        f'\t\toifname "{bridge}" ct state established,related accept\n'
        f'\t\toifname "{bridge}" drop\n'
        "\t}\n\n"
        "\tchain postrouting {\n"
        "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
        f"{nat}"
        "\t}\n}"
    )


def bring_up(bridge: str, address: str, address6: str, table: str) -> str:
    """Shell commands that make the bridge and its table, or mend them; what is right stays as it is.

    The bridge gets its name last, so that none without our alias is left behind by a kill. Of addresses it
    has these alone: an earlier choice of the inventory's would stay reachable. The table is there before
    anything can be attached that it must hold.

    Parameters
    ----------
    address6: what it has in IPv6 while the host forwards that; "": nothing.
    """
    new = f"{bridge}-new"
    return (
        f"ip link show dev {bridge} >/dev/null 2>&1 || {{\n"
        f"\tip link delete dev {new} 2>/dev/null || true\n"
        f"\tip link add name {new} type bridge\n"
        f"\tip link set dev {new} alias {quote(ALIAS)}\n"
        f"\tip link set dev {new} name {bridge}\n"
        "}\n"
        # Named before it is deleted, so that there is something to delete; nft(8) does all of it or nothing.
        f"nft -f - <<'END'\ntable inet {table}\ndelete table inet {table}\n"
        f"{ruleset(bridge, address, address6, table)}\nEND\n"
        f"{_ipv6(bridge, address6)}"
        f"{_only(bridge, address, '-4')}"
        # After that, as the others of one subnet go with the first of them.
        f"ip address replace {address} dev {bridge}\n"
        f"ip link set dev {bridge} up\n"
    )


def _ipv6(bridge: str, address6: str) -> str:
    """Whatever is attached could announce itself as the host's router (CVE-2020-13401): it believes nobody.

    Without detection of duplicates: an address waits for that in vain while nothing is attached.
    """
    own = f"{_IPV6}/{bridge}"
    off = f"! test -e {own}/disable_ipv6 || echo 1 > {own}/disable_ipv6\n"
    if not address6:
        return off
    return (
        f"if {FORWARDS_IPV6}; then\n"
        f"echo 0 > {own}/accept_ra\n"
        f"echo 0 > {own}/disable_ipv6\n"
        f"{_only(bridge, address6, '-6', 'scope global')}"
        f"ip address replace {address6} dev {bridge} nodad\n"
        f"else\n{off}fi\n"
    )


def _only(bridge: str, address: str, family: str, *scope: str) -> str:
    shown = " ".join(["ip", family, "-o address show dev", bridge, *scope])
    return (
        f"{shown} | while read -r _ _ _ other _; do\n"
        f'\ttest "$other" = {address} || ip address delete "$other" dev {bridge} 2>/dev/null || true\n'
        "done\n"
    )
