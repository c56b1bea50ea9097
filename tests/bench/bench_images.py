"""Taking in an image of 50 MB, against unpacking and packing it bare: ``python -m tests.bench.bench_images``.

Each import is the first one, into a store of its own: the archive is checked, unpacked confined,
packed, and published for good. The bar is 4 s on a quiet machine. Needs root.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.bench.measure import in_turns, table
from tests.container_archives import config as config_of
from tests.container_archives import docker_archive, oci_archive
from tests.container_store import own_store
from vm_images.oci.importing import import_archive
from vm_images.oci.store import StoredContainer

ROUNDS = int(os.environ.get("MXC_BENCH_IMAGE_ROUNDS", "5"))
SIZE = 50 << 20
SOURCES = ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/bin", "/usr/lib/x86_64-linux-gnu")
"""What images for Python consist of: many small files, and some large ones."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mxc-ops-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        layer = _layer()
        archives = {
            "a root file system": layer,
            "the same by gzip": gzip.compress(layer, 6),
            "an OCI archive": oci_archive(gzip.compress(layer, 6), settings=config_of([layer])),
            "as docker save writes it": docker_archive(layer),
        }
        paths = {title: folder / str(number) for number, title in enumerate(archives)}
        for title, content in archives.items():
            paths[title].write_bytes(content)
        bare = "bare tar and mkfs.erofs"
        plain = paths["a root file system"]
        candidates: dict[str, Callable[[], object]] = {bare: lambda: _bare(plain, folder)}
        candidates |= {title: _importing(path) for title, path in paths.items()}
        with tarfile.open(plain) as archive:
            entries = len(archive.getmembers())
        title = f"an image of {len(layer) / 1e6:.0f} MB in {entries} entries, into an empty store"
        table(title, in_turns(candidates, ROUNDS), against=bare)
        again = _known(plain)
        next(again)
        table("the same archive once more", in_turns({"known": lambda: next(again)}, ROUNDS))


def _layer() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in (path for source in SOURCES for path in sorted(Path(source).rglob("*"))):
            if packed.tell() >= SIZE:
                break
            if (
                path.is_file()
                and not path.is_symlink()
                and packed.tell() + path.stat().st_size <= SIZE + (1 << 20)
            ):
                archive.add(path, str(path).lstrip("/"), recursive=False)
    return packed.getvalue()


def _bare(archive: Path, folder: Path) -> None:
    root, packed = folder / "root", folder / "packed"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xf", archive], check=True)
    subprocess.run(["mkfs.erofs", "--quiet", "-x-1", packed, root], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    packed.unlink()


def _importing(path: Path) -> Callable[[], object]:
    def bring() -> None:
        with pytest.MonkeyPatch.context() as patch, own_store(patch):
            assert import_archive(path, "bench").fresh

    return bring


def _known(path: Path) -> Generator[StoredContainer]:
    with pytest.MonkeyPatch.context() as patch, own_store(patch):
        yield import_archive(path, "bench")
        while True:
            found = import_archive(path, "bench")
            assert not found.fresh
            yield found


if __name__ == "__main__":
    main()
