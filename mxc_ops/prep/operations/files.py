"""Files and directories."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def root_directory(path: str, item: str = "") -> Commands:
    """Have a directory that only root may write to."""
    yield from follow("files.root_directory", item, path=path)


@operation
def text(path: str, content: str, item: str = "") -> Commands:
    """Have a text file of root's with exactly this content."""
    yield from follow("files.text", item, path=path, content=content)
