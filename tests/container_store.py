"""A store of the tests' own for images of containers, and a look into what is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.container_image import ContainerImage
from vm_images import store as family
from vm_images.oci.importing import Terms, import_archive
from vm_images.oci.store import StoredContainer, container_image

__all__ = ["Store", "own_store", "unpacked"]


class Store:
    """An empty store. `remains` are names in it that are no image's, and should not be there afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.containers = folder / "containers"

    def archive(self, content: bytes, name: str = "archive") -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def bring(self, content: bytes, reference: str = "mine", terms: Terms | None = None) -> StoredContainer:
        return import_archive(self.archive(content), reference, terms=terms or Terms())

    def image(self, content: bytes, reference: str = "mine", terms: Terms | None = None) -> ContainerImage:
        return container_image(self.bring(content, reference, terms))

    def keys(self) -> list[str]:
        return sorted(entry.name for entry in self._entries() if len(entry.name) == 64)

    def remains(self) -> list[str]:
        return sorted(entry.name for entry in self._entries() if entry.name.startswith("."))

    def _entries(self) -> list[Path]:
        return list(self.containers.iterdir()) if self.containers.exists() else []


@contextmanager
def own_store(monkeypatch: pytest.MonkeyPatch) -> Generator[Store]:
    """A store where what unpacks, which is somebody else, gets to, as it gets to the system's."""
    folder = Path(tempfile.mkdtemp(prefix="mxc-ops-images-", dir="/var/tmp"))
    folder.chmod(0o755)
    monkeypatch.setattr(family, "stores", lambda: ((f"{folder}/images", os.geteuid()),))
    monkeypatch.setattr(family, "own_store", lambda: f"{folder}/images")
    try:
        yield Store(folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def unpacked(image: ContainerImage, *, owners: bool = True) -> Generator[Path]:
    """What is in an image, with its permissions.

    Parameters
    ----------
    owners: with its owners, too, which takes root, and costs files their set-id bits.
    """
    kept = "--preserve" if owners else "--preserve-perms"
    with tempfile.TemporaryDirectory(prefix="mxc-ops-unpacked-") as folder:
        root = Path(folder, "root")
        subprocess.run(
            ["fsck.erofs", f"--extract={root}", "--no-preserve-owner", kept, image.rootfs],
            capture_output=True,
            check=True,
        )
        yield root
