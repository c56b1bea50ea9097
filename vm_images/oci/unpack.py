"""From checked layers to one file: umoci puts them together, mkfs.erofs packs what comes out.

Both are confined, and keep the owners that the layers tell, as ids of a user namespace. What they leave
belongs to such ids, so who is not root takes it away in such a namespace, too.
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
from vm_images.oci.refusals import BadEntry
from vm_images.oci.tree_model import Kind, Tree
from vm_images.oci.users_namespace import ImageUsers, image_users
from vm_images.plan import digest
from vm_images.rootfs import remove_tree

__all__ = ["LAYOUT", "clear", "pack", "put_together", "read_inside"]

LAYOUT = "layout"
_BLOBS = f"{LAYOUT}/blobs/sha256"
_WORK, _TREE, _PACKED = "work", "tree", "rootfs.erofs"
_NAME = "image"
_UNPACK_S, _PACK_S, _CLEAR_S = 1800, 1800, 900
_LATEST = "4102444800"
"""2100-01-01 in seconds: mkfs.erofs writes this as its own time of making, and no file's time is later."""
_HEADER_ROOM = 1 << 30
_MAX_TEXT = 1 << 20
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def put_together(place: Path, layers: Sequence[tuple[str, int]], users: ImageUsers, limits: Limits) -> Path:
    """Make a directory of layers that lie in `place`'s layout as blobs; returns the directory.

    Parameters
    ----------
    layers: their SHA-256 in hex, and their sizes in bytes, from the lowest on.

    Raises `PrepFailed` when it cannot be made.
    """
    layout, work = place / LAYOUT, place / _WORK
    _write_layout(layout, layers)
    work.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(work, *users.root)
    run_confined(
        ["umoci", "--log", "error", "raw", "unpack", "--image", f"/layout:{_NAME}", f"/work/{_TREE}"],
        users,
        View(
            shown={"/layout": layout},
            writable={"/work": work},
            owners=True,
            file_bytes=limits.unpacked_bytes,
        ),
        deadline_s=_UNPACK_S,
    )
    remove_tree(layout)
    return work / _TREE


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
    (layout / "blobs/sha256" / name).write_bytes(text)
    return {"digest": f"sha256:{name}", "size": len(text)}


def pack(tree: Path, target: Path, key: str, users: ImageUsers, limits: Limits) -> None:
    """Make one file of a directory that `put_together` made; the file system's identity comes from the key.

    Raises `PrepFailed` when it cannot be made.
    """
    work = tree.parent
    identity = f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:32]}"
    options = ["--quiet", f"-U{identity}", "-x-1"]
    run_confined(
        ["mkfs.erofs", *options, f"/work/{_PACKED}", f"/work/{_TREE}"],
        users,
        View(
            writable={"/work": work},
            owners=True,
            file_bytes=limits.unpacked_bytes + _HEADER_ROOM,
        ),
        deadline_s=_PACK_S,
        environment={"SOURCE_DATE_EPOCH": _LATEST},
        quiet=True,  # it tells each file, whatever it is told
    )
    made = work / _PACKED
    status = made.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise PrepFailed(Problem("image_tool_failed", "", "mkfs.erofs made no file of its own"))
    made.rename(target)
    if os.geteuid() == 0:
        os.chown(target, 0, 0, follow_symlinks=False)
    target.chmod(0o644)


def read_inside(tree: Path, model: Tree, path: str) -> str:
    """The text of a file of the tree, "" where there is none that anybody may read.

    Its place comes from the model, which has no links left, and is read without following one.
    """
    found = model.find(path)
    if found is None or found[1].kind is not Kind.FILE:
        return ""
    folder = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        *above, name = found[0].split("/")
        for part in above:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return ""
    finally:
        os.close(folder)
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
        content = file.read(_MAX_TEXT + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    if len(content) > _MAX_TEXT:
        raise BadEntry("image_too_large", f"its {path} has more than {_MAX_TEXT} bytes")
    return content.decode("utf-8", "replace")


def clear(folder: Path) -> None:
    """Remove a directory of the store with all that was unpacked in it, whomever that belongs to."""
    remove_tree(folder)
    if not folder.exists() or os.geteuid() == 0:
        return
    try:
        with image_users() as users:
            for work in (folder / _WORK, *folder.glob(f"*/{_WORK}")):
                if work.is_dir() and not work.is_symlink():
                    words = ["find", "/work", "-mindepth", "1", "-delete"]
                    run_confined(
                        words, users, View(writable={"/work": work}, owners=True), deadline_s=_CLEAR_S
                    )
    except MxcError:
        return  # it stays what it is, remains that `gc` finds, until the caller has the ids again
    remove_tree(folder)
