"""Absolute path names as text: folding, containment, moving a name from one tree to another. Pure."""

from __future__ import annotations

__all__ = ["fold", "relocate", "within"]


def fold(path: str) -> str:
    """Drop empty and ``.`` components and fold ``..``, by the text alone."""
    kept: list[str] = []
    for name in path.split("/"):
        if name == "..":
            del kept[-1:]
        elif name not in ("", "."):
            kept.append(name)
    return "/" + "/".join(kept)


def within(path: str, tree: str) -> bool:
    """Whether folded `path` is `tree` or lies in it, component by component."""
    return path == tree or path.startswith(tree if tree == "/" else tree + "/")


def relocate(path: str, tree: str, other_tree: str) -> str:
    """The name that `path`, which lies in `tree`, has when `tree` is seen as `other_tree`."""
    rest = path[len(tree) :].strip("/")
    return f"{other_tree.rstrip('/')}/{rest}" if rest else other_tree
