"""How `mxc-exec` answers lifecycle requests: one JSON envelope on stdout, exit 1.

Spec: lifecycle.md §3 to §5. No containment that mxc-ops has offers a lifecycle, so every well-formed request
is answered by saying so.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mxc_ops.cli.source import as_object
from mxc_ops.cli.text import printable

if TYPE_CHECKING:
    from backends.errors import MxcError
    from mxc_ops.config.document import Document


def names_phase(source: bytes) -> bool:
    """Whether a document that may be invalid otherwise can be read far enough to be a lifecycle request."""
    import json

    try:
        body = as_object(json.loads(source))
    except (ValueError, RecursionError):
        return False
    return body is not None and body.get("phase") is not None


def refuse(error: MxcError) -> int:
    """Answer a request that cannot even be taken."""
    return _answer(error.code, "; ".join(map(str, error.problems)))


def answer(document: Document) -> int:
    """Answer a well-formed request."""
    phase = document.kind.value
    if phase == "provision":
        return _answer(*_provision(document.body))
    sandbox_id: str = document.body["sandboxId"]
    prefix, colon, _ = sandbox_id.partition(":")
    if not prefix or not colon:
        return _answer("malformed_id", f'sandbox_id "{sandbox_id}" is missing the `<prefix>:...` form')
    return _answer(
        "unsupported_containment", f'no state-aware backend registered for prefix "{prefix}"; phase: {phase}'
    )


def _provision(body: Any) -> tuple[str, str]:
    from backends.errors import UnsupportedContainment
    from backends.registry import get, resolve_intent

    try:
        containment = resolve_intent(body["containment"], sys.platform)
        get(containment)
    except UnsupportedContainment as error:
        return error.code, str(error)
    return (
        "unsupported_phase",
        f"{containment} runs one-shot requests only: phase 'provision' is not supported",
    )


def _answer(code: str, message: str) -> int:
    import json

    print(json.dumps({"error": {"code": code, "message": printable(message)}}, separators=(",", ":")))
    return 1
