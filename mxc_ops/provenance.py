"""Trace a result to what was run: hashes of document and plan, versions of everything that took part."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from mxc_ops.result import Origin, Provenance


def trace(origin: Origin) -> Provenance:
    """Compute the provenance of a run from its plan."""
    plan: dict[str, Any] = origin.plan.as_dict()
    return Provenance(origin.document_hash, canonical_hash(plan), versions(plan))


def versions(plan: dict[str, Any]) -> dict[str, str]:
    """mxc-ops, the kernel, and what the plan names: its backend's helper program and the launcher inside."""
    from mxc_ops import __version__

    kernel = os.uname()
    return {
        "mxc-ops": __version__,
        "kernel": f"{kernel.sysname} {kernel.release} {kernel.machine}",
        plan["backend"]: plan["helper"]["version"],
        "launcher": plan["launcher"]["key"],
    }


def canonical_hash(value: Any) -> str:
    """``sha256:…`` over JSON with sorted keys and no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
