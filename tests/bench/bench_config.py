"""Documents loaded per second in one process: ``python -m tests.bench.bench_config``.

Loading is everything from bytes to a validated document: size, UTF-8, duplicate keys, shape, rules, warnings.
"""

from __future__ import annotations

import json
import time

from mxc_ops.config.loader import load

TYPICAL = json.dumps(
    {
        "version": "0.8.0-alpha",
        "containerId": "build-42",
        "containment": "bubblewrap",
        "process": {
            "commandLine": "make -j4 check",
            "cwd": "/srv/app",
            "env": ["LANG=C.UTF-8", "PATH=/usr/bin:/bin", "CI=true"],
            "timeout": 600000,
        },
        "filesystem": {
            "readonlyPaths": ["/usr/share/dict", "/opt/toolchain"],
            "readwritePaths": ["/srv/app"],
            "deniedPaths": ["/srv/app/.git", "/srv/app/secrets"],
        },
        "network": {"egress": {"default": "deny"}, "ingress": {"default": "deny", "hostLoopback": "deny"}},
        "ui": {"disable": True, "clipboard": "none"},
    }
).encode()

# Short rounds, so that on a busy machine one of them runs undisturbed.
ROUNDS = 60
PER_ROUND = 500


def documents_per_second(source: bytes) -> float:
    """The best of `ROUNDS` rounds, after one warming-up load."""
    load(source)
    best = 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(PER_ROUND):
            load(source)
        best = max(best, PER_ROUND / (time.perf_counter() - start))
    return best


def main() -> None:
    exact = TYPICAL.replace(b"0.8.0-alpha", b"1.0.0")
    for name, source in (("0.8.0-alpha", TYPICAL), ("1.0.0", exact)):
        print(f"{name}: {len(source)} bytes, {documents_per_second(source):,.0f} documents/s")


if __name__ == "__main__":
    main()
