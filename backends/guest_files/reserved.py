"""Guest paths that belong to the guest: no grant may replace them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from backends.base import Effect, ViewEntry
from backends.errors import Problem
from backends.guest_files.places import GuestPlaces
from backends.pathnames import within

__all__ = ["OWN_PATHS", "PRIVATE", "SYSTEM_PATHS", "reserved_problems"]

PRIVATE = "/run/mxc"
"""Where the disk and the copies are kept in the guest, for root only."""

OWN_PATHS: tuple[str, ...] = (
    *("/proc", "/sys", "/dev", PRIVATE),
    *("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/machine-id", "/etc/nsswitch.conf"),
)
"""What the guest makes itself. A grant may neither lie in them nor cover them."""

_LIBRARIES = ("lib", "lib32", "lib64", "libx32")
_ARCHITECTURES = ("x86_64-linux-gnu", "aarch64-linux-gnu", "riscv64-linux-gnu")
SYSTEM_PATHS: tuple[str, ...] = (
    *("/", "/bin", "/sbin", "/usr", "/usr/bin", "/usr/sbin", "/etc", "/run"),
    *(f"{top}/{name}" for top in ("", "/usr") for name in _LIBRARIES),
    *(f"/usr/lib/{name}" for name in _ARCHITECTURES),
)
"""What the guest's programs come from. In a virtual machine they are the image's, not the host's, and a bind
over them would take the loader from under the agent's children: no grant may cover them. Below them, grants
are fine."""


_SAME = GuestPlaces()


def reserved_problems(entries: Iterable[ViewEntry], places: GuestPlaces = _SAME) -> Iterator[Problem]:
    """One problem for each entry that shows something of the host where the guest's own must stay."""
    for entry in entries:
        if entry.effect not in (Effect.BIND_READ_ONLY, Effect.BIND_READ_WRITE):
            continue
        needed = next((own for place in places.of(entry.path) if (own := _covered(place))), "")
        if needed:
            yield Problem(
                "guest_path_reserved",
                entry.pointer,
                f"{entry.path!r} would replace {needed!r} of the image that the sandbox runs from",
                expected="a path that neither covers the image's system directories nor lies in "
                f"{', '.join(OWN_PATHS[:4])}",
                fix="grant only the directories below it that the command needs, or choose containment"
                " bubblewrap, which shows the host's own system directories",
            )


def _covered(place: str) -> str:
    """What of the guest's own something at `place` would cover, or lie in; "" for nothing."""
    system = next((path for path in SYSTEM_PATHS if within(path, place)), "")
    return system or next((own for own in OWN_PATHS if within(place, own) or within(own, place)), "")
