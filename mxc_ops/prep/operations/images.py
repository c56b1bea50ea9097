"""Images that sandboxes start from."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def stored(
    image: str, path: str, source: str = "", sha256: str = "", key: str = "", item: str = ""
) -> Commands:
    """Have an image under its name in a store.

    Parameters
    ----------
    image: its name, one of `vm_images.sources.IMAGES`.
    path: the store.
    source, sha256, key: an archive on the controller that ``mxc-ops image export`` wrote, its checksum, and
        the key of the image in it; without them the host builds it.
    """
    pushed = {"source": source, "sha256": sha256, "key": key} if source else {}
    yield from follow("images.stored", item, image=image, path=path, **pushed)
