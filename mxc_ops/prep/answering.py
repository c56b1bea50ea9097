"""Runs on the host that is examined: our doctor's probes as they are, for the controller to tell.

The only argument is JSON: ``{"backends", "features"}``. Prints one JSON document: ``{"probes"}``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from mxc_ops.doctor import examine

__all__ = ["main"]


def main() -> None:
    asked: dict[str, list[str]] = json.loads(sys.argv[1])
    found = examine(asked["backends"], asked["features"]).probes
    probes = [{**asdict(probe), "health": probe.health.value} for probe in found]
    print(json.dumps({"probes": probes}, indent=2))


if __name__ == "__main__":
    main()
