"""The images that backends need, by name: each is built on a host by our recipe, or brought there.

This is the one place that host preparation asks about images.
"""

from __future__ import annotations

__all__ = ["IMAGES"]

IMAGES = ("base", "python", "utility")
"""Images of the store (see `vm_images.store`)."""
