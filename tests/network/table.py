"""The table of network rules in the directional form: addresses, networks, exceptions, denials. Data only.

Every address of the networks below answers on every port named here, unless a rule is in the way.
"""

from __future__ import annotations

from tests.network.cases import Case, Policy, allowed, denied, egress, to

__all__ = ["ADDRESSES"]

ALLOW, ALLOW1, ALLOW2 = "egress.allow.0", "egress.allow.1", "egress.allow.2"
DENY, DENY1, DENY2, DENY3 = "egress.deny.0", "egress.deny.1", "egress.deny.2", "egress.deny.3"
DEFAULT = "egress.default"
OWN = allowed(None, "own 127.0.0.1,::1")

ADDRESSES = (
    Policy(
        "nothing",
        {"network": {"egress": {"default": "deny"}}},
        (
            Case(
                "no address of IPv4 is reached without a rule",
                OWN,
                denied(None, "tcp,udp,icmp 192.0.2.7 8000"),
            ),
            Case("no address of IPv6 is", OWN, denied(None, "tcp,udp,icmp 2001:db8:2::7 8000")),
            Case("not even a name server", OWN, denied(None, "tcp,udp 192.0.2.53,2001:db8:2::53 53")),
        ),
    ),
    Policy(
        "one-address",
        egress(allow=[to("192.0.2.7"), to("2001:db8:2::7/128")]),
        (
            Case(
                "one address of IPv4, not the ones beside it",
                allowed(ALLOW, "tcp,udp 192.0.2.7 8000"),
                denied(DEFAULT, "tcp,udp 192.0.2.6,192.0.2.8 8000"),
            ),
            Case(
                "one address of IPv6, not the ones beside it",
                allowed(ALLOW1, "tcp,udp 2001:db8:2::7 8000"),
                denied(DEFAULT, "tcp,udp 2001:db8:2::6,2001:db8:2::8 8000"),
            ),
            Case(
                "every port of it, where no rule names one",
                allowed(ALLOW, "tcp 192.0.2.7 22,443,65535", "udp 192.0.2.7 123,9999"),
                denied(DEFAULT, "tcp 192.0.3.7 22,443,65535", "udp 192.0.3.7 123,9999"),
            ),
            Case(
                "every protocol of it: ICMP as well",
                allowed(ALLOW, "icmp 192.0.2.7"),
                allowed(ALLOW1, "icmp 2001:db8:2::7"),
                denied(DEFAULT, "icmp 192.0.2.8,2001:db8:2::8"),
            ),
            Case(
                "what is asked in IPv6's mapped form is IPv4, and judged so",
                allowed(ALLOW, "tcp ::ffff:192.0.2.7 8001"),
                denied(DEFAULT, "tcp ::ffff:192.0.2.8 8001"),
            ),
        ),
    ),
    Policy(
        "networks",
        egress(
            allow=[
                to("192.0.2.0/24", "2001:db8:2::/64", ports=({"protocol": "tcp"},)),
                to("198.51.100.128/25", "2001:db8:3:0:8000::/65"),
                to("198.18.0.0/15", "2001:db8:4::/127"),
            ]
        ),
        (
            Case(
                "/24: the first address and none before it",
                allowed(ALLOW, "tcp 192.0.2.0,192.0.2.1 8000"),
                denied(DEFAULT, "tcp 192.0.1.255 8000"),
            ),
            Case(
                "/24: the last address and none after it",
                allowed(ALLOW, "tcp 192.0.2.254,192.0.2.255 8000"),
                denied(DEFAULT, "tcp 192.0.3.0 8000"),
            ),
            Case(
                "/64: the first address and none before it",
                allowed(ALLOW, "tcp 2001:db8:2::,2001:db8:2::1 8000"),
                denied(DEFAULT, "tcp 2001:db8:1:ffff:ffff:ffff:ffff:ffff 8000"),
            ),
            Case(
                "/64: the last address and none after it",
                allowed(ALLOW, "tcp 2001:db8:2::ffff:ffff:ffff:ffff 8000"),
                denied(DEFAULT, "tcp 2001:db8:2:1:: 8000"),
            ),
            Case(
                "/25: the upper half, not the lower one",
                allowed(ALLOW1, "tcp,udp 198.51.100.128,198.51.100.255 8000"),
                denied(DEFAULT, "tcp,udp 198.51.100.0,198.51.100.127 8000"),
            ),
            Case(
                "/65: the upper half, not the lower one",
                allowed(ALLOW1, "tcp 2001:db8:3:0:8000::,2001:db8:3:0:ffff:ffff:ffff:ffff 8000"),
                denied(DEFAULT, "tcp 2001:db8:3::,2001:db8:3:0:7fff:ffff:ffff:ffff 8000"),
            ),
            Case(
                "/15, over a whole octet",
                allowed(ALLOW2, "tcp 198.18.0.0,198.19.255.255 8000"),
                denied(DEFAULT, "tcp 198.51.100.7 8000"),
            ),
            Case(
                "/127, of two addresses",
                allowed(ALLOW2, "udp 2001:db8:4::,2001:db8:4::1 8000"),
                denied(DEFAULT, "udp 2001:db8:4::2,2001:db8:3:ffff:ffff:ffff:ffff:ffff 8000"),
            ),
            Case(
                "a protocol's rule lets no other one into the network",
                allowed(ALLOW, "tcp 192.0.2.9,2001:db8:2::9 8000"),
                denied(DEFAULT, "udp,icmp 192.0.2.9,2001:db8:2::9 8000"),
            ),
        ),
    ),
    Policy(
        "exceptions",
        egress(
            allow=[
                to(
                    "192.0.2.0/24 - 192.0.2.64/26 - 192.0.2.10/32",
                    "198.51.100.0/24 - 198.51.100.0/25 - 198.51.100.0/28",
                ),
                to("2001:db8:2::/64 - 2001:db8:2::100/120 - 2001:db8:2::7/128"),
                to("192.0.2.72/32", ports=({"protocol": "udp"},)),
            ]
        ),
        (
            Case(
                "inside the network and outside of what is taken out",
                allowed(ALLOW, "tcp 192.0.2.7,192.0.2.200 8000"),
                denied(DEFAULT, "tcp 192.0.2.100 8000"),
            ),
            Case(
                "the lower edge of what is taken out",
                allowed(ALLOW, "tcp 192.0.2.63 8000"),
                denied(DEFAULT, "tcp 192.0.2.64 8000"),
            ),
            Case(
                "the upper edge of what is taken out",
                allowed(ALLOW, "tcp 192.0.2.128 8000"),
                denied(DEFAULT, "tcp 192.0.2.127 8000"),
            ),
            Case(
                "one address taken out, between its neighbours",
                allowed(ALLOW, "udp 192.0.2.9,192.0.2.11 8000"),
                denied(DEFAULT, "udp,icmp 192.0.2.10 8000"),
            ),
            Case(
                "an exception within an exception takes nothing back",
                allowed(ALLOW, "tcp 198.51.100.128 8000"),
                denied(DEFAULT, "tcp 198.51.100.0,198.51.100.15,198.51.100.16,198.51.100.127 8000"),
            ),
            Case(
                "what is taken out of one rule, another one may allow",
                allowed(ALLOW2, "udp 192.0.2.72 8000"),
                denied(DEFAULT, "tcp 192.0.2.72 8000", "udp 192.0.2.71,192.0.2.73 8000"),
            ),
            Case(
                "a network of IPv6 with its edges taken out",
                allowed(ALLOW1, "tcp 2001:db8:2::ff,2001:db8:2::200 8000"),
                denied(DEFAULT, "tcp 2001:db8:2::100,2001:db8:2::1ff 8000"),
            ),
            Case(
                "one address of IPv6 taken out",
                allowed(ALLOW1, "udp,icmp 2001:db8:2::6,2001:db8:2::8 8000"),
                denied(DEFAULT, "udp,icmp 2001:db8:2::7 8000"),
            ),
        ),
    ),
    Policy(
        "denials",
        egress(
            deny=[
                to("192.0.2.128/25", "2001:db8:2:8::/61"),
                to("192.0.2.7/32", "2001:db8:2::7/128"),
                to("192.0.2.16/28 - 192.0.2.20/32", ports=({"protocol": "tcp", "port": 8000},)),
                to(ports=({"protocol": "udp", "port": 123}, {"protocol": "tcp", "port": 25})),
            ],
            allow=[to("192.0.2.0/24", "2001:db8:2::/48"), to("192.0.2.200/32", "2001:db8:2:8::7/128")],
        ),
        (
            Case(
                "a denied network wins over an allowed address in it",
                allowed(ALLOW, "tcp 192.0.2.127 8000"),
                denied(DENY, "tcp,udp,icmp 192.0.2.200 8000"),
            ),
            Case(
                "the same of IPv6",
                allowed(ALLOW, "tcp 2001:db8:2:7::7 8000"),
                denied(DENY, "tcp,udp,icmp 2001:db8:2:8::7 8000"),
            ),
            Case(
                "a denied address wins over the allowed network around it",
                allowed(ALLOW, "tcp,icmp 192.0.2.6,192.0.2.8 8000"),
                denied(DENY1, "tcp,icmp 192.0.2.7 8000"),
            ),
            Case(
                "the same of IPv6, in one rule with it",
                allowed(ALLOW, "tcp,icmp 2001:db8:2::6 8000"),
                denied(DENY1, "tcp,icmp 2001:db8:2::7 8000"),
            ),
            Case(
                "a denied port of a network leaves the others, and other protocols",
                allowed(ALLOW, "tcp 192.0.2.16 8001", "udp 192.0.2.16 8000"),
                denied(DENY2, "tcp 192.0.2.16,192.0.2.31 8000"),
            ),
            Case(
                "what is taken out of a denial is judged by the rules after it",
                allowed(ALLOW, "tcp 192.0.2.20 8000"),
                denied(DENY2, "tcp 192.0.2.19,192.0.2.21 8000"),
            ),
            Case(
                "denied ports of all addresses",
                allowed(ALLOW, "udp 192.0.2.40 8000", "tcp 2001:db8:2::40 22"),
                denied(DENY3, "udp 192.0.2.40,2001:db8:2::40 123", "tcp 192.0.2.40,2001:db8:2::40 25"),
            ),
            Case(
                "what no rule names stays the default's",
                allowed(ALLOW, "tcp 192.0.2.41 8000"),
                denied(DEFAULT, "tcp 198.51.100.7 8000"),
            ),
        ),
    ),
)
