"""Windows hosts. Each fact is one script that prints one line of JSON.

A fact that cannot be read is ``{"unreadable": why}``; the rules refuse then, and say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.receipts import WINDOWS_DIRECTORY
from mxc_ops.prep.rules.windows.executor import LISTED_FILES
from mxc_ops.prep.windows import descriptors
from mxc_ops.prep.windows.script import STATE, headed, native, printed, quote, readable

_MACHINES: Mapping[str, str] = {"AMD64": "x86_64", "ARM64": "aarch64"}
_WINDOWS_11 = 22000
_CURRENT = r"HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion"
_SERVICING = r"HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending"
_UPDATE = r"HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired"
_RENAMES = r"HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager"


class _Json(FactBase[dict[str, Any]]):
    """What a script prints as JSON."""

    @staticmethod
    @override
    def default() -> dict[str, Any]:
        return {"unreadable": "PowerShell printed nothing"}

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        try:
            told: dict[str, Any] = dict(json.loads(output[-1]))
        except (TypeError, ValueError):
            return {"unreadable": f"PowerShell printed {output[-1][:200]!r}"}
        return told


class Host(_Json):
    """``{"caption", "build", "revision", "edition", "administrator", "machine", "restartPending"}``.

    `build` and `revision` are numbers, `edition` is Windows' own name such as ``Professional``, `machine` as
    ``uname -m``, `restartPending` lists who asked for a restart.
    """

    @override
    def command(self) -> str:
        known = {
            "caption": "$windows.ProductName",
            "build": "[int]$windows.CurrentBuildNumber",
            "revision": "[int]$windows.UBR",
            "edition": "$windows.EditionID",
            "administrator": "$user.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)",
            "machine": "$env:PROCESSOR_ARCHITECTURE",
            "restartPending": "$pending",
        }
        lines = [
            f"$windows=Get-ItemProperty {quote(_CURRENT)}",
            "$user=[Security.Principal.WindowsPrincipal]::new([Security.Principal.WindowsIdentity]::GetCurrent())",
            "$pending=@()",
            f"if(Test-Path {quote(_SERVICING)}){{$pending+='component servicing'}}",
            f"if(Test-Path {quote(_UPDATE)}){{$pending+='Windows Update'}}",
            f"$session=Get-ItemProperty {quote(_RENAMES)}",
            "if($session.PendingFileRenameOperations){$pending+='renamed files'}",
            printed(f"@{{{';'.join(f'{name}={value}' for name, value in known.items())}}}"),
        ]
        return headed("host", "\n".join(lines))

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        told = super().process(output)
        if "build" in told and told["build"] >= _WINDOWS_11:
            # The registry goes on calling it 10.
            told["caption"] = str(told["caption"]).replace("Windows 10", "Windows 11")
        if "machine" in told:
            told["machine"] = _MACHINES.get(told["machine"], told["machine"])
        return told


class Receipts(_Json):
    """The receipts' texts, by item."""

    @override
    def command(self) -> str:
        lines = [
            "$texts=@{}",
            f'if([IO.Directory]::Exists("{WINDOWS_DIRECTORY}")){{',
            f'foreach($path in [IO.Directory]::GetFiles("{WINDOWS_DIRECTORY}","*.json")){{',
            "$texts[[IO.Path]::GetFileNameWithoutExtension($path)]=[IO.File]::ReadAllText($path)}}",
            printed("$texts"),
        ]
        return headed("receipts", "\n".join(lines))


class Features(_Json):
    """Every optional feature of this edition with its state, such as ``Enabled`` or ``EnablePending``.

    Without an administrator's rights it is not known which wait for a restart.
    """

    @override
    def command(self) -> str:
        lines = [
            "$states=@{};$names=@{1='Enabled';2='Disabled';3='DisabledWithPayloadRemoved'}",
            "$user=[Security.Principal.WindowsPrincipal]::new([Security.Principal.WindowsIdentity]::GetCurrent())",
            "if($user.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)){",
            "foreach($feature in Get-WindowsOptionalFeature -Online){",
            "$states[$feature.FeatureName]=[string]$feature.State}",
            "}else{foreach($feature in Get-CimInstance Win32_OptionalFeature){",
            "$states[$feature.Name]=[string]$names[[int]$feature.InstallState]}}",
            printed("$states"),
        ]
        return headed("features", readable("\n".join(lines)))


