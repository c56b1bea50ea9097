"""Our programs' sources, and the store where what was built from exactly them is found again.

A store is a directory of ``<key>/<program>``, the key being a hash of sources, flags and machine. The
system's is root's and serves everybody; a user without it has one of their own, which root never runs
programs from.
"""

from __future__ import annotations

import os
import stat
from functools import cache

from backends.digest import sha256
from backends.frozen import frozen

SYSTEM_STORE = "/usr/local/lib/mxc-ops/helpers"


@frozen
class Program:
    """One of our programs: `name` is its file's in the store, `sources` are beside this file.

    `shared`: it is no program of its own but what others load, and takes their libraries.
    """

    name: str
    sources: tuple[str, ...]
    shared: bool = False


LAUNCHER = Program(
    "launcher",
    (
        "common.c",
        "execute.c",
        "execute.h",
        "gate.c",
        "gate.h",
        "gate_namespaces.c",
        "gate_programs.c",
        "gate_sockets.c",
        "guards.c",
        "hide.c",
        "hide.h",
        "identity.c",
        "inside.c",
        "landlock.c",
        "launcher.c",
        "launcher.h",
        "links.c",
        "links.h",
        "masks.c",
        "mount_numbers.h",
        "outside.c",
        "remove.c",
        "spec.c",
        "spec.h",
        "stage.c",
        "stage_root.c",
        "unpack.c",
        "users.c",
        "wire.h",
        "workload.c",
    ),
)
AGENT = Program(
    "agent",
    (
        "agent.c",
        "agent.h",
        "agent_below.c",
        "agent_below.h",
        "agent_boot.c",
        "agent_child.c",
        "agent_contained.c",
        "agent_container.c",
        "agent_container_root.c",
        "agent_container_system.c",
        "agent_decode.h",
        "agent_frames.c",
        "agent_group.c",
        "agent_hide.c",
        "agent_identity.c",
        "agent_interpreter.c",
        "agent_job.c",
        "agent_link.c",
        "agent_loop.c",
        "agent_mark.c",
        "agent_mount.c",
        "agent_network.c",
        "agent_pack.c",
        "agent_piece.c",
        "agent_port.c",
        "agent_processes.c",
        "agent_report.c",
        "agent_request.c",
        "agent_start.c",
        "agent_stream.c",
        "agent_tar.c",
        "agent_tar.h",
        "agent_task.c",
        "agent_unpack.c",
        "agent_wire.h",
        "agent_zygote.c",
        "execute.c",
        "execute.h",
        "hide.c",
        "hide.h",
        "links.c",
        "links.h",
        "mount_numbers.h",
    ),
)
PROGRAMS = {program.name: program for program in (LAUNCHER, AGENT)}
"""Those of a host."""
NODE_ADDON = Program(
    "node_addon.node",
    ("agent.h", "agent_decode.h", "agent_request.c", "agent_wire.h", "node_addon.c", "node_api.h"),
    shared=True,
)
"""Of a guest: for its node."""
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
_NOT_SHARED = frozenset(("-static", "-fno-pie", "-no-pie", "-D_FORTIFY_SOURCE=2"))
_SHARED = ("-shared", "-fPIC", "-nostdlib", "-fvisibility=hidden")
_FLAGS_BY_MACHINE = {
    "x86_64": ("-fcf-protection", "-idirafter/usr/include/x86_64-linux-gnu"),
    "aarch64": ("-mbranch-protection=standard", "-idirafter/usr/include/aarch64-linux-gnu"),
}
SOURCE_FOLDER = __file__.rpartition("/")[0]
_MAX_SOURCE_BYTES = 1 << 16


@cache
def source_key(program: Program, machine: str = "") -> str:
    """A program's identity: SHA-256, in hex, over sources, compiler flags and machine.

    Parameters
    ----------
    machine: as ``uname -m``; by default this one's.
    """
    machine = machine or os.uname().machine
    digest = sha256()
    for part in (machine, *flags(machine, shared=program.shared)):
        digest.update(part.encode() + b"\0")
    for name in program.sources:
        fd = os.open(f"{SOURCE_FOLDER}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        content = os.read(fd, _MAX_SOURCE_BYTES)
        os.close(fd)
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def flags(machine: str = "", *, shared: bool = False) -> tuple[str, ...]:
    """Compiler and linker flags for a machine, by default this one.

    Parameters
    ----------
    shared: of what others load.
    """
    common = (*(flag for flag in FLAGS if flag not in _NOT_SHARED), *_SHARED) if shared else FLAGS
    return common + _FLAGS_BY_MACHINE.get(machine or os.uname().machine, ())


def user_store() -> str:
    """Where a user keeps helpers of their own: below ``XDG_DATA_HOME``, else ``~/.local/share``."""
    data_home = os.environ.get("XDG_DATA_HOME", "")
    base = data_home if data_home.startswith("/") else os.path.expanduser("~/.local/share")
    return f"{base}/mxc-ops/helpers"


def find_program(program: Program) -> str | None:
    """The program built from exactly these sources, from a store that nobody else can write to.

    The system's store first; a user's own only for that user, never for root.
    """
    stored = f"{source_key(program)}/{program.name}"
    if _is_owned(SYSTEM_STORE, stored, owner=0):
        return f"{SYSTEM_STORE}/{stored}"
    user = os.geteuid()
    if user == 0:
        return None
    store = user_store()
    return f"{store}/{stored}" if _is_owned(store, stored, owner=user) else None


def _is_owned(store: str, stored: str, *, owner: int) -> bool:
    path = f"{store}/{stored}"
    places = ((store, stat.S_IFDIR), (path.rpartition("/")[0], stat.S_IFDIR), (path, stat.S_IFREG))
    try:
        for place, kind in places:
            status = os.lstat(place)
            if stat.S_IFMT(status.st_mode) != kind or status.st_uid != owner or status.st_mode & 0o022:
                return False
    except OSError:
        return False
    return True
