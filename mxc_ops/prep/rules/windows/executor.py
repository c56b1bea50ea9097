"""MXC's own executor, from its package, which npm fetches and we check before it takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.windows.common import Seen, unreadable
from mxc_ops.prep.windows.script import PROTECTED_STATE, headed, native, quote

__all__ = ["LISTED_FILES", "RULE"]

_DEADLINE_S = 900
_EXECUTOR = "bin/{architecture}/wxc-exec.exe"

LISTED_FILES = r"""@(Get-ChildItem -LiteralPath $root -Recurse -File -Force|ForEach-Object{
$_.FullName.Substring($root.Length+1).Replace('\','/')+' '+
(Get-FileHash -Algorithm SHA256 -LiteralPath $_.FullName).Hash.ToLowerInvariant()})"""
"""The files below ``$root``: ``PATH SHA-256``."""


def _queries(path: str, package: str, integrity: str) -> tuple[Query, ...]:
    del package, integrity
    return (Query("windows.Executor", {"path": path}),)


def decide(seen: Seen, *, path: str, package: str, integrity: str) -> Decision:
    """The part of the package that is for this machine, in a directory of its own.

    Parameters
    ----------
    seen: see `facts.windows.Executor`.
    package: ``NAME@VERSION``.
    integrity: ``sha512-`` and the sum of the archive in base64, as npm has it.
    """
    if trouble := unreadable(seen, package):
        return trouble
    files: list[str] | None = seen["files"]
    executor = _EXECUTOR.format(architecture=seen["architecture"])
    if seen["package"] == package and any(line.startswith(f"{executor} ") for line in files or ()):
        return nothing_to_do(f"{package} in {seen['root']}")
    if files is not None:
        found = seen["package"] or "files that are not of the package"
        return Decision(
            found,
            package,
            refusal=f"{seen['root']} has {found}",
            fix=f"mxc-ops prep undo if we made it, or: Remove-Item -Recurse {quote(seen['root'])}",
        )
    if not seen["npm"]:
        return Decision(
            "not there, and no npm",
            package,
            refusal="npm, which fetches the package, is not on this host",
            fix="winget install --exact --id OpenJS.NodeJS.LTS",
        )
    return Decision(
        "not there",
        f"{package} in {seen['root']}",
        (_install(path, package, integrity),),
        prior={"there": False},
        made={"package": package},
        deadline_s=_DEADLINE_S,
    )


def _install(path: str, package: str, integrity: str) -> str:
    # The archive lies where administrators alone may write, so that it stays what was checked.
    body = f"""{PROTECTED_STATE}
$work="$state\\executor";$root=[Environment]::ExpandEnvironmentVariables({quote(path)});$new="$root.new"
foreach($folder in $work,$new){{
if([IO.Directory]::Exists($folder)){{Remove-Item -LiteralPath $folder -Recurse -Force}}
$null=[IO.Directory]::CreateDirectory($folder)}}
try{{
$said={native(f"npm.cmd pack {quote(package)} --ignore-scripts --pack-destination $work")}
if($LASTEXITCODE -ne 0){{throw ($said -join ' ')}}
$archive=[IO.Directory]::GetFiles($work,'*.tgz')[0]
$stream=[IO.File]::OpenRead($archive)
try{{$sum='sha512-'+[Convert]::ToBase64String([Security.Cryptography.SHA512]::Create().ComputeHash($stream))}}
finally{{$stream.Close()}}
if($sum -cne {quote(integrity)}){{throw "the package is not the one that is meant: $sum"}}
$architecture=if($env:PROCESSOR_ARCHITECTURE -eq 'ARM64'){{'arm64'}}else{{'x64'}}
$tar='-xzf',$archive,'-C',$new,'--strip-components','1','package/package.json',"package/bin/$architecture"
$said={native("tar.exe @tar")}
if($LASTEXITCODE -ne 0){{throw ($said -join ' ')}}
[IO.Directory]::Move($new,$root)
}}finally{{foreach($folder in $work,$new){{
if([IO.Directory]::Exists($folder)){{Remove-Item -LiteralPath $folder -Recurse -Force}}}}}}"""
    return headed("install-executor", body, path=path, package=package)


def _measured(path: str, package: str, integrity: str) -> Mapping[str, str]:
    """Every file with its sum, so that what others put there, or changed, is seen."""
    del package, integrity
    body = f"$root=[Environment]::ExpandEnvironmentVariables({quote(path)})\n{LISTED_FILES}"
    return {"files": headed("executor-files", body, path=path)}


def reverse(
    seen: Seen,
    *,
    path: str,
    package: str,
    integrity: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The directory gone, unless somebody has changed something in it since."""
    del package, integrity, prior
    if trouble := unreadable(seen, "not there, as before"):
        return trouble
    files: list[str] | None = seen["files"]
    if files is None:
        return nothing_to_do("not there, as before")
    # Without a list the change was interrupted once the directory was in its place.
    changed = sorted(set(files) ^ set(made.get("files", files)))
    names = ", ".join(dict.fromkeys(line.rpartition(" ")[0] for line in changed))
    body = (
        f"$root=[Environment]::ExpandEnvironmentVariables({quote(path)})\n"
        "Remove-Item -LiteralPath $root -Recurse -Force"
    )
    return Decision(
        str(seen["package"] or seen["root"]),
        "not there, as before",
        (headed("remove-executor", body, path=path),),
        refusal=f"in {seen['root']} was changed, added or removed since: {names}" if changed else "",
        fix="keep what you need of it, then with --force the directory is removed" if changed else "",
    )


RULE = Rule(_queries, decide, reverse, measured=_measured)
