"""A kernel that QEMU starts at its PVH entry, out of Debian's package; the modules, in loading order.

A bzImage would decompress itself in the guest, which costs 0.2 s under TCG (lab §1).
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.errors import PrepFailed, Problem
from backends.frozen import frozen
from vm_images.tools import find_tool, run_tool

__all__ = ["Kernel", "has_pvh_entry", "load_order", "payload", "unpack_kernel"]

_UNPACK_S = 300
_LZ4, _ZSTD, _XZ, _GZIP = b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"\xfd7zX", b"\x1f\x8b"
_NOTE_SEGMENT, _PVH_ENTRY = 4, 18  # PT_NOTE; XEN_ELFNOTE_PHYS32_ENTRY


@frozen
class Kernel:
    """`vmlinux`: an ELF file with a PVH entry. `modules`: (name of the file, content), in loading order."""

    release: str
    vmlinux: bytes
    modules: tuple[tuple[str, bytes], ...]


def unpack_kernel(package: Path, scratch: Path, modules: Sequence[str]) -> Kernel:
    """Take a kernel package apart.

    Parameters
    ----------
    package: the .deb file.
    scratch: an empty directory to unpack it in.
    modules: those that are wanted, without what they depend on.

    Raises `PrepFailed` for a package without a kernel that QEMU can start, or without such a module.
    """
    run_tool([find_tool("dpkg-deb"), "-x", package, scratch], deadline_s=_UNPACK_S)
    images = sorted((scratch / "boot").glob("vmlinuz-*")) if (scratch / "boot").is_dir() else []
    if len(images) != 1:
        raise _broken(f"{package.name} has {len(images)} kernels, not one")
    release = images[0].name.removeprefix("vmlinuz-")
    vmlinux = _decompressed(payload(images[0].read_bytes()))
    if not has_pvh_entry(vmlinux):
        raise _broken(f"the kernel {release} is no 64-bit ELF file with a PVH entry")
    run_tool([find_tool("depmod"), "-b", scratch, release], deadline_s=_UNPACK_S)
    folder = scratch / "lib/modules" / release
    paths = load_order(
        modules, (folder / "modules.dep").read_text(), (folder / "modules.builtin").read_text(), release
    )
    loaded = tuple((f"{_module(path)}.ko", _plain((folder / path).read_bytes())) for path in paths)
    return Kernel(release, vmlinux, loaded)


def payload(image: bytes) -> bytes:
    """The compressed kernel in a bzImage (Linux: Documentation/arch/x86/boot.rst). Pure."""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise _broken("the kernel is no bzImage")
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<2I", image, 0x248)
    start = (sectors + 1) * 512 + offset
    if not length or start + length > len(image):
        raise _broken("the kernel's file is cut off")
    return image[start : start + length]


def has_pvh_entry(kernel: bytes) -> bool:
    """Whether it is a 64-bit ELF file with the note that tells QEMU the entry (Xen: pvh.pandoc). Pure."""
    try:
        if kernel[:6] != b"\x7fELF\x02\x01":
            return False
        (table,) = struct.unpack_from("<Q", kernel, 32)
        size, count = struct.unpack_from("<2H", kernel, 54)
        for index in range(count):
            kind, _, offset, _, _, length = struct.unpack_from("<2I4Q", kernel, table + index * size)
            if kind == _NOTE_SEGMENT and _has_note(kernel[offset : offset + length]):
                return True
    except struct.error:
        return False
    return False


def _has_note(notes: bytes) -> bool:
    place = 0
    while place + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<3I", notes, place)
        name = notes[place + 12 : place + 12 + name_size]
        if name == b"Xen\0" and kind == _PVH_ENTRY:
            return True
        place += 12 + -(-name_size // 4) * 4 + -(-size // 4) * 4
    return False


def load_order(wanted: Sequence[str], dependencies: str, builtin: str, release: str) -> tuple[str, ...]:
    """The files of the modules and of what they depend on, each after what it needs. Pure.

    Parameters
    ----------
    dependencies, builtin: the texts of modules.dep and modules.builtin (modules.dep(5)).
    release: for the message of the `PrepFailed` that a missing module raises.
    """
    known: dict[str, tuple[str, list[str]]] = {}
    for line in dependencies.splitlines():
        path, _, needed = line.partition(":")
        known[_module(path)] = (path, needed.split())
    inside = {_module(path) for path in builtin.split()}
    order: dict[str, None] = {}
    for name in (module.replace("-", "_") for module in wanted):
        if name in inside:
            continue
        if name not in known:
            message = f"the kernel {release} has no module {name}"
            raise PrepFailed(Problem("no_module", "modules", message, expected="a module of this kernel"))
        path, needed = known[name]
        order.update(dict.fromkeys((*_deepest_first(needed, known), path)))
    return tuple(order)


def _deepest_first(paths: Sequence[str], known: Mapping[str, tuple[str, list[str]]]) -> list[str]:
    """modules.dep has all of a module's dependencies, but says of their order only what theirs say."""
    done: dict[str, None] = {}
    for path in paths:
        done.update(dict.fromkeys((*_deepest_first(known[_module(path)][1], known), path)))
    return list(done)


def _module(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _decompressed(packed: bytes) -> bytes:
    if packed.startswith(_LZ4):
        # The size of the kernel stands behind the stream, and is no part of it.
        return run_tool([find_tool("lz4"), "-dc"], deadline_s=_UNPACK_S, stdin=packed[:-4])
    if packed.startswith(_ZSTD):
        return run_tool([find_tool("zstd"), "-dcq"], deadline_s=_UNPACK_S, stdin=packed[:-4])
    return _plain(packed)


def _plain(packed: bytes) -> bytes:
    try:
        if packed.startswith(_XZ):
            return lzma.LZMADecompressor().decompress(packed)
        if packed.startswith(_GZIP):
            return zlib.decompressobj(wbits=31).decompress(packed)
    except (lzma.LZMAError, zlib.error) as error:
        raise _broken(f"what is compressed in the kernel's package is broken: {error}") from error
    if packed.startswith(_ZSTD):
        return run_tool([find_tool("zstd"), "-dcq"], deadline_s=_UNPACK_S, stdin=packed)
    if packed.startswith(b"\x7fELF"):
        return packed
    raise _broken(f"the kernel's package is compressed in an unknown way: {packed[:4].hex()}")


def _broken(message: str) -> PrepFailed:
    return PrepFailed(Problem("kernel_package", "kernel", message, expected="a kernel package of Debian"))
