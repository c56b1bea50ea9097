"""The image that a container is made from, as a backend is given it: it never looks one up."""

from __future__ import annotations

from backends.frozen import frozen

__all__ = ["ContainerImage", "ImageUser"]


@frozen
class ImageUser:
    """Who runs in the container unless told otherwise, by the image's own ``/etc/passwd`` and ``/etc/group``.

    `groups` are the supplementary ones; `home` is "" where nobody of this uid has one.
    """

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = ""

    @property
    def ids(self) -> tuple[int, int]:
        return (self.uid, self.gid)


@frozen
class ContainerImage:
    """An image of the store, unpacked and checked.

    Parameters
    ----------
    reference: what it was asked for by, completed: ``docker.io/library/alpine:latest``.
    key: of the store: what it was made of.
    content: SHA-256, in hex, that tells what it is now.
    digest, config_digest: of its manifest and config, as ``sha256:…``; "" for a root file system's archive.
    rootfs: host path of its root, an erofs. Whoever uses it locks the folder that it is in, as is done for
        images of machines (`backends.qemu.parts`).
    rootfs_bytes: the size of that file, one of those that disks of containers have.
    env: what its config sets, in order; nothing is added.
    user: see `ImageUser`.
    working_dir: an absolute path without ``..``; `missing_dirs` are what of it is not in the image, from the
        top on: whoever runs something makes them.
    has_shell: whether ``/bin/sh`` leads to a file of the image that may be executed.
    has_set_id: whether set-uid and set-gid bits were kept on import; file capabilities never are.
    """

    reference: str
    key: str
    content: str
    digest: str
    config_digest: str
    rootfs: str
    rootfs_bytes: int
    env: tuple[tuple[str, str], ...] = ()
    user: ImageUser = ImageUser()
    working_dir: str = "/"
    missing_dirs: tuple[str, ...] = ()
    os: str = "linux"
    architecture: str = "amd64"
    has_shell: bool = True
    has_set_id: bool = False
