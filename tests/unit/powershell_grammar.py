"""PowerShell's grammar. It checks syntax, not what a script means."""

from __future__ import annotations

from collections.abc import Iterator

import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

__all__ = ["errors"]

_PARSER = Parser(Language(tree_sitter_powershell.language()))


def errors(script: str) -> list[str]:
    """Where a script is no PowerShell: line and text of each place."""
    source = script.encode()
    root = _PARSER.parse(source).root_node
    return [
        f"line {node.start_point.row + 1}: {source[node.start_byte : node.end_byte][:100]!r}"
        for node in _broken(root)
    ]


def _broken(node: Node) -> Iterator[Node]:
    if node.is_error or node.is_missing:
        yield node
    elif node.has_error:
        for child in node.children:
            yield from _broken(child)
