"""What makes a clone another machine than its template."""

from __future__ import annotations

import os
import time

from backends.frozen import replace
from backends.inside.agent_protocol import RANDOM_BYTES, GuestIdentity

__all__ = ["new_identity", "same_identity"]


def new_identity(hostname: str | None = None) -> GuestIdentity:
    """A fresh identity, with the clock as it is now: make it right before it is sent.

    The machine id is a random UUID without its dashes (machine-id(5)), the MAC address a locally
    administered one of a single card (IEEE 802: bits 1 and 0 of the first byte). Without `hostname` it is
    ``vm-`` and 8 random hexadecimal digits.
    """
    digits = bytearray(os.urandom(16))
    digits[6] = digits[6] & 0x0F | 0x40
    digits[8] = digits[8] & 0x3F | 0x80
    mac = bytearray(os.urandom(6))
    mac[0] = mac[0] & 0xFC | 0x02
    return GuestIdentity(
        realtime_ns=time.time_ns(),
        random=os.urandom(RANDOM_BYTES),
        machine_id=digits.hex(),
        mac=bytes(mac),
        hostname=hostname or f"vm-{os.urandom(4).hex()}",
    )


def same_identity(identity: GuestIdentity) -> GuestIdentity:
    """The same machine at another time, with fresh random numbers: make it right before it is sent."""
    return replace(identity, realtime_ns=time.time_ns(), random=os.urandom(RANDOM_BYTES))
