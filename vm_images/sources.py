"""How the images that backends need can be had, by name: built on the host itself, or only brought there.

This is the one place that host preparation asks about images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["IMAGES", "ImageSource"]


@dataclass(frozen=True)
class ImageSource:
    """One image.

    Parameters
    ----------
    folder: where below the image's directory the content of an archive belongs; "" for an image that is kept
        in the store (see `vm_images.store`), where archives have a form of their own.
    recipe: what a host builds it by.
    builder: what builds it, for people.
    proof: a path below `folder` without which an archive is not such an image.
    """

    folder: str
    recipe: str
    builder: str
    proof: str = ""

    @property
    def in_store(self) -> bool:
        """Whether it is an image of virtual machines."""
        return not self.folder


IMAGES: Mapping[str, ImageSource] = {
    "lxc-debian": ImageSource("rootfs", "debootstrap minbase", "the host, by debootstrap", "usr/bin"),
    "base": ImageSource("", "base", "the host, by mxc-ops image build"),
    "python": ImageSource("", "python", "the host, by mxc-ops image build"),
}
