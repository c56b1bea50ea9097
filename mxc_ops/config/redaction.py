"""What may be printed of a document: secrets never (rule: config-schema.md §5). Imports nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

__all__ = ["HIDDEN", "holds_secret", "holds_secret_name", "redacted"]

HIDDEN = "***"

_SECRET_WORDS = (
    "token",
    "password",
    "secret",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
    "passphrase",
    "pwd",
    "bearer",
    "saskey",
    "connectionstring",
)


def holds_secret_name(name: str) -> bool:
    """Whether a thing of this name is a secret by upstream's word list; ``API_KEY`` counts as ``apikey``."""
    plain = name.lower().replace("_", "").replace("-", "")
    return any(word in plain for word in _SECRET_WORDS)


def redacted(pointer: str, value: Any) -> Any:
    """`value` as it may be shown for the field at `pointer`, at every depth.

    Hidden: whatever stands under a secret's name or under a segment ``user``, the values of environment
    entries, and user names and passwords in URLs.
    """
    if _is_secret_place(pointer):
        return HIDDEN
    if isinstance(value, str):
        if pointer.startswith("/process/env/"):
            return f"{value.partition('=')[0]}={HIDDEN}"
        return _mask_credentials(value)
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {name: redacted(f"{pointer}/{name}", member) for name, member in members.items()}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [redacted(f"{pointer}/{index}", item) for index, item in enumerate(items)]
    return value


def holds_secret(pointer: str, value: Any) -> bool:
    """Whether `value`, at any depth, is text that stands under a secret's name or holds credentials in a URL;
    an environment entry goes by its own name."""
    if isinstance(value, str):
        if pointer.startswith("/process/env/") and holds_secret_name(value.partition("=")[0]):
            return True
        return _is_secret_place(pointer) or _mask_credentials(value) != value
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return any(holds_secret(f"{pointer}/{name}", member) for name, member in members.items())
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return any(holds_secret(f"{pointer}/{index}", item) for index, item in enumerate(items))
    return False


def _is_secret_place(pointer: str) -> bool:
    segments = pointer.split("/")
    # A list may have ten thousand entries, and all of them the same names above them.
    return "user" in segments or any(not each.isdigit() and _names_secret(each) for each in segments)


@lru_cache(maxsize=1024)
def _names_secret(segment: str) -> bool:
    return holds_secret_name(segment)


def _mask_credentials(text: str) -> str:
    """`text` with whatever stands before the ``@`` of a URL's authority replaced."""
    head, colon, rest = text.partition("://")
    if not colon or "@" not in rest:
        return text
    return f"{head}://{HIDDEN}@{rest.rpartition('@')[2]}"
