"""Where a guest shows what the host grants. Pure."""

from __future__ import annotations

from backends.frozen import frozen
from backends.pathnames import within

__all__ = ["GuestPlaces"]


@frozen
class GuestPlaces:
    """`roots`: (canonical path of a grant, where the guest has it); None: everything at its own path."""

    roots: tuple[tuple[str, str], ...] | None = None

    def of(self, path: str) -> tuple[str, ...]:
        """Every path of the guest that shows the host's `path`, which is granted or lies in a grant."""
        if self.roots is None:
            return (path,)
        return tuple(place + path[len(root) :] for root, place in self.roots if within(path, root))
