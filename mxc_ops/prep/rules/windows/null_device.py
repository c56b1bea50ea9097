"""The null device's security descriptor, without which app containers cannot open it (host-prep.md §3).

Windows makes the device anew at every start; `boot_task` then sets the descriptor again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.windows.common import Seen, unreadable
from mxc_ops.prep.windows import descriptors
from mxc_ops.prep.windows.script import headed, quote
from mxc_ops.prep.windows.sddl import differences, parse

__all__ = ["RULE"]


def _queries(sddl: str) -> tuple[Query, ...]:
    del sddl
    return (Query("windows.NullDevice"),)


def decide(seen: Seen, *, sddl: str) -> Decision:
    """Owner, group, access control list and mandatory label equal to the wanted, as sets.

    Parameters
    ----------
    seen: see `facts.windows.NullDevice`.
    """
    if trouble := unreadable(seen, "open to app containers"):
        return trouble
    found = differences(parse(seen["sddl"]), parse(sddl))
    if not found:
        return nothing_to_do("open to app containers")
    return Decision(
        ", ".join(found),
        "open to app containers, until the next start",
        (_write(seen["sddl"], sddl),),
        prior={"sddl": seen["sddl"]},
        made={"sddl": sddl},
    )


def _write(expected: str, wanted: str) -> str:
    if parse(wanted).sacl is None:
        wanted += "S:"  # without a list, a label that is there might stay
    device = quote(descriptors.NULL_DEVICE)
    body = descriptors.write(device, descriptors.WITH_LABEL, wanted, expected=expected)
    return headed("write-null-device", body, sddl=wanted)


def reverse(seen: Seen, *, sddl: str, prior: Mapping[str, Any], made: Mapping[str, Any]) -> Decision:
    """The earlier descriptor, unless somebody has set another since."""
    del sddl
    if trouble := unreadable(seen, "as before"):
        return trouble
    found = parse(seen["sddl"])
    if not differences(found, parse(prior["sddl"])):
        return nothing_to_do("as before")
    drifted = ", ".join(differences(found, parse(made["sddl"])))
    return Decision(
        drifted or "open to app containers",
        "as before",
        (_write(seen["sddl"], prior["sddl"]),),
        refusal=f"the null device is not as we made it: {drifted}; it is {seen['sddl']}" if drifted else "",
        fix="with --force it becomes what it was before" if drifted else "",
    )


RULE = Rule(_queries, decide, reverse)
