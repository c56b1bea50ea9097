"""The packages that compile our programs statically against musl, by distribution family."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["PACKAGES"]

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "debian": ("gcc", "libc6-dev", "musl-tools"),
    "fedora": ("gcc", "glibc-headers", "kernel-headers", "musl-gcc", "musl-libc-static"),
    "alpine": ("gcc", "musl-dev", "linux-headers"),
    "arch": ("gcc", "linux-api-headers", "musl"),
    "suse": ("gcc", "glibc-devel", "glibc-devel-static", "linux-glibc-devel"),
}
