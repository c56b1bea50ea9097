"""The table of network rules in the directional form: ports, protocols, mapped addresses. Data only."""

from __future__ import annotations

from tests.network.cases import Case, Policy, allowed, denied, egress, to

__all__ = ["PORTS"]

ALLOW, ALLOW1, ALLOW2 = "egress.allow.0", "egress.allow.1", "egress.allow.2"
DENY, DEFAULT, HOST = "egress.deny.0", "egress.default", "egress.host"
SEVERAL, SEVERAL6 = "192.0.2.7,198.51.100.7", "2001:db8:2::7,2001:db8:3::7"

PORTS = (
    Policy(
        "ports",
        egress(
            allow=[
                to("192.0.2.0/24", "2001:db8:2::/64", ports=({"protocol": "tcp", "port": 8000},)),
                to(
                    "198.51.100.0/24",
                    "2001:db8:3::/64",
                    ports=({"protocol": "tcp", "port": 8000, "endPort": 8010},),
                ),
                to("198.18.0.0/24", "2001:db8:4::/64", ports=({"port": 8005},)),
                to(
                    "198.18.1.0/24",
                    ports=({"protocol": "udp", "port": 8000}, {"protocol": "tcp", "port": 22}),
                ),
                to("198.18.2.0/24", ports=({"protocol": "any", "port": 8000, "endPort": 65535},)),
            ]
        ),
        (
            Case(
                "one port",
                allowed(ALLOW, "tcp 192.0.2.7,2001:db8:2::7 8000"),
                denied(DEFAULT, "tcp 192.0.2.7,2001:db8:2::7 7999,8001"),
            ),
            Case(
                "of TCP only",
                allowed(ALLOW, "tcp 192.0.2.8 8000"),
                denied(DEFAULT, "udp 192.0.2.8,2001:db8:2::8 8000", "icmp 192.0.2.8,2001:db8:2::8"),
            ),
            Case(
                "the first port of a range and none below it",
                allowed(ALLOW1, "tcp 198.51.100.7 8000,8001"),
                denied(DEFAULT, "tcp 198.51.100.7 7999"),
            ),
            Case(
                "the last port of a range and none above it",
                allowed(ALLOW1, "tcp 198.51.100.7 8009,8010"),
                denied(DEFAULT, "tcp 198.51.100.7 8011"),
            ),
            Case(
                "a range for IPv6",
                allowed(ALLOW1, "tcp 2001:db8:3::7 8000,8010"),
                denied(DEFAULT, "tcp 2001:db8:3::7 7999,8011", "udp 2001:db8:3::7 8005"),
            ),
            Case(
                "a port of any protocol is TCP's and UDP's",
                allowed(f"{ALLOW2}", "tcp,udp 198.18.0.7,2001:db8:4::7 8005"),
                denied(DEFAULT, "tcp,udp 198.18.0.7,2001:db8:4::7 8001"),
            ),
            Case(
                "a port of any protocol is not ICMP",
                allowed(f"{ALLOW2}", "udp 198.18.0.8,2001:db8:4::8 8005"),
                denied(DEFAULT, "icmp 198.18.0.8,2001:db8:4::8"),
            ),
            Case(
                "each protocol has its own ports in a rule with several",
                allowed("egress.allow.3", "udp 198.18.1.7 8000", "tcp 198.18.1.7 22"),
                denied(DEFAULT, "tcp 198.18.1.7 8000", "icmp 198.18.1.7"),
            ),
            Case(
                "a range to the last port there is",
                allowed("egress.allow.4", "tcp 198.18.2.7 8000,65535", "udp 198.18.2.7 9999"),
                denied(DEFAULT, "tcp 198.18.2.7 443,7999"),
            ),
        ),
    ),
    Policy(
        "protocols",
        egress(
            allow=[
                to("192.0.2.1", "2001:db8:2::1", ports=({"protocol": "icmp"},)),
                to("192.0.2.2", "2001:db8:2::2", ports=({"protocol": "udp"},)),
                to("192.0.2.3", "2001:db8:2::3", ports=({"protocol": "tcp"},)),
                to("192.0.2.4", "2001:db8:2::4", ports=({"protocol": "any"},)),
                to("192.0.2.5", ports=({"protocol": "icmp"}, {"protocol": "tcp", "port": 8000})),
            ]
        ),
        (
            Case("ICMP only", allowed(ALLOW, "icmp 192.0.2.1"), denied(DEFAULT, "tcp,udp 192.0.2.1 8000")),
            Case(
                "ICMP is ICMPv6 for IPv6",
                allowed(ALLOW, "icmp 2001:db8:2::1"),
                denied(DEFAULT, "tcp,udp 2001:db8:2::1 8000"),
            ),
            Case(
                "UDP only, on every port",
                allowed(ALLOW1, "udp 192.0.2.2,2001:db8:2::2 123,9999"),
                denied(DEFAULT, "tcp,icmp 192.0.2.2,2001:db8:2::2 9999"),
            ),
            Case(
                "TCP only, on every port",
                allowed(ALLOW2, "tcp 192.0.2.3,2001:db8:2::3 22,9999"),
                denied(DEFAULT, "udp,icmp 192.0.2.3,2001:db8:2::3 9999"),
            ),
            Case(
                "any protocol without a port is all of them",
                allowed("egress.allow.3", "tcp,udp,icmp 192.0.2.4,2001:db8:2::4 9999"),
                denied(DEFAULT, "tcp,udp,icmp 192.0.2.6,2001:db8:2::6 9999"),
            ),
            Case(
                "ICMP beside a port of TCP",
                allowed("egress.allow.4", "icmp 192.0.2.5", "tcp 192.0.2.5 8000"),
                denied(DEFAULT, "tcp 192.0.2.5 8001", "udp 192.0.2.5 8000"),
            ),
        ),
    ),
    Policy(
        "everywhere",
        egress(allow=[to(ports=({"protocol": "tcp", "port": 8000},)), to(ports=({"protocol": "icmp"},))]),
        (
            Case(
                "a rule without addresses is about all of IPv4",
                allowed(ALLOW, f"tcp {SEVERAL},10.9.8.7 8000"),
                denied(DEFAULT, f"tcp {SEVERAL},10.9.8.7 8001"),
            ),
            Case(
                "and about all of IPv6",
                allowed(ALLOW, f"tcp {SEVERAL6},fd00:9::7 8000"),
                denied(DEFAULT, f"tcp {SEVERAL6} 8001", f"udp {SEVERAL6} 8000"),
            ),
            Case(
                "ICMP everywhere",
                allowed(ALLOW1, f"icmp {SEVERAL},{SEVERAL6}"),
                denied(DEFAULT, f"udp {SEVERAL},{SEVERAL6} 9999"),
            ),
            Case(
                "everywhere is not the host: its loopback, its addresses, the bridge's",
                allowed(ALLOW, "tcp 192.0.2.9 8000"),
                denied(None, "tcp 127.0.0.1,::1 8000"),
                denied(HOST, "tcp 203.0.113.2,10.187.0.1,2001:db8:113::2,fdb5:6d78:62::1 8000"),
            ),
        ),
    ),
    Policy(
        "mapped",
        egress(
            deny=[to("::ffff:192.0.2.77/128")],
            allow=[to("::ffff:192.0.2.64/124"), to("::ffff:198.51.100.7")],
        ),
        (
            Case(
                "a mapped network of IPv6 is one of IPv4",
                allowed(ALLOW, "tcp,udp,icmp 192.0.2.64,192.0.2.79 8000"),
                denied(DEFAULT, "tcp,udp,icmp 192.0.2.63,192.0.2.80 8000"),
            ),
            Case(
                "a mapped address is one of IPv4",
                allowed(ALLOW1, "tcp,icmp 198.51.100.7 8000"),
                denied(DEFAULT, "tcp,icmp 198.51.100.8 8000"),
            ),
            Case(
                "so it is where it is denied",
                allowed(ALLOW, "tcp 192.0.2.76,192.0.2.78 8000"),
                denied(DENY, "tcp,udp,icmp 192.0.2.77 8000"),
            ),
            Case(
                "and IPv6 is not meant by it",
                allowed(ALLOW, "tcp 192.0.2.65 8000"),
                denied(DEFAULT, "tcp,udp,icmp 2001:db8:2::7 8000"),
            ),
        ),
    ),
    Policy(
        "name-server",
        egress(allow=[to("192.0.2.53", ports=({"protocol": "udp", "port": 53},)), to("2001:db8:2::53")]),
        (
            Case(
                "a rule for a name server opens it, by the protocol that it names",
                allowed(ALLOW, "dns 192.0.2.53 53"),
                denied(DEFAULT, "tcp 192.0.2.53 53,8000", "dns 192.0.2.54,198.51.100.53 53"),
            ),
            Case(
                "of IPv6 by a rule of its own",
                allowed(ALLOW1, "dns 2001:db8:2::53 53", "tcp 2001:db8:2::53 53"),
                denied(DEFAULT, "dns 2001:db8:2::54 53"),
            ),
        ),
    ),
)
