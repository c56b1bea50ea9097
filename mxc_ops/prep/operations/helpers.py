"""Programs of ours in the store of helpers."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def built(store: str, key: str, program: str, machine: str, item: str = "") -> Commands:
    """Have a program compiled on the host from our sources; the key changes with the sources."""
    yield from follow("helpers.built", item, store=store, key=key, program=program, machine=machine)


@operation
def pushed(store: str, key: str, program: str, source: str, sha256: str, item: str = "") -> Commands:
    """Have a program that was compiled on the controller, at the path `source` there."""
    yield from follow(
        "helpers.pushed", item, store=store, key=key, program=program, source=source, sha256=sha256
    )
