"""A document in the newest shape: one spelling for everything that reads meaning. No pydantic (hot path)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.digest import sha256
from mxc_ops.config.document import Document
from mxc_ops.config.upgrades import upgrade

__all__ = ["canonicalise", "policy_hash"]


def canonicalise(document: Document) -> dict[str, Any]:
    """Upgrade step by step to the shape of 1.1.0-alpha plus `mxcOps` (config-schema.md §7).

    Aliases are folded, the legacy network is directional, `experimental.*` stands at the root, nulls and
    annotations (`$schema`, `_comment`) are gone. Two keys are ours and absent when empty:

    ``legacy``: pointer into the user's document → ``{"value", "reason", "severity"}`` for what has no place
    in the newest shape (see `losses.Severity`); the rest of the form never permits more than the document.
    ``origins``: pointer into this form → pointer into the user's document, for what moved.
    """
    up = upgrade(document)
    body = up.body
    body.pop("$schema", None)
    body.pop("_comment", None)
    if up.losses:
        body["legacy"] = {
            pointer: {"value": loss.value, "reason": loss.reason, "severity": str(loss.severity)}
            for pointer, loss in up.losses.items()
        }
    if up.origins:
        body["origins"] = up.origins
    return body


def policy_hash(canonical: Mapping[str, Any]) -> str:
    """``sha256:…`` over the canonical form; aliases, nulls and annotations make no difference to it.

    Where fields came from and why some were lost is left out; secrets count by their source.
    """
    import json

    policy = {name: value for name, value in canonical.items() if name != "origins"}
    if "legacy" in policy:
        policy["legacy"] = {pointer: entry["value"] for pointer, entry in policy["legacy"].items()}
    text = json.dumps(policy, sort_keys=True, separators=(",", ":"))
    return f"sha256:{sha256(text.encode()).hexdigest()}"
