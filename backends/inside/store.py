"""The launcher's sources, and the store where the program built from exactly them is found again.

A store is a directory of ``<key>/launcher``, the key being a hash of sources, flags and machine. The system's
is root's and serves everybody; a user without it has one of their own, which root never runs programs from.
"""

from __future__ import annotations

import os
import stat
from functools import cache

from backends.digest import sha256

SYSTEM_STORE = "/usr/local/lib/mxc-ops/helpers"
PROGRAM = "launcher"
SOURCES = (
    "common.c",
    "guards.c",
    "inside.c",
    "landlock.c",
    "launcher.c",
    "launcher.h",
    "masks.c",
    "outside.c",
    "spec.c",
    "spec.h",
    "stage.c",
    "wire.h",
    "workload.c",
)
FLAGS = (
    "-std=c11",
    "-O2",
    "-static",  # musl's compiler wrapper makes no static-pie: it would silently link dynamically
    "-fno-pie",
    "-no-pie",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wformat=2",
    "-Werror",
    "-D_FORTIFY_SOURCE=2",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-Wl,-z,relro,-z,now",
    "-s",
    # musl's compiler wrapper knows only its own headers; the kernel's stand beside glibc's.
    "-idirafter/usr/include",
)
_FLAGS_BY_MACHINE = {
    "x86_64": ("-fcf-protection", "-idirafter/usr/include/x86_64-linux-gnu"),
    "aarch64": ("-mbranch-protection=standard", "-idirafter/usr/include/aarch64-linux-gnu"),
}
SOURCE_FOLDER = __file__.rpartition("/")[0]
_MAX_SOURCE_BYTES = 1 << 16


@cache
def source_key(machine: str = "") -> str:
    """The launcher's identity: SHA-256, in hex, over sources, compiler flags and machine.

    Parameters
    ----------
    machine: as ``uname -m``; by default this one's.
    """
    machine = machine or os.uname().machine
    digest = sha256()
    for part in (machine, *flags(machine)):
        digest.update(part.encode() + b"\0")
    for name in SOURCES:
        fd = os.open(f"{SOURCE_FOLDER}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        content = os.read(fd, _MAX_SOURCE_BYTES)
        os.close(fd)
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def flags(machine: str = "") -> tuple[str, ...]:
    """Compiler and linker flags for a machine, by default this one."""
    return FLAGS + _FLAGS_BY_MACHINE.get(machine or os.uname().machine, ())


def user_store() -> str:
    """Where a user keeps helpers of their own: below ``XDG_DATA_HOME``, else ``~/.local/share``."""
    data_home = os.environ.get("XDG_DATA_HOME", "")
    base = data_home if data_home.startswith("/") else os.path.expanduser("~/.local/share")
    return f"{base}/mxc-ops/helpers"


def find_launcher() -> str | None:
    """The launcher built from exactly these sources, from a store that nobody else can write to.

    The system's store first; a user's own only for that user, never for root.
    """
    key = source_key()
    if _is_owned(SYSTEM_STORE, key, owner=0):
        return f"{SYSTEM_STORE}/{key}/{PROGRAM}"
    user = os.geteuid()
    if user == 0:
        return None
    store = user_store()
    return f"{store}/{key}/{PROGRAM}" if _is_owned(store, key, owner=user) else None


def _is_owned(store: str, key: str, *, owner: int) -> bool:
    folder = f"{store}/{key}"
    places = ((store, stat.S_IFDIR), (folder, stat.S_IFDIR), (f"{folder}/{PROGRAM}", stat.S_IFREG))
    try:
        for place, kind in places:
            status = os.lstat(place)
            if stat.S_IFMT(status.st_mode) != kind or status.st_uid != owner or status.st_mode & 0o022:
                return False
    except OSError:
        return False
    return True
