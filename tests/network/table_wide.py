"""The table of network rules in the directional form: whole families, what is open, long lists. Data only."""

from __future__ import annotations

from tests.network.cases import Case, Policy, allowed, denied, egress, to

__all__ = ["WIDE"]

ALLOW, ALLOW1 = "egress.allow.0", "egress.allow.1"
DENY, DENY1, DENY2, DENY3 = "egress.deny.0", "egress.deny.1", "egress.deny.2", "egress.deny.3"
DEFAULT, HOST = "egress.default", "egress.host"
OWN = allowed(None, "own 127.0.0.1,::1")
SEVERAL, SEVERAL6 = "192.0.2.7,198.51.100.7", "2001:db8:2::7,2001:db8:3::7"
PAIRS = 500
"""Of neighbouring networks, of which the first is in the long list and the second is not."""


def pair(number: int) -> tuple[str, str]:
    """The first addresses of two neighbouring networks, of four each."""
    place = number * 8
    third, fourth = place >> 8, place & 255
    return f"198.18.{third}.{fourth}", f"198.18.{third}.{fourth + 4}"


def _shifted(address: str, by: int) -> str:
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) + by}"


def _long_list() -> tuple[Case, ...]:
    cases: list[Case] = []
    for number in (0, 1, 255, PAIRS - 1):
        inside, outside = pair(number)
        last = _shifted(inside, 3)
        cases.append(
            Case(
                f"network {number} of a long list, at its edges",
                allowed(ALLOW, f"tcp {inside},{last} 8000"),
                denied(DEFAULT, f"tcp {outside},{_shifted(outside, 3)} 8000"),
            )
        )
    return tuple(cases)


