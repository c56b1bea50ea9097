"""What a QEMU process can reach: its program, its libraries, its firmware, and what it was handed (pure).

A guest that breaks out of its machine finds itself in a bubblewrap sandbox without files, network, other
processes or privileges, under a host uid of its own and under QEMU's own seccomp filter (design §3).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from backends.bubblewrap.facts import BaselineEntry, Helper
from backends.frozen import frozen
from backends.launched.identity import Identity
from backends.linux.limits import LimitPlan

__all__ = ["Confinement", "observe_places", "options"]

_PLACES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"),
    *("/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu-kvm", "/usr/share/sgabios"),
)
"""Where distributions keep what QEMU loads: shared libraries, its modules, its firmware."""


@frozen
class Confinement:
    """How QEMU is held: `helper` is bubblewrap, `launcher` our own program, `places` what can be read.

    `limits` are those of the whole process, guest included; `cgroup_parents` and `cgroup_version` say where
    its control groups are made.
    """

    helper: Helper
    launcher: str
    identity: Identity
    places: tuple[BaselineEntry, ...]
    limits: LimitPlan
    cgroup_parents: tuple[tuple[str, str], ...]
    cgroup_version: str


def observe_places() -> tuple[BaselineEntry, ...]:
    """Those of the places that this host has, links as links."""
    found: list[BaselineEntry] = []
    for path in _PLACES:
        try:
            found.append(BaselineEntry(path, os.readlink(path)))
        except FileNotFoundError:
            continue
        except OSError:  # EINVAL: not a link
            found.append(BaselineEntry(path))
    return tuple(found)


def options(qemu: str, accelerator: str, places: tuple[BaselineEntry, ...]) -> tuple[str, ...]:
    """Bubblewrap's options for one QEMU."""
    return tuple(_words(qemu, accelerator, places))


def _words(qemu: str, accelerator: str, places: tuple[BaselineEntry, ...]) -> Iterator[str]:
    yield from ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net")
    yield from (
        "--unshare-cgroup-try",
        "--disable-userns",
        "--as-pid-1",
        "--new-session",
        "--cap-drop",
        "ALL",
    )
    yield from ("--dir", "/usr", "--dir", "/etc")  # written out, for bubblewrap makes implied parents 0700
    for place in places:
        if place.target:
            yield from ("--symlink", place.target, place.path)
        else:
            yield from ("--ro-bind", place.path, place.path)
    yield from ("--ro-bind", qemu, qemu, "--proc", "/proc", "--dev", "/dev")
    if accelerator == "kvm":
        yield from ("--dev-bind", "/dev/kvm", "/dev/kvm")
    yield from ("--remount-ro", "/dev", "--remount-ro", "/")
