"""How much of anything one proxy takes on. What it reads was written by untrusted code."""

from __future__ import annotations

__all__ = [
    "ADDRESSES_TRIED",
    "CLIENTS",
    "CONNECT_S",
    "DESCRIPTORS",
    "DNS_IN_FLIGHT",
    "FIRST_MESSAGE_S",
    "IDLE_S",
    "KEEP_ALIVE_S",
    "LINGER_S",
    "LOOKUPS",
    "LOOKUP_S",
    "NAMES_KEPT",
    "UDP_IDLE_S",
    "UDP_SESSIONS",
]

DESCRIPTORS = 20_000
CLIENTS = 1024
"""TCP connections of clients, over all listeners."""

FIRST_MESSAGE_S = 10.0
"""From its first wait to its last byte: a request's head, a hello, a SOCKS negotiation."""

KEEP_ALIVE_S = 60.0
"""Between two requests of one connection."""

IDLE_S = 600.0
LINGER_S = 1.0
"""How long a refused client may take to stop sending, so that it still reads why."""

CONNECT_S = 5.0
ADDRESSES_TRIED = 8
LOOKUP_S = 5.0
LOOKUPS = 64
NAMES_KEPT = 1024
"""Names that the resolver remembers, and those that events are thinned out by."""

DNS_IN_FLIGHT = 128
UDP_SESSIONS = 256
UDP_IDLE_S = 60.0
