"""How values and names of a document appear in messages: escaped, cut, redacted (config-schema.md §5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mxc_ops.config.redaction import holds_secret_name

LONGEST_ECHO = 60
LONGEST_NAME = 80

# Names whose values carry secrets without saying so: environment values, proxy addresses with credentials,
# text for standard input, and the commands that are run.
_SECRET_NAMES = frozenset(
    {"user", "env", "proxy", "networkproxy", "url", "stdin", "text", "commandline", "args"}
)


def escaped(text: str) -> str:
    """`text` with everything that is not printable (control, format, separator characters …) as escapes."""
    if text.isprintable():
        return text
    return "".join(_escaped_character(character) for character in text)


def _escaped_character(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def name(text: str) -> str:
    """A field name for a message: escaped and cut."""
    return escaped(text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "…")


def shown(value: Any, path: Sequence[str | int] = ()) -> str:
    """A value of the document for a message: only its JSON kind when it is secret or structured."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if is_secret(path):
        return "a string" if isinstance(value, str) else "a number"
    if isinstance(value, str):
        cut = value if len(value) <= LONGEST_ECHO else value[:LONGEST_ECHO] + "…"
        return f"'{escaped(cut)}'"
    return str(value)[:LONGEST_ECHO]


def is_secret(path: Iterable[str | int]) -> bool:
    """Whether a value at `path` must not be echoed."""
    for step in path:
        if isinstance(step, str) and (step.lower() in _SECRET_NAMES or holds_secret_name(step)):
            return True
    return False


def pointer(path: Iterable[str | int]) -> str:
    """JSON pointer (RFC 6901) of a path; control characters escaped, overlong names cut."""
    return "".join(f"/{name(str(step).replace('~', '~0').replace('/', '~1'))}" for step in path)


def listed(choices: Iterable[object]) -> str:
    """``'a', 'b' or 'c'``"""
    words = [f"'{choice}'" if isinstance(choice, str) else str(choice).lower() for choice in choices]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
