"""The table of network rules in the legacy form (0.4 to 0.9-dev). Data only."""

from __future__ import annotations

from typing import Any

from tests.network.cases import Case, Policy, allowed, denied

__all__ = ["LEGACY"]

ALLOW, ALLOW1, ALLOW2 = "egress.allow.0", "egress.allow.1", "egress.allow.2"
DENY, DENY1 = "egress.deny.0", "egress.deny.1"
DEFAULT, HOST = "egress.default", "egress.host"
OWN = allowed(None, "own 127.0.0.1,::1")


def _legacy(version: str, **fields: Any) -> dict[str, Any]:
    return {"version": version, "network": fields}


def _mode(mode: str) -> Policy:
    """`enforcementMode` changes nothing: what is written holds in each."""
    return Policy(
        f"legacy-{mode}",
        _legacy("0.6.0-alpha", defaultPolicy="block", allowedHosts=["192.0.2.7"], enforcementMode=mode),
        (
            Case(
                f"enforcementMode {mode}: the host that is allowed and no other",
                allowed(ALLOW, "tcp,udp,icmp 192.0.2.7 8000"),
                denied(DEFAULT, "tcp,udp,icmp 192.0.2.8,2001:db8:2::7 8000"),
            ),
        ),
    )


LEGACY = (
    Policy(
        "legacy-block",
        _legacy("0.4.0", defaultPolicy="block"),
        (
            Case(
                "block, and nothing else said", OWN, denied(None, "tcp,udp,icmp 192.0.2.7,2001:db8:2::7 8000")
            ),
        ),
    ),
    Policy(
        "legacy-allowed",
        _legacy(
            "0.4.0",
            defaultPolicy="block",
            allowedHosts=["192.0.2.7", "198.51.100.0/25", "2001:db8:2::/112"],
        ),
        (
            Case(
                "an allowed address: all its ports and protocols",
                allowed(ALLOW, "tcp 192.0.2.7 22,8000", "udp,icmp 192.0.2.7 9999"),
                denied(DEFAULT, "tcp,udp,icmp 192.0.2.6,192.0.2.8 8000"),
            ),
            Case(
                "an allowed network at its edges",
                allowed(ALLOW1, "tcp 198.51.100.0,198.51.100.127 8000"),
                denied(DEFAULT, "tcp 198.51.100.128 8000"),
            ),
            Case(
                "an allowed network of IPv6 at its edges",
                allowed(ALLOW2, "tcp,udp 2001:db8:2::,2001:db8:2::ffff 8000"),
                denied(DEFAULT, "tcp,udp 2001:db8:2::1:0 8000"),
            ),
            Case(
                "no name server ahead of the rules",
                allowed(ALLOW2, "dns 2001:db8:2::53 53"),
                denied(DEFAULT, "dns 192.0.2.53 53", "tcp 192.0.2.53 53"),
            ),
        ),
    ),
    Policy(
        "legacy-both-lists",
        _legacy(
            "0.7.0",
            defaultPolicy="block",
            allowedHosts=["192.0.2.0/24", "198.51.100.7"],
            blockedHosts=["192.0.2.64/26", "198.51.100.0/24"],
        ),
        (
            Case(
                "a blocked network within an allowed one",
                allowed(ALLOW, "tcp 192.0.2.63,192.0.2.128 8000"),
                denied(DENY, "tcp 192.0.2.64,192.0.2.127 8000"),
            ),
            Case(
                "a blocked network over an allowed address",
                allowed(ALLOW, "udp 192.0.2.7 8000"),
                denied(DENY1, "tcp,udp 198.51.100.7 8000"),
            ),
        ),
    ),
    Policy(
        "legacy-open",
        _legacy(
            "0.9.0-dev",
            defaultPolicy="allow",
            blockedHosts=["192.0.2.7", "2001:db8:2::/64", "198.51.100.9/24"],
        ),
        (
            Case(
                "allow, but for a blocked address",
                allowed(DEFAULT, "tcp,udp,icmp 192.0.2.8 8000"),
                denied(DENY, "tcp,udp,icmp 192.0.2.7 8000"),
            ),
            Case(
                "allow, but for a blocked network of IPv6",
                allowed(DEFAULT, "tcp 2001:db8:2:1::7 8000"),
                denied(DENY1, "tcp,udp,icmp 2001:db8:2::7,2001:db8:2::ffff:ffff:ffff:ffff 8000"),
            ),
            Case(
                "a blocked network that is written with host bits is blocked as a whole",
                allowed(DEFAULT, "tcp 198.18.0.7 8000"),
                denied("egress.deny.2", "tcp 198.51.100.0,198.51.100.9,198.51.100.255 8000"),
            ),
            Case(
                "allow is not the host",
                allowed(DEFAULT, "tcp 10.9.8.7 8000"),
                denied(HOST, "tcp 203.0.113.2,10.187.0.1,2001:db8:113::2 8000"),
                denied(None, "tcp 127.0.0.1 8000"),
            ),
        ),
    ),
    Policy(
        "legacy-superset",
        _legacy("0.5.0-alpha", defaultPolicy="allow", allowedHosts=["192.0.2.7"], blockedHosts=["192.0.2.8"]),
        (
            Case(
                "allowed hosts add nothing to a default of allow, and take nothing",
                allowed(DEFAULT, "tcp 192.0.2.7,192.0.2.9,2001:db8:2::7 8000"),
                denied(DENY, "tcp 192.0.2.8 8000"),
            ),
        ),
    ),
    *(_mode(mode) for mode in ("capabilities", "firewall", "both")),
)
