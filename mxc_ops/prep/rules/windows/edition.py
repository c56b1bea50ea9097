"""The build and the edition of Windows: only looked at (host-prep.md §1, §7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.windows.common import Seen, number, unreadable

__all__ = ["RULE"]


def _queries(**_arguments: Any) -> tuple[Query, ...]:
    return (Query("windows.Host"),)


def decide(host: Seen, *, build: str, editions: Sequence[str] = (), machines: Sequence[str] = ()) -> Decision:
    """Nothing can be done about it here; a host that does not do is refused.

    Parameters
    ----------
    host: see `facts.windows.Host`.
    build: the least, ``26100`` or with its revision ``26340.9212``.
    editions: beginnings of Windows' own names, such as ``Professional``; none: any.
    machines: as ``uname -m``; none: any.
    """
    wanted = _wanted(build, editions, machines)
    if trouble := unreadable(host, wanted):
        return trouble
    found = f"{host['build']}.{host['revision']}"
    before = f"{host['caption']}, {host['edition']}, build {found}, {host['machine']}"
    if number(found) < number(build):
        return Decision(
            before,
            wanted,
            refusal=f"it needs build {build} or later, and this is {found}",
            fix="bring Windows up to date: Settings, Windows Update",
        )
    if editions and not str(host["edition"]).startswith(tuple(editions)):
        return Decision(
            before,
            wanted,
            refusal=f"the edition {host['edition']} does not have it; these do: {', '.join(editions)}",
            fix="change the edition: Settings, System, Activation",
        )
    if machines and host["machine"] not in machines:
        return Decision(
            before,
            wanted,
            refusal=f"it exists for {' and '.join(machines)} only, and this is {host['machine']}",
            fix="name other backends for this host: --backend, or mxc_backends in the inventory",
        )
    return nothing_to_do(before)


def _wanted(build: str, editions: Sequence[str], machines: Sequence[str]) -> str:
    return ", ".join([f"build {build} or later", *([" or ".join(editions)] if editions else []), *machines])


def reverse(host: Seen, *, prior: Mapping[str, Any], made: Mapping[str, Any], **_arguments: Any) -> Decision:
    """Nothing was changed."""
    del host, prior, made
    return nothing_to_do("only looked at")


RULE = Rule(_queries, decide, reverse)
