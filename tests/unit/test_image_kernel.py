"""Kernels: unpacked, recognised by their PVH note; modules in an order in which they can be loaded."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import PrepFailed
from backends.qemu import tiny_guest
from vm_images import kernel
from vm_images.kernel import has_pvh_entry, load_order, payload, unpack_kernel
from vm_images.tools import find_tool


def bz_image(packed: bytes, sectors: int = 3) -> bytes:
    """What surrounds a compressed kernel (Linux: Documentation/arch/x86/boot.rst)."""
    image = bytearray((sectors + 1) * 512 + 64)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<2I", image, 0x248, 64, len(packed))
    return bytes(image) + packed + b"trailing"


def compressed(program: str, *options: str) -> bytes:
    argv = [find_tool(program), *options]
    return subprocess.run(argv, input=tiny_guest.kernel(), capture_output=True, check=True).stdout


def package(folder: Path, image: bytes, modules: dict[str, bytes] | None = None) -> Path:
    """A Debian package with a kernel called 1.0 in it."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: linux-image-1.0\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@example.org>\n"
    (tree / "DEBIAN/control").write_text(f"{control}Description: x\n")
    (tree / "boot").mkdir()
    (tree / "boot/vmlinuz-1.0").write_bytes(image)
    place = tree / "lib/modules/1.0"
    place.mkdir(parents=True)
    (place / "modules.builtin").write_text("kernel/fs/ext4.ko\n")
    (place / "modules.order").touch()
    for name, content in (modules or {}).items():
        (place / name).write_bytes(content)
    subprocess.run(["dpkg-deb", "--build", "-Znone", tree, folder / "k.deb"], check=True, capture_output=True)
    return folder / "k.deb"


@pytest.mark.parametrize("way", ["lz4", "zstd", "xz", "gzip", "none"])
def test_a_kernel_is_unpacked_however_it_is_compressed(way: str, tmp_path: Path) -> None:
    plain = tiny_guest.kernel()
    packed = {
        "lz4": lambda: compressed("lz4", "-lc") + struct.pack("<I", len(plain)),
        "zstd": lambda: compressed("zstd", "-qc") + struct.pack("<I", len(plain)),
        "xz": lambda: lzma.compress(plain, check=lzma.CHECK_CRC32) + struct.pack("<I", len(plain)),
        "gzip": lambda: gzip.compress(plain) + struct.pack("<I", len(plain)),
        "none": lambda: plain,
    }[way]()
    (tmp_path / "scratch").mkdir()
    found = unpack_kernel(package(tmp_path, bz_image(packed)), tmp_path / "scratch", ["ext4"])
    assert found == kernel.Kernel("1.0", plain, ())


def test_what_is_no_kernel_that_qemu_starts_is_refused(tmp_path: Path) -> None:
    headless = tiny_guest.kernel().replace(b"Xen\0", b"Xon\0")
    assert has_pvh_entry(tiny_guest.kernel()) and not has_pvh_entry(headless)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(PrepFailed, match="no 64-bit ELF file with a PVH entry"):
        unpack_kernel(package(tmp_path, bz_image(headless)), tmp_path / "scratch", [])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (b"MZ" * 100, "no bzImage"),
        (bz_image(b"x" * 100)[:-60], "cut off"),
        (b"\0" * 4096, "no bzImage"),
    ],
)
def test_a_file_that_is_no_whole_kernel_is_refused(image: bytes, said: str) -> None:
    with pytest.raises(PrepFailed, match=said):
        payload(image)


def test_a_broken_stream_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    broken = package(tmp_path, bz_image(b"\x1f\x8b" + b"junk" * 9))
    with pytest.raises(PrepFailed, match="is broken"):
        unpack_kernel(broken, tmp_path / "scratch", [])


def test_a_module_that_the_kernel_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    whole = package(tmp_path, bz_image(tiny_guest.kernel()))
    with pytest.raises(PrepFailed, match=r"the kernel 1\.0 has no module virtio_blk"):
        unpack_kernel(whole, tmp_path / "scratch", ["virtio-blk"])


@given(st.binary(max_size=300))
def test_no_bytes_are_taken_for_a_kernel_or_break_the_look_at_them(content: bytes) -> None:
    assert not has_pvh_entry(content)
    assert not has_pvh_entry(b"\x7fELF\x02\x01" + content)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, set[str]]:
    """Modules, each of which needs some of those before it."""
    count = draw(st.integers(1, 8))
    return {
        f"m-{number}": {f"m-{other}" for other in range(number) if draw(st.booleans())}
        for number in range(count)
    }


def closure(graph: dict[str, set[str]], name: str) -> set[str]:
    return graph[name].union(*(closure(graph, other) for other in graph[name]))


@given(graphs(), st.data())
def test_every_module_comes_after_what_it_needs_and_once(
    graph: dict[str, set[str]], data: st.DataObject
) -> None:
    listed = data.draw(st.permutations(sorted(graph)))
    needed = {name: [f"kernel/{other}.ko.xz" for other in sorted(closure(graph, name))] for name in listed}
    text = "".join(f"kernel/{name}.ko.xz: {' '.join(paths)}\n" for name, paths in needed.items())
    wanted = data.draw(st.lists(st.sampled_from(listed), unique=True))
    order = [
        path.removeprefix("kernel/").removesuffix(".ko.xz") for path in load_order(wanted, text, "", "1.0")
    ]
    assert len(order) == len(set(order))
    assert set(order) == set(wanted).union(*(closure(graph, name) for name in wanted))
    for name in order:
        assert all(order.index(other) < order.index(name) for other in graph[name])
