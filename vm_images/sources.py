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
    folder: where below the image's directory the content of an archive belongs; "" for the directory itself.
    recipe: what a host builds it by; "" when it can only be brought.
    builder: what builds it, for people.
    proof: a path below `folder` without which an archive is not such an image; "" where none is known.
    """

    folder: str
    recipe: str
    builder: str
    proof: str = ""


IMAGES: Mapping[str, ImageSource] = {
    "lxc-debian": ImageSource("rootfs", "debootstrap minbase", "the host, by debootstrap", "usr/bin"),
    "microvm-debian": ImageSource("", "", "vm_images (not yet)"),
}
