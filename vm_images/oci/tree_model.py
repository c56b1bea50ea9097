"""The file system that layers make, as names alone: what an entry means is decided before it is written.

An entry comes out as a path without links in it, so that whoever writes it cannot be led astray. Pure.
"""

from __future__ import annotations

from enum import Enum

from backends.frozen import frozen
from vm_images.oci.limits import MAX_NAME, MAX_PATH, Limits
from vm_images.oci.refusals import BadEntry, shown

__all__ = ["HIDING", "Kind", "Node", "Placed", "Tree", "split"]

HIDING = ".wh."
"""How names begin that say what of the layers below is gone (OCI image specification, whiteouts)."""
_MAX_LINKS = 40  # as the kernel's (path_resolution(7))
_MAX_STEPS = 4096
"""Of one walk: a path has at most half as many names, and what a link leads to, too."""
_STEPS_OF_ENTRY = 32
"""On the average of a whole image: what is in use lies some ten directories deep."""


class Kind(Enum):
    DIRECTORY = "directory"
    FILE = "file"
    LINK = "symbolic link"


class Node:
    """One name. `layer` is the last one that told it, `target` what a link leads to, `mode` a file's.

    `content` is where that of a file lies: the number of a layer as it was written anew, offset, and size.
    """

    __slots__ = ("children", "content", "kind", "layer", "mode", "target")

    def __init__(self, kind: Kind, layer: int, *, target: str = "", mode: int = 0) -> None:
        self.kind = kind
        self.layer = layer
        self.target = target
        self.mode = mode
        self.content: tuple[int, int, int] = (0, 0, 0)
        self.children: dict[str, Node] = {}


@frozen
class Placed:
    """Where an entry goes: `path` has no link in it, and `made` are directories above that nobody told of.

    `repeated`: the same layer had something else there.
    """

    path: str
    made: tuple[str, ...] = ()
    repeated: bool = False


