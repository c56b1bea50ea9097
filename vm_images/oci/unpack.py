"""From checked layers to one file: umoci puts them together, mkfs.erofs packs what comes out.

Both are confined, and keep the owners that the layers tell, as ids of a user namespace. What an ordinary
image is unpacked to lies in memory, and is gone with them. That of a large one is on the disk, and belongs to
such ids, so who is not root takes it away in such a namespace, too.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from backends.errors import MxcError, PrepFailed, Problem
from vm_images.oci.config import ARCHITECTURE, SYSTEM
from vm_images.oci.confined import View, run_confined
from vm_images.oci.limits import Limits
from vm_images.oci.users_namespace import ImageUsers, image_users
from vm_images.plan import digest
from vm_images.rootfs import remove_tree

__all__ = ["BLOBS", "MOST_IN_MEMORY", "LayerBlob", "clear", "make_root"]

MOST_IN_MEMORY = 512 << 20
"""Bytes of an image that is unpacked in memory, where the host has four times as much to spare."""
_SPARE = 4
_LAYOUT = "layout"
BLOBS = f"{_LAYOUT}/blobs/sha256"
"""Where the layers are put, below the place that an image is made in, each under its SHA-256."""
_SCRATCH, _OUT, _PACKED = "scratch", "out", "rootfs.erofs"
_NAME = "image"
_MAKE_S, _CLEAR_S = 3600, 900
_LATEST = "4102444800"
"""2100-01-01 in seconds: mkfs.erofs writes this as its own time of making, and no file's time is later."""
_HEADER_ROOM = 1 << 30
_MEMORY_PAGE, _MEMORY_ROOM = 4096, 16 << 20
_LAYER = "application/vnd.oci.image.layer.v1.tar"
# mkfs.erofs tells each file, quiet or not.
_SCRIPT = (
    f"umoci --log error raw unpack --image /layout:{_NAME} /scratch/tree"
    f' && exec mkfs.erofs "$@" /out/{_PACKED} /scratch/tree > /dev/null'
)

LayerBlob = tuple[str, int]
"""The SHA-256 in hex of a layer, and its size in bytes."""


def make_root(
    place: Path,
    layers: Sequence[LayerBlob],
    entries: int,
    target: Path,
    key: str,
    users: ImageUsers,
    limits: Limits,
) -> None:
    """Make one file of the layers that lie in `BLOBS` of `place`, from the lowest on.

    Parameters
    ----------
    entries: how many the layers have.
    target: the file to make.
    key: the file system's identity comes from it.

    Raises `PrepFailed` when it cannot be made.
    """
    _write_layout(place / _LAYOUT, layers)
    memory = sum(size for _, size in layers) + entries * _MEMORY_PAGE + _MEMORY_ROOM
    in_memory = memory <= MOST_IN_MEMORY and memory * _SPARE <= _spare_memory()
    out = _folder_for(users, place / _OUT)
    scratch = {} if in_memory else {"/scratch": _folder_for(users, place / _SCRATCH)}
    view = View(
        shown={"/layout": place / _LAYOUT},
        writable={"/out": out, **scratch},
        memory={"/scratch": memory} if in_memory else {},
        owners=True,
        file_bytes=limits.unpacked_bytes + _HEADER_ROOM,
    )
    identity = f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:32]}"
    run_confined(
        ["sh", "-c", _SCRIPT, "sh", "--quiet", f"-U{identity}", "-x-1"],
        users,
        view,
        deadline_s=_MAKE_S,
        environment={"SOURCE_DATE_EPOCH": _LATEST},
        name="umoci or mkfs.erofs",
    )
    _take_out(out / _PACKED, target)


def _spare_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _folder_for(users: ImageUsers, folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, *users.root)
    return folder


def _take_out(made: Path, target: Path) -> None:
    """What was confined is over, and what it left is not believed to be a file of its own."""
    status = made.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise PrepFailed(Problem("image_tool_failed", "", "mkfs.erofs made no file of its own"))
    made.rename(target)
    if os.geteuid() == 0:
        os.chown(target, 0, 0, follow_symlinks=False)
    target.chmod(0o644)


def _write_layout(layout: Path, layers: Sequence[tuple[str, int]]) -> None:
    """An image of nothing but the layers: what it runs is none of umoci's business."""
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{name}" for name, _ in layers]}
    config = _blob(layout, {"os": SYSTEM, "architecture": ARCHITECTURE, "rootfs": rootfs})
    blobs = [{"mediaType": _LAYER, "digest": f"sha256:{name}", "size": size} for name, size in layers]
    kind = "application/vnd.oci.image.{}.v1+json"
    manifest = _blob(
        layout,
        {"schemaVersion": 2, "config": {"mediaType": kind.format("config"), **config}, "layers": blobs},
    )
    named = {"org.opencontainers.image.ref.name": _NAME}
    entry = {"mediaType": kind.format("manifest"), **manifest, "annotations": named}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    for path in (layout, *layout.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _blob(layout: Path, document: object) -> dict[str, object]:
    text = json.dumps(document).encode()
    name = digest(text)
    (layout.parent / BLOBS / name).write_bytes(text)
    return {"digest": f"sha256:{name}", "size": len(text)}


def clear(folder: Path) -> None:
    """Remove a directory of the store with all that was unpacked in it, whomever that belongs to."""
    remove_tree(folder)
    if not folder.exists() or os.geteuid() == 0:
        return
    try:
        with image_users() as users:
            for scratch in (folder / _SCRATCH, *folder.glob(f"*/{_SCRATCH}")):
                if scratch.is_dir() and not scratch.is_symlink():
                    words = ["find", "/scratch", "-mindepth", "1", "-delete"]
                    run_confined(
                        words, users, View(writable={"/scratch": scratch}, owners=True), deadline_s=_CLEAR_S
                    )
    except MxcError:
        return  # it stays what it is, remains that `gc` finds, until the caller has the ids again
    remove_tree(folder)