# Of another's hypervisor below this machine Windows says the same as of its own. Only this, which comes with
# the feature HypervisorPlatform, tells whether its own runs.
_PLATFORM = r"""$platform=$null
if([IO.File]::Exists("$env:SystemRoot\System32\WinHvPlatform.dll")){
$call='[DllImport("WinHvPlatform.dll")]public static extern int WHvGetCapability('+
'int code,byte[] answer,uint size,out uint written);'
$type=Add-Type -Namespace MxcOps -Name HypervisorPlatform -MemberDefinition $call -PassThru
$answer=[byte[]]::new(256);$written=[uint32]0
$platform=$type::WHvGetCapability(0,$answer,256,[ref]$written) -eq 0 -and $answer[0] -ne 0}"""
_LAUNCH = re.compile(r"^hypervisorlaunchtype\s+(\S+)", re.IGNORECASE)


class Hypervisor(_Json):
    """``{"present", "firmware", "translation", "platform", "launch"}``: what virtual machines need.

    `present`: one runs, be it below this machine. `firmware`, `translation`: whether virtualisation is
    switched on and addresses are translated in two levels; without meaning while one runs. `platform`:
    whether Windows' own one runs; None where it cannot be asked. `launch`: as bcdedit has it, ``Auto`` or
    ``Off``; None where it does not say.
    """

    @override
    def command(self) -> str:
        known = {
            "present": "(Get-CimInstance Win32_ComputerSystem).HypervisorPresent",
            "firmware": "$processor.VirtualizationFirmwareEnabled",
            "translation": "$processor.SecondLevelAddressTranslationExtensions",
            "platform": "$platform",
            "lines": native("bcdedit.exe /enum '{current}'"),
        }
        lines = [
            "$processor=@(Get-CimInstance Win32_Processor)[0]",
            _PLATFORM,
            printed(f"@{{{';'.join(f'{name}={value}' for name, value in known.items())}}}"),
        ]
        return headed("hypervisor", readable("\n".join(lines)))

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        told = super().process(output)
        if "unreadable" in told:
            return told
        found = [match.group(1) for line in told.pop("lines") if (match := _LAUNCH.match(line))]
        return {**told, "launch": found[0] if found else None}


# Distributions belong to users. The registry shows those of users who are there now, the disks of all others.
_OF_ALL_USERS = r"""foreach($user in Get-ChildItem Registry::HKEY_USERS -ErrorAction SilentlyContinue){
$names+=@(Get-ChildItem "Registry::$($user.Name)\Software\Microsoft\Windows\CurrentVersion\Lxss" `
-ErrorAction SilentlyContinue|ForEach-Object{[string]$_.GetValue('DistributionName')})}
foreach($user in Get-CimInstance Win32_UserProfile){$local=$user.LocalPath+'\AppData\Local\'
$names+=@(Get-ChildItem ($local+'Packages\*\LocalState\ext4.vhdx'),($local+'wsl\*\ext4.vhdx') `
-ErrorAction SilentlyContinue|ForEach-Object{$_.FullName})}
$names=@($names|Where-Object{$_}|Sort-Object -Unique)"""


class Wsl(_Json):
    """``{"present", "version", "distributions"}``; `version` is None where WSL is not installed.

    `distributions` are those of all users, by name; by the file of their disk for users who are not there.
    """

    @override
    def command(self) -> str:
        lines = [
            "$lines=@();$names=@()",
            "$present=[bool](Get-Command wsl.exe -ErrorAction SilentlyContinue)",
            "if($present){$env:WSL_UTF8='1'",
            f"$lines={native('wsl.exe --version')};$known=$LASTEXITCODE -eq 0",
            f"if($known){{$names={native('wsl.exe --list --quiet')}",
            f"if($LASTEXITCODE -ne 0){{$names=@()}}\n{_OF_ALL_USERS}",
            "}else{$lines=@()}}",
            printed("@{present=$present;lines=$lines;distributions=$names}"),
        ]
        return headed("wsl", readable("\n".join(lines)))

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        told = super().process(output)
        if "unreadable" in told:
            return told
        # Versions that do not know WSL_UTF8 print UTF-16. The words are in the user's language.
        lines = _plain(told["lines"])
        version = re.search(r"\d+(?:\.\d+)+", lines[0]) if lines else None
        return {
            "present": told["present"],
            "version": version.group() if version else None,
            "distributions": _plain(told["distributions"]),
        }