class Tree:
    """What is there after the entries so far."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._steps_left = limits.entries * _STEPS_OF_ENTRY + _MAX_STEPS
        self.root = Node(Kind.DIRECTORY, 0)

    def put(self, name: str, node: Node) -> Placed:
        """Place an entry; what it replaces is gone, but a directory stays what it is.

        Raises `BadEntry` for a name that is none, or leads out of the image.
        """
        parts = split(name, self._limits)
        if not parts:
            if node.kind is not Kind.DIRECTORY:
                raise BadEntry("image_entry", f"the root of the image cannot be a {node.kind.value}")
            return Placed(".")
        parent, names, made = self._enter(parts[:-1], node.layer)
        there = parent.children.get(parts[-1])
        path = "/".join((*names, parts[-1]))
        if there and there.kind is Kind.DIRECTORY and node.kind is Kind.DIRECTORY:
            there.layer = node.layer
            return Placed(path, made)
        parent.children[parts[-1]] = node
        return Placed(path, made, repeated=there is not None and there.layer == node.layer)

    def hard_link(self, name: str, target: str, layer: int) -> tuple[Placed, str, Node]:
        """Place another name of a file that is there; also returns that file's path, and what it is.

        Raises `BadEntry` where there is no such file inside the image.
        """
        wanted = split(target, self._limits)
        found = self._peek(wanted)
        if found is None:
            raise BadEntry("image_entry", f"it is a hard link to {shown(target)}, which is not in the image")
        path, node = found
        if node.kind is Kind.DIRECTORY:
            raise BadEntry("image_entry", f"it is a hard link to {shown(target)}, which is a directory")
        same = Node(node.kind, layer, target=node.target, mode=node.mode)
        same.content = node.content
        placed = self.put(name, same)
        if path == placed.path or path.startswith(f"{placed.path}/"):
            raise BadEntry("image_entry", "it is a hard link to what it replaces")
        return placed, path, node

    def hide(self, parent: str, name: str, layer: int) -> str:
        """Take away a name of lower layers; returns the directory's path, "" where nothing was."""
        found = self._peek(split(parent, self._limits), follow=True)
        if found is None or found[1].kind is not Kind.DIRECTORY or name not in found[1].children:
            return ""
        path, folder = found
        if not self._left_of(folder.children[name], layer):
            del folder.children[name]
        return path or "."

    def hide_all(self, parent: str, layer: int) -> str:
        """Take away all that lower layers have in a directory; returns its path, "" where it is none."""
        parts = split(parent, self._limits)
        found = self._peek(parts, follow=True)
        if found is None or found[1].kind is not Kind.DIRECTORY:
            return ""
        if found[1] is self.root:
            raise BadEntry("image_whiteout", "it hides the whole image below")
        self._left_of(found[1], layer)
        return found[0]

    def find(self, path: str) -> tuple[str, Node] | None:
        """What a path leads to for who has the tree as root, links followed; None when it is not there.

        Raises `BadEntry` where too much was asked of the image in all.
        """
        try:
            return self._walk(path.split("/"), follow=True, clamp=True)
        except BadEntry as error:
            if error.code == "image_too_large":
                raise
            return None

    def _peek(self, parts: list[str], *, follow: bool = False) -> tuple[str, Node] | None:
        return self._walk(parts, follow=follow, clamp=False)

    def _enter(self, parts: list[str], layer: int) -> tuple[Node, list[str], tuple[str, ...]]:
        """The directory of this name; what is missing of it is made, and told."""
        made: list[str] = []
        nodes, names = self._steps(parts, layer, made)
        return nodes[-1], names, tuple(made)

    def _walk(self, parts: list[str], *, follow: bool, clamp: bool) -> tuple[str, Node] | None:
        try:
            last = [] if follow else parts[-1:]
            nodes, names = self._steps(parts[: len(parts) - len(last)], None, [], clamp=clamp)
        except KeyError:
            return None
        if last:
            child = nodes[-1].children.get(last[0])
            return None if child is None else ("/".join((*names, last[0])), child)
        return "/".join(names), nodes[-1]

    def _steps(
        self, parts: list[str], layer: int | None, made: list[str], *, clamp: bool = False
    ) -> tuple[list[Node], list[str]]:
        """Walk; raises `KeyError` at what is missing where no `layer` makes it."""
        nodes, names, links = [self.root], list[str](), 0
        left = parts[::-1]
        steps = self._spend(len(left))
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if names:
                    names.pop()
                    nodes.pop()
                elif not clamp:
                    raise BadEntry("image_escape", "it goes through a link that leads out of the image")
                continue
            child = nodes[-1].children.get(part)
            if child is None:
                child = self._made(nodes[-1], part, layer)
                made.append("/".join((*names, part)))
            if child.kind is Kind.LINK:
                links += 1
                if links > _MAX_LINKS:
                    raise BadEntry("image_escape", "it goes through links that lead in a circle")
                if child.target.startswith("/"):
                    nodes, names = [self.root], []
                further = child.target.split("/")[::-1]
                steps += self._spend(len(further))
                if steps > _MAX_STEPS:
                    raise BadEntry("image_escape", f"it goes through links of more than {_MAX_STEPS} names")
                left += further
                continue
            if child.kind is Kind.FILE and layer is not None:
                raise BadEntry("image_entry", f"{shown('/'.join((*names, part)))} above it is a file")
            if child.kind is Kind.FILE and left:
                raise KeyError(part)
            nodes.append(child)
            names.append(part)
            if len(names) > self._limits.depth:
                raise BadEntry("image_depth", f"it is deeper than {self._limits.depth} directories")
        return nodes, names

    def _made(self, parent: Node, name: str, layer: int | None) -> Node:
        if layer is None:
            raise KeyError(name)
        _require_plain([name])
        parent.children[name] = Node(Kind.DIRECTORY, layer)
        return parent.children[name]

    def _left_of(self, node: Node, layer: int) -> bool:
        """Take out what lower layers have; whether it, or anything below it, is of this layer."""
        self._spend(1)
        for name, child in list(node.children.items()):
            if not self._left_of(child, layer):
                del node.children[name]
        return node.layer == layer or bool(node.children)

    def _spend(self, steps: int) -> int:
        """Returns them. Few entries can cost a day by what they lead through, however small they are."""
        self._steps_left -= steps
        if self._steps_left < 0:
            message = f"to find what its names mean takes more than {_STEPS_OF_ENTRY} steps for each entry"
            raise BadEntry("image_too_large", f"{message} of the {self._limits.entries} that it may have")
        return steps


def split(name: str, limits: Limits, *, hides: bool = False) -> list[str]:
    """The parts of an entry's name below the root.

    Parameters
    ----------
    hides: it is a whiteout, by its last part. No other part may look like one: whoever unpacks the layer
        tells whiteouts by their names alone, and of a directory's, too.

    Raises `BadEntry`.
    """
    if name.startswith("/"):
        raise BadEntry("image_escape", "its name is absolute")
    if "\0" in name:
        raise BadEntry("image_entry", "its name has a NUL in it")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadEntry("image_escape", "its name leads out of the image, by ..")
    _require_plain(parts[:-1] if hides else parts)
    if len(parts) > limits.depth:
        raise BadEntry("image_depth", f"it is deeper than {limits.depth} directories")
    longest = max((_bytes(part) for part in parts), default=0)
    if longest > MAX_NAME or sum(map(_bytes, parts)) + len(parts) - 1 > MAX_PATH:
        raise BadEntry("image_name", f"its name is longer than {MAX_NAME} bytes, or its path than {MAX_PATH}")
    return parts


def _require_plain(parts: list[str]) -> None:
    if any(part.startswith(HIDING) for part in parts):
        message = f"a name on its way begins with {HIDING}, as only that of a whiteout does, at its end"
        raise BadEntry("image_whiteout", message)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
