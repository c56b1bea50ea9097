"""``mxc-exec --available-backends``: what can be run here, with upstream's keys. Spec: cli-sdk.md §1.1.

An entry has ``backend`` and, when there is something to say, ``warnings``. No entry has ``capabilities``:
mxc-ops has none of those that upstream names.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from mxc_ops.cli.availability import look


def print_available_backends() -> int:
    from backends.registry import available

    entries: list[dict[str, Any]] = []
    for containment in available():
        found = look(containment, sys.platform)
        if not found.usable:
            continue
        entry: dict[str, Any] = {"backend": containment}
        if found.warnings:
            entry["warnings"] = list(found.warnings)
        entries.append(entry)
    print(json.dumps(entries, indent=2))
    return 0
