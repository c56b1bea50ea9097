"""The Windows Subsystem for Linux, by its own updater, which only knows the newest one (host-prep.md §4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.windows.common import FORGET, Seen, number, unreadable
from mxc_ops.prep.windows.script import headed, native, quote

__all__ = ["RULE"]

_DEADLINE_S = 1800
# First without the Store, which a server or a session over SSH may not have; then what is not released yet.
_ATTEMPTS = (
    "--update --web-download",
    "--update",
    "--update --pre-release --web-download",
    "--update --pre-release",
)
_NEWEST = "its updater installs the newest version, a pre-release if no other will do"


def _queries(version: str) -> tuple[Query, ...]:
    del version
    return (Query("windows.Wsl"),)


def decide(seen: Seen, *, version: str) -> Decision:
    """WSL at least of a version.

    Parameters
    ----------
    seen: see `facts.windows.Wsl`.
    """
    wanted = f"{version} or later"
    if trouble := unreadable(seen, wanted):
        return trouble
    if not seen["present"]:
        return Decision(
            "no wsl.exe",
            wanted,
            refusal="this Windows has no wsl.exe",
            fix="bring Windows up to date, then the same command again",
        )
    found: str | None = seen["version"]
    if found and number(found) >= number(version):
        return nothing_to_do(found)
    return Decision(
        found or "not installed",
        wanted,
        (_update(version),),
        prior={"version": found},
        notice=f"{_NEWEST}; an update has no way back" if found else _NEWEST,
        deadline_s=_DEADLINE_S,
    )


def _update(version: str) -> str:
    body = f"""$env:WSL_UTF8='1'
function Get-WslVersion{{$lines={native("wsl.exe --version")}
$text=($lines -join ' ').Replace([string][char]0,'')
if($LASTEXITCODE -eq 0 -and $text -match '\\d+(\\.\\d+)+'){{[version]$Matches[0]}}}}
$said=@()
foreach($attempt in {",".join(quote(attempt) for attempt in _ATTEMPTS)}){{
$found=Get-WslVersion
if($found -and $found -ge [version]{quote(version)}){{break}}
$words=$attempt.Split(' ')
$said+={native("wsl.exe @words")}}}
$found=Get-WslVersion
if(-not $found -or $found -lt [version]{quote(version)}){{
throw "WSL is $found, {version} is needed: $(($said -join ' ').Replace([string][char]0,''))"}}"""
    return headed("update-wsl", body, version=version)


def reverse(seen: Seen, *, version: str, prior: Mapping[str, Any], made: Mapping[str, Any]) -> Decision:
    """WSL gone again where there was none, unless somebody has Linux distributions in it by now."""
    del version, made
    if trouble := unreadable(seen, "as before"):
        return trouble
    found: str | None = seen["version"]
    if found == prior["version"]:
        return nothing_to_do(f"{found or 'not installed'}, as before")
    if prior["version"]:
        return nothing_to_do(f"{found or 'not installed'}; an update has no way back to {prior['version']}")
    if seen["distributions"]:
        names = ", ".join(seen["distributions"])
        return Decision(
            found or "",
            "not installed, as before",
            (FORGET,),
            refusal=f"distributions were installed in it since: {names}",
            fix="with --force the record is removed and WSL stays",
        )
    body = f"$said={native('wsl.exe --uninstall')}\nif($LASTEXITCODE -ne 0){{throw ($said -join ' ')}}"
    return Decision(
        found or "",
        "not installed, as before",
        (headed("uninstall-wsl", body),),
        deadline_s=_DEADLINE_S,
    )


RULE = Rule(_queries, decide, reverse)
