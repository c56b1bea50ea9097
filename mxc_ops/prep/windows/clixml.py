"""CLIXML, which PowerShell writes to standard error when its script came with ``-EncodedCommand``.

``-OutputFormat Text`` does not help (PowerShell issues 5912, 16678). What matters are the pieces of errors
and warnings; progress and the like are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape

__all__ = ["decoded"]

_HEADER = "#< CLIXML"
_DOCUMENT = re.compile(r"<Objs\b.*?(?:</Objs>|\Z)", re.DOTALL)
_MESSAGE = re.compile(r'<S S="(?:Error|Warning)">(.*?)(?:</S>|\Z)', re.DOTALL)
_ESCAPES = re.compile(r"(?:_x[0-9A-Fa-f]{4}_)+")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def decoded(lines: Sequence[str]) -> list[str]:
    """Standard error as a person wants to read it: messages for CLIXML, other lines as they are.

    A document that was cut off gives what is there of it.
    """
    if not any(_HEADER in line for line in lines):
        return list(lines)
    text = _DOCUMENT.sub(_messages, "\n".join(lines).replace(_HEADER, ""))
    return [line for line in (_COLOURS.sub("", line).rstrip() for line in text.splitlines()) if line]


def _messages(document: re.Match[str]) -> str:
    pieces = _MESSAGE.findall(document.group())
    return "".join(_ESCAPES.sub(_characters, unescape(piece)) for piece in pieces) + "\n"


def _characters(escapes: re.Match[str]) -> str:
    """UTF-16 units, as ``_x000D_``; several in a row may be one character."""
    units = bytes.fromhex("".join(re.findall(r"_x(.{4})_", escapes.group())))
    return units.decode("utf-16-be", errors="replace")
