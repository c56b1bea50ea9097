"""Descriptors that are opened for a child alone."""

from __future__ import annotations

import os


class ChildDescriptors:
    """Descriptors that only the child needs: closed here once it has them."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def add(self, fd: int) -> int:
        self.fds.append(fd)
        return fd

    def memfd(self, content: bytes) -> int:
        fd = self.add(os.memfd_create("mxc", os.MFD_CLOEXEC))
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())
