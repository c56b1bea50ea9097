"""Optional features of Windows. What needs a restart waits for the next one; none is made here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.windows.common import Seen, unreadable
from mxc_ops.prep.windows.script import headed, quote

__all__ = ["RULE"]

_DEADLINE_S = 900
_AFTER_RESTART = "enabled, at the next start of Windows"


def _queries(feature: str) -> tuple[Query, ...]:
    del feature
    return (Query("windows.Features"),)


def decide(states: Seen, *, feature: str) -> Decision:
    """An optional feature enabled, with those that it needs itself.

    Parameters
    ----------
    states: see `facts.windows.Features`.
    """
    if trouble := unreadable(states, "enabled"):
        return trouble
    state = states.get(feature)
    if state is None:
        return Decision(
            "not there",
            "enabled",
            refusal=f"this edition of Windows has no feature {feature}",
            fix="see what it has: Get-WindowsOptionalFeature -Online | Format-Table",
        )
    if state == "EnablePending":
        return Decision(_AFTER_RESTART, _AFTER_RESTART, restart=True)
    if state.startswith("Enable"):
        return nothing_to_do("enabled")
    return Decision(
        _said(state),
        _AFTER_RESTART,
        (_enable(feature),),
        prior={"state": state},
        restart=True,
        deadline_s=_DEADLINE_S,
    )


def _said(state: str) -> str:
    return {"Disabled": "disabled", "DisablePending": "disabled, at the next start of Windows"}.get(
        state, state
    )


def _enable(feature: str) -> str:
    body = f"$null=Enable-WindowsOptionalFeature -Online -All -NoRestart -FeatureName {quote(feature)}"
    return headed("enable-feature", body, feature=feature)


def _snapshot(feature: str) -> str:
    del feature
    return headed("enabled-features", _ENABLED)


def _measured(feature: str) -> Mapping[str, str]:
    """Those that came along as well."""
    del feature
    body = (
        f'$earlier=[IO.File]::ReadAllLines("$receipt.before")\n{_ENABLED}|Where-Object{{$_ -notin $earlier}}'
    )
    return {"enabled": headed("newly-enabled-features", body)}


_ENABLED = (
    "Get-WindowsOptionalFeature -Online|Where-Object{[string]$_.State -like 'Enable*'}"
    "|ForEach-Object{$_.FeatureName}"
)


def reverse(states: Seen, *, feature: str, prior: Mapping[str, Any], made: Mapping[str, Any]) -> Decision:
    """Every feature that was enabled with ours, and still is, disabled."""
    del prior
    if trouble := unreadable(states, "disabled, as before"):
        return trouble
    del feature
    names: list[str] = [
        name for name in made.get("enabled", []) if str(states.get(name, "")).startswith("Enable")
    ]
    if not names:
        return nothing_to_do("disabled, as before")
    listed = ",".join(quote(name) for name in names)
    body = f"$null=Disable-WindowsOptionalFeature -Online -NoRestart -FeatureName {listed}"
    return Decision(
        f"{' '.join(names)} enabled",
        "disabled, as before, at the next start of Windows",
        (headed("disable-features", body, features=names),),
        restart=True,
        deadline_s=_DEADLINE_S,
    )


RULE = Rule(_queries, decide, reverse, _snapshot, _measured)
