"""A script of ours that Windows runs at every start, as itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxc_ops.prep.decision import Decision, FileChange, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.windows.common import Seen, unreadable
from mxc_ops.prep.windows import descriptors
from mxc_ops.prep.windows.script import PROTECTED_STATE, headed, quote

__all__ = ["RULE"]

NULL_DEVICE = "null-device"
_COMMAND = r"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe"
_SYSTEM = ("S-1-5-18", "SYSTEM", r"NT AUTHORITY\SYSTEM")
_AFTER = "runs at every start of Windows"


def boot_script(script: str, sddl: str) -> str:
    """The text of a script of ours. Raises `ValueError` for a name that none has.

    Parameters
    ----------
    script: `NULL_DEVICE`: the descriptor of the null device becomes `sddl`.
    """
    if script != NULL_DEVICE:
        raise ValueError(f"no script for the start is called {script!r}")
    write = descriptors.write(quote(descriptors.NULL_DEVICE), descriptors.WITH_LABEL, sddl)
    head = "# mxc-ops prep host: app containers may open the null device\n$ErrorActionPreference='Stop'"
    return f"{head}\n{write}\n"


def _queries(task: str, script: str, sddl: str) -> tuple[Query, ...]:
    del script, sddl
    return (Query("windows.BootTask", {"task": task}),)


def decide(seen: Seen, *, task: str, script: str, sddl: str) -> Decision:
    """The script in our directory, and a task that runs it.

    Parameters
    ----------
    seen: see `facts.windows.BootTask`.
    task: its name, at the top of the task scheduler.
    script, sddl: see `boot_script`.
    """
    if trouble := unreadable(seen, _AFTER):
        return trouble
    text = boot_script(script, sddl)
    drift = _drift(seen, text)
    if not drift:
        return nothing_to_do(_AFTER)
    return Decision(
        "; ".join(drift),
        _AFTER,
        (_register(task, text),),
        prior={"script": seen["script"], "task": _definition(seen)},
        made={"script": text},
        files=(FileChange(seen["path"], seen["script"], text),),
    )


def _definition(seen: Seen) -> str | None:
    return seen["task"]["xml"] if seen["task"] else None


def _arguments(path: str) -> str:
    return f'-NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -File "{path}"'


def _drift(seen: Seen, text: str) -> list[str]:
    """What differs from a task that runs this script."""
    task: Seen | None = seen["task"]
    found = [] if seen["script"] == text else ["no script" if seen["script"] is None else "another script"]
    if task is None:
        return [*found, "no task"]
    wanted = {
        "is not run by the system": task["user"] not in _SYSTEM,
        "runs another command": (task["command"], task["arguments"]) != (_COMMAND, _arguments(seen["path"])),
        "does not run at the start": not task["atStart"],
        "is disabled": not task["enabled"],
    }
    return [*found, *(f"the task {what}" for what, differs in wanted.items() if differs)]


def _register(task: str, text: str) -> str:
    body = f"""{PROTECTED_STATE}
$null=[IO.Directory]::CreateDirectory("$state\\scripts")
$path="$state\\scripts\\"+{quote(task + ".ps1")}
{_put(text)}
$action=New-ScheduledTaskAction -Execute {quote(_COMMAND)} -Argument ({_with_path()})
$as=New-ScheduledTaskPrincipal -UserId 'S-1-5-18' -LogonType ServiceAccount -RunLevel Highest
$how=New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries `
-ExecutionTimeLimit (New-TimeSpan -Minutes 5)
$null=Register-ScheduledTask -TaskPath '\\' -TaskName {quote(task)} -Action $action -Principal $as `
-Settings $how -Trigger (New-ScheduledTaskTrigger -AtStartup) -Force"""
    return headed("register-boot-task", body, task=task)


def _with_path() -> str:
    before, after = _arguments("\0").split("\0")
    return f"{quote(before)}+$path+{quote(after)}"


def _put(text: str) -> str:
    """The script in place in one step: the task may be running it."""
    return f"""$script={quote(text)}
[IO.File]::WriteAllText("$path.new",$script,[Text.UTF8Encoding]::new($false))
if([IO.File]::Exists($path)){{[IO.File]::Replace("$path.new",$path,[NullString]::Value)}}
else{{[IO.File]::Move("$path.new",$path)}}"""


def reverse(
    seen: Seen,
    *,
    task: str,
    script: str,
    sddl: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The task and its script gone, or as they were, unless somebody has changed either since."""
    del script, sddl
    before = "as before" if prior["task"] else "no task, as before"
    if trouble := unreadable(seen, before):
        return trouble
    if (seen["script"], _definition(seen)) == (prior["script"], prior["task"]):
        return nothing_to_do(before)
    drift = [what for what in _drift(seen, made["script"]) if what not in ("no script", "no task")]
    return Decision(
        "; ".join(drift) or _AFTER,
        before,
        (_restore(task, prior),),
        refusal=f"it is not as we made it: {'; '.join(drift)}" if drift else "",
        fix="with --force it becomes what it was before" if drift else "",
        files=(FileChange(seen["path"], seen["script"], prior["script"]),),
    )


def _restore(task: str, prior: Mapping[str, Any]) -> str:
    which = rf"-TaskPath '\' -TaskName {quote(task)}"
    if prior["task"]:
        put_task = f"$null=Register-ScheduledTask {which} -Xml {quote(prior['task'])} -Force"
    else:
        put_task = (
            f"if(Get-ScheduledTask {which} -ErrorAction SilentlyContinue)"
            f"{{Unregister-ScheduledTask {which} -Confirm:$false}}"
        )
    put_script = "[IO.File]::Delete($path)" if prior["script"] is None else _put(prior["script"])
    body = f"""{PROTECTED_STATE}
$folder="$state\\scripts";$path="$folder\\"+{quote(task + ".ps1")}
{put_task}
if([IO.Directory]::Exists($folder)){{{put_script}
if(-not [IO.Directory]::GetFileSystemEntries($folder)){{[IO.Directory]::Delete($folder)}}}}"""
    return headed("restore-boot-task", body, task=task, registered=bool(prior["task"]))


RULE = Rule(_queries, decide, reverse)
