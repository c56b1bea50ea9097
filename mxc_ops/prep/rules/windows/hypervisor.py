"""Whether a hypervisor runs, or will: only looked at (host-prep.md §4, §9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.windows.common import Seen, unreadable

__all__ = ["RULE"]

_RUNS = "a hypervisor runs"
_NONE = "no hypervisor runs"
_AFTER_RESTART = "a hypervisor runs, from the next start of Windows on"
_PLATFORM = "HypervisorPlatform"
_LAUNCH = "bcdedit /set hypervisorlaunchtype auto, then restart Windows"
_NESTED = (
    "on the host of this virtual machine, while it is off:"
    " Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true"
)
_OTHER_HOST = "name other backends for this host: --backend, or mxc_backends in the inventory"


def _queries(feature: str) -> tuple[Query, ...]:
    del feature
    return (Query("windows.Hypervisor"), Query("windows.Features"))


def decide(seen: Seen, states: Seen, *, feature: str) -> Decision:
    """Nothing is done about it here; a host on which none will run is refused.

    Parameters
    ----------
    seen: see `facts.windows.Hypervisor`.
    states: see `facts.windows.Features`.
    feature: the one that brings a hypervisor; enabling it is another item's.
    """
    if trouble := unreadable(seen, _RUNS) or unreadable(states, _RUNS):
        return trouble
    told = seen["platform"] if states.get(_PLATFORM) == "Enabled" else None
    if seen["present"] if told is None else told:
        return nothing_to_do(_RUNS)
    state = states.get(feature)
    refusal, fix = _obstacle(seen, enabled="Enabled" in (state, states.get(_PLATFORM)))
    if refusal:
        return Decision(_NONE, _RUNS, refusal=refusal, fix=fix)
    before = _AFTER_RESTART if state == "EnablePending" else f"{_NONE}: {feature} is not enabled"
    return Decision(before, _AFTER_RESTART, restart=True)


def _obstacle(seen: Seen, *, enabled: bool) -> tuple[str, str]:
    """Why none will run at the next start either, and what a person can do about that; else nothing.

    Parameters
    ----------
    enabled: whether Windows has been started with a feature that brings one.
    """
    if str(seen["launch"]).lower() == "off":
        return "Windows is told to start none: hypervisorlaunchtype is off", _LAUNCH
    # One that runs, if only below this machine, hides what the processor can do.
    if not seen["present"] and seen["firmware"] is False:
        return (
            "virtualisation is switched off in the firmware, or not given to this virtual machine",
            f"switch it on in the firmware (Intel VT-x, AMD-V), or {_NESTED}",
        )
    if not seen["present"] and seen["translation"] is False:
        return "the processor has no second-level address translation", _OTHER_HOST
    if not enabled:
        return "", ""
    if seen["present"]:
        return "this is a virtual machine that may run none itself", _NESTED
    return "its feature is enabled, but Windows started none", _LAUNCH


def reverse(
    seen: Seen, states: Seen, *, prior: Mapping[str, Any], made: Mapping[str, Any], **_arguments: Any
) -> Decision:
    """Nothing was changed."""
    del seen, states, prior, made
    return nothing_to_do("only looked at")


RULE = Rule(_queries, decide, reverse)