def _plain(lines: list[str]) -> list[str]:
    found = [line.replace("\0", "").strip() for line in lines]
    return [line for line in found if line]


class SystemDrive(_Json):
    """``{"root", "sddl"}``: the root of the system drive and its access control list."""

    @override
    def command(self) -> str:
        lines = [
            '$root="$env:SystemDrive\\"',
            descriptors.read("$root", descriptors.DACL_ONLY),
            printed("@{root=$root;sddl=$sddl}"),
        ]
        return headed("system-drive", readable("\n".join(lines)))


class NullDevice(_Json):
    """``{"sddl"}``: owner, group, access control list and mandatory label of the null device."""

    @override
    def command(self) -> str:
        lines = [
            descriptors.read(quote(descriptors.NULL_DEVICE), descriptors.WITH_LABEL),
            printed("@{sddl=$sddl}"),
        ]
        return headed("null-device", readable("\n".join(lines)))


class BootTask(_Json):
    """``{"path", "script", "task"}``: the script that a task runs and where it is kept, and the task.

    `task` is ``{"xml", "user", "command", "arguments", "atStart", "enabled"}``, `xml` its whole definition;
    `task` and `script` are None where there is none.
    """

    @override
    def command(self, task: str) -> str:
        known = {
            "xml": "$xml",
            "user": "[string]$read.Principals.Principal.UserId",
            "command": "[string]$read.Actions.Exec.Command",
            "arguments": "[string]$read.Actions.Exec.Arguments",
            "atStart": "$null -ne $read.Triggers.BootTrigger",
            "enabled": "[string]$read.Settings.Enabled -ne 'false'",
        }
        which = rf"-TaskPath '\' -TaskName {quote(task)}"
        lines = [
            f'$path="{STATE}\\scripts\\"+{quote(task + ".ps1")};$script=$null;$task=$null',
            "if([IO.File]::Exists($path)){$script=[IO.File]::ReadAllText($path)}",
            f"if(Get-ScheduledTask {which} -ErrorAction SilentlyContinue){{",
            f"$xml=[string](Export-ScheduledTask {which});$read=([xml]$xml).Task",
            f"$task=@{{{';'.join(f'{name}=({value})' for name, value in known.items())}}}}}",
            printed("@{path=$path;script=$script;task=$task}"),
        ]
        return headed("boot-task", readable("\n".join(lines)), task=task)


class Executor(_Json):
    """``{"root", "package", "architecture", "files", "npm"}``: what is installed in a directory.

    `package` is ``NAME@VERSION``, or None; `architecture` ``x64`` or ``arm64``; `files` are lines
    ``PATH SHA-256``, None where there is no such directory; `npm` whether there is one.
    """

    @override
    def command(self, path: str) -> str:
        lines = [
            f"$root=[Environment]::ExpandEnvironmentVariables({quote(path)});$package=$null;$files=$null",
            '$about="$root\\package.json"',
            "if([IO.File]::Exists($about)){$read=ConvertFrom-Json ([IO.File]::ReadAllText($about))",
            "$package=[string]$read.name+'@'+[string]$read.version}",
            f"if([IO.Directory]::Exists($root)){{$files={LISTED_FILES}}}",
            "$architecture=if($env:PROCESSOR_ARCHITECTURE -eq 'ARM64'){'arm64'}else{'x64'}",
            "$npm=[bool](Get-Command npm.cmd -ErrorAction SilentlyContinue)",
            printed("@{root=$root;package=$package;architecture=$architecture;files=$files;npm=$npm}"),
        ]
        return headed("executor", readable("\n".join(lines)), path=path)