WIDE = (
    Policy(
        "all-of-ipv4",
        egress(allow=[to("0.0.0.0/0")]),
        (
            Case(
                "all of IPv4 and nothing of IPv6",
                allowed(ALLOW, f"tcp,udp,icmp {SEVERAL} 8000"),
                denied(DEFAULT, f"tcp,udp,icmp {SEVERAL6} 8000"),
            ),
            Case(
                "all of IPv4 is not the host",
                allowed(ALLOW, "tcp 10.9.8.7 8000"),
                denied(HOST, "tcp,udp,icmp 203.0.113.2,10.187.0.1 8000"),
            ),
        ),
    ),
    Policy(
        "all-of-ipv6",
        egress(allow=[to("::/0")]),
        (
            Case(
                "all of IPv6 and nothing of IPv4",
                allowed(ALLOW, f"tcp,udp,icmp {SEVERAL6} 8000"),
                denied(DEFAULT, f"tcp,udp,icmp {SEVERAL} 8000"),
            ),
            Case(
                "nor of IPv4 in its mapped form",
                allowed(ALLOW, "tcp 2001:db8:2::9 8000"),
                denied(DEFAULT, "tcp ::ffff:192.0.2.9 8000"),
            ),
            Case(
                "all of IPv6 is not the host",
                allowed(ALLOW, "tcp fd00:9::7 8000"),
                denied(HOST, "tcp,udp,icmp 2001:db8:113::2,fdb5:6d78:62::1 8000"),
            ),
        ),
    ),
    Policy(
        "open",
        {"network": {"egress": {"default": "allow"}}},
        (
            Case(
                "with a default of allow all others of IPv4 are reached, the host is not",
                allowed(DEFAULT, f"tcp,udp,icmp {SEVERAL},10.9.8.7 8000"),
                denied(HOST, "tcp,udp,icmp 203.0.113.2,10.187.0.1 8000"),
            ),
            Case(
                "so it is with IPv6",
                allowed(DEFAULT, f"tcp,udp,icmp {SEVERAL6},fd00:9::7 8000"),
                denied(HOST, "tcp,udp,icmp 2001:db8:113::2,fdb5:6d78:62::1 8000"),
            ),
            Case(
                "the loopback is the sandbox's own: no service of the host's is there",
                OWN,
                denied(None, "tcp 127.0.0.1,::1,127.0.0.53 22,80,3128,8000", "udp 127.0.0.1,::1 8000"),
            ),
            Case(
                "no service of the host's on any of its ports",
                allowed(DEFAULT, "tcp 192.0.2.9 22,80,443"),
                denied(HOST, "tcp 203.0.113.2,10.187.0.1 22,80,9999", "udp 10.187.0.1 123,9999"),
            ),
            Case(
                "nor by a mapped form of its address",
                allowed(DEFAULT, "tcp ::ffff:192.0.2.9 8001"),
                denied(HOST, "tcp ::ffff:203.0.113.2 8000"),
            ),
            Case(
                "nothing is special about name servers: the default holds",
                allowed(DEFAULT, "tcp 192.0.2.53,2001:db8:2::53 53"),
                denied(HOST, "tcp 203.0.113.2 53"),
            ),
        ),
    ),
    Policy(
        "open-but",
        egress(
            default="allow",
            deny=[
                to("192.0.2.0/24 - 192.0.2.128/25", "2001:db8:2::/64 - 2001:db8:2::8000/113"),
                to(
                    ports=(
                        {"protocol": "tcp", "port": 25},
                        {"protocol": "udp", "port": 8000, "endPort": 8010},
                    )
                ),
                to("198.51.100.7", ports=({"protocol": "icmp"},)),
                to("10.0.0.0/8", "fd00::/8", "169.254.0.0/16"),
            ],
            allow=[to("192.0.2.7/32"), to("198.51.100.9")],
        ),
        (
            Case(
                "a denied network but for what is taken out of it",
                allowed(DEFAULT, "tcp 192.0.2.128,192.0.2.255 8000"),
                denied(DENY, "tcp,icmp 192.0.2.0,192.0.2.127 8000"),
            ),
            Case(
                "the same of IPv6",
                allowed(DEFAULT, "tcp 2001:db8:2::8000,2001:db8:2::ffff 8000"),
                denied(DENY, "tcp,icmp 2001:db8:2::,2001:db8:2::7fff 8000"),
            ),
            Case(
                "an allowed address does not open what is denied",
                allowed(ALLOW1, "tcp 198.51.100.9 8000"),
                denied(DENY, "tcp 192.0.2.7 8000"),
            ),
            Case(
                "denied ports of every address, a range at its edges",
                allowed(DEFAULT, "udp 198.51.100.8,2001:db8:3::8 7999,8011", "tcp 198.51.100.8 8000"),
                denied(
                    DENY1, "udp 198.51.100.8,2001:db8:3::8 8000,8010", "tcp 198.51.100.8,2001:db8:3::8 25"
                ),
            ),
            Case(
                "denied ICMP of one address",
                allowed(DEFAULT, "icmp 198.51.100.8", "tcp 198.51.100.7 8000"),
                denied(DENY2, "icmp 198.51.100.7"),
            ),
            Case(
                "several networks of one denial, of both families",
                allowed(DEFAULT, "tcp 198.18.0.7,2001:db8:3::7 8000"),
                denied(DENY3, "tcp 10.9.8.7,fd00:9::7,169.254.169.254 8000"),
            ),
        ),
    ),
    Policy(
        "long-list", egress(allow=[to(*(f"{pair(number)[0]}/30" for number in range(PAIRS)))]), _long_list()
    ),
    Policy(
        "long-denials",
        egress(default="allow", deny=[to(*(f"{pair(number)[0]}/30" for number in range(2 * PAIRS)))]),
        (
            Case(
                "a thousand networks denied, the last of them at its edges",
                allowed(DEFAULT, f"tcp {pair(2 * PAIRS - 1)[1]},{pair(2 * PAIRS - 2)[1]} 8000"),
                denied(DENY, f"tcp {pair(2 * PAIRS - 1)[0]},{_shifted(pair(2 * PAIRS - 1)[0], 3)} 8000"),
            ),
        ),
    ),
)
