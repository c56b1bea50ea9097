"""The addresses of the host itself: what listens there is not the internet, whatever a name says."""

from __future__ import annotations

import time
from collections.abc import Callable

from backends.egress.addresses import Network
from backends.network.host_networks import KernelTables, parse_own, read_kernel_tables

__all__ = ["OwnAddresses"]

_FRESH_S = 1.0


class OwnAddresses:
    """Asks the kernel anew where its last answer is more than a second old.

    Parameters
    ----------
    source: gives the two tables; its OSError is the caller's: without them no address may be allowed.
    clock: seconds, never running backwards.
    """

    def __init__(
        self,
        source: Callable[[], KernelTables] = read_kernel_tables,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._clock = clock
        self._known: tuple[Network, ...] = ()
        self._until = float("-inf")

    def networks(self) -> tuple[Network, ...]:
        now = self._clock()
        if now >= self._until:
            self._known = parse_own(self._source())
            self._until = now + _FRESH_S
        return self._known
