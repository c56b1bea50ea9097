"""Trace a result to what was run: hashes of document and plan, versions of everything that took part."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from backends.digest import Fingerprint, sha256
from backends.frozen import frozen


@frozen
class Provenance:
    """What was run, so that a result can be traced: hashes are ``sha256:`` and hexadecimal digits.

    Parameters
    ----------
    document_hash: over the canonical document.
    plan_hash: over the plan's canonical JSON, i.e. over everything that was enforced.
    versions: of mxc-ops, the kernel and the backend's helpers.
    """

    document_hash: str
    plan_hash: str
    versions: Mapping[str, str]


class Origin:
    """What provenance is computed from when somebody asks for it: hashing is not on the way of a run.

    Not a data class: the plan stays out of the representation of a `Result`.
    """

    __slots__ = ("document_hash", "plan")

    def __init__(self, document_hash: Fingerprint, plan: Any) -> None:
        self.document_hash = document_hash
        self.plan = plan


def trace(origin: Origin) -> Provenance:
    """Compute the provenance of a run from its plan."""
    plan: dict[str, Any] = origin.plan.as_dict()
    return Provenance(str(origin.document_hash), canonical_hash(plan), versions(plan))


def versions(plan: dict[str, Any]) -> dict[str, str]:
    """mxc-ops, the kernel, and what the plan names: its backend's helper program and the launcher inside.

    A command in a session has neither: they are of the sandbox's start.
    """
    from mxc_ops import __version__

    kernel = os.uname()
    found = {"mxc-ops": __version__, "kernel": f"{kernel.sysname} {kernel.release} {kernel.machine}"}
    if "helper" in plan:
        found |= {plan["backend"]: plan["helper"]["version"], "launcher": plan["launcher"]["key"]}
    return found


def canonical_hash(value: Any) -> str:
    """``sha256:…`` over JSON with sorted keys and no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
