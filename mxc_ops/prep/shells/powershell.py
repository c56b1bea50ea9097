"""Commands for Windows PowerShell 5.1. What they do is what `sh` does, by the means of Windows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from mxc_ops.prep.receipts import PENDING, SCHEMA_VERSION, WINDOWS_DIRECTORY, Receipt
from mxc_ops.prep.shells import HELD_BY_ANOTHER, Change
from mxc_ops.prep.windows.script import PROTECTED_STATE, STATE, headed, quote

__all__ = ["SHELL"]

_MARK = "=== mxc-ops survey"
_HOLDER = rf'"{STATE}\holder"'
_STRAGGLER_S = 900
_ASK_AGAIN_MS = 100
# Everything that a script has started, then itself. A process keeps the number of its parent when that has
# ended and another has the number, so only what is younger is a child. In a runspace beside the script's own,
# which is busy; it ends with the process.
_KILL = r"""param($seconds,$number)
Start-Sleep -Seconds $seconds
function Stop-Below($parent){foreach($child in @(
Get-CimInstance Win32_Process -Filter "ParentProcessId=$($parent.ProcessId)")){
if($child.CreationDate -ge $parent.CreationDate){
Stop-Below $child;Stop-Process -Id $child.ProcessId -Force -ErrorAction SilentlyContinue}}}
[Console]::Error.WriteLine("killed after $seconds s")
Stop-Below (Get-CimInstance Win32_Process -Filter "ProcessId=$number")
[Environment]::Exit(124)"""
_LIMIT = f"""function Limit-Time([int]$seconds){{
$watch=[PowerShell]::Create().AddScript({quote(_KILL)}).AddArgument($seconds).AddArgument($PID)
$null=$watch.BeginInvoke()
$watch}}"""
_SAVE = """function Save-Receipt([string]$text){
[IO.File]::WriteAllText("$receipt.new",$text+"`n",[Text.UTF8Encoding]::new($false))
if([IO.File]::Exists("$receipt.json")){[IO.File]::Replace("$receipt.new","$receipt.json",[NullString]::Value)}
else{[IO.File]::Move("$receipt.new","$receipt.json")}}
$time=[DateTime]::UtcNow.ToString('s',[Globalization.CultureInfo]::InvariantCulture)+'Z'"""
_REMOVE_EMPTY = (
    f"""foreach($path in "{WINDOWS_DIRECTORY}","{STATE}"){{try{{[IO.Directory]::Delete($path)}}catch{{}}}}"""
)


class PowerShell:
    """See `mxc_ops.prep.shells.Shell`."""

    def survey(self, commands: Sequence[str], deadline_s: int) -> str:
        parts = [
            f"{_shown(command)}\n[Console]::Out.WriteLine('{_MARK} {number}')"
            for number, command in enumerate(commands)
        ]
        body = "\n".join([_LIMIT, f"$watch=Limit-Time {deadline_s}", *parts, "exit 0"])
        return headed("survey", body, questions=len(commands))

    def answers(self, output: Sequence[str], count: int) -> list[list[str]]:
        found: list[list[str]] = []
        lines: list[str] = []
        for line in output:
            if line == f"{_MARK} {len(found)}":
                found.append(lines)
                lines = []
            else:
                lines.append(line)
        if len(found) != count:
            raise ValueError(f"the host answered {len(found)} of {count} questions")
        return found

    def change(self, change: Change) -> str:
        receipt = change.receipt
        pending = replace(receipt, state=PENDING)
        lines = [
            *_head(receipt.item),
            f'if(-not [IO.File]::Exists("$receipt.json")){{\n{_save(pending, ())}\n}}',
            *([_snapshot(change.snapshot)] if change.snapshot else []),
            *_limited(change),
            *[
                f"${_variable(name)}={_as_json(command, receipt.made.get(name))}"
                for name, command in change.measured.items()
            ],
            _save(receipt, tuple(change.measured)),
            '[IO.File]::Delete("$receipt.before")',
            "exit 0",
        ]
        parts = {"snapshot": bool(change.snapshot), "measured": list(change.measured)}
        return headed("change", "\n".join(lines), item=receipt.item, commands=len(change.commands), **parts)

    def reversal(self, change: Change) -> str:
        item = change.receipt.item
        forget = '[IO.File]::Delete("$receipt.json");[IO.File]::Delete("$receipt.before")'
        lines = [*_head(item), *_limited(change), forget, "exit 0"]
        return headed("reversal", "\n".join(lines), item=item, commands=len(change.commands))

    def hold(self, holder: str, wait_s: int) -> str:
        # Windows removes the file when its holder ends, however it ends. Others may read it meanwhile, not
        # write to it. Never in vain at once: whoever asks for the holder has the file for a moment.
        body = f"""$until=[DateTime]::UtcNow.AddSeconds({max(1, wait_s)})
while($true){{
{PROTECTED_STATE}
try{{$lock=[IO.FileStream]::new({_HOLDER},[IO.FileMode]::OpenOrCreate,[IO.FileAccess]::ReadWrite,
[IO.FileShare]::Read,4096,[IO.FileOptions]::DeleteOnClose);break}}
catch [IO.IOException],[UnauthorizedAccessException]{{if([DateTime]::UtcNow -ge $until){{
[Console]::Error.WriteLine([string]$_)
{_tell_holder()}
exit {HELD_BY_ANOTHER}}}
Start-Sleep -Milliseconds {_ASK_AGAIN_MS}}}}}
$name=[Text.Encoding]::UTF8.GetBytes({quote(holder)})
$lock.SetLength(0);$lock.Write($name,0,$name.Length);$lock.Flush()
foreach($line in $input){{}}
$lock.Close()
{_REMOVE_EMPTY}
exit 0"""
        return headed("hold", body, holder=holder)

    def holder(self) -> str:
        # A file that can be opened for writing was left by a machine that lost its power.
        body = f"""if([IO.File]::Exists({_HOLDER})){{
try{{[IO.File]::Open({_HOLDER},[IO.FileMode]::Open,[IO.FileAccess]::ReadWrite,[IO.FileShare]::None).Close()}}
catch [IO.IOException],[UnauthorizedAccessException]{{
{_tell_holder()}}}}}
exit 0"""
        return headed("holder", body)

    def elevated(self, command: str, elevation: str) -> str:
        """An administrator's session over SSH has all rights from the start; none can be gained in it."""
        if elevation != "administrator":
            raise ValueError(f"no way to gain an administrator's rights: {elevation}")
        return command


SHELL = PowerShell()


def _shown(command: str) -> str:
    """A command in a scope of its own, what it prints shown at once."""
    return f"& {{\n{command}\n}}|ForEach-Object{{[Console]::Out.WriteLine([string]$_)}}"


def _tell_holder() -> str:
    return (
        f"try{{$file=[IO.FileStream]::new({_HOLDER},[IO.FileMode]::Open,[IO.FileAccess]::Read,"
        "([IO.FileShare]::ReadWrite -bor [IO.FileShare]::Delete))\n"
        "[Console]::Out.WriteLine([IO.StreamReader]::new($file).ReadToEnd());$file.Close()}"
        "catch [IO.IOException]{}"
    )


def _head(item: str) -> Iterator[str]:
    yield PROTECTED_STATE
    yield f'$null=[IO.Directory]::CreateDirectory("{WINDOWS_DIRECTORY}")'
    yield f'$receipt="{WINDOWS_DIRECTORY}\\"+{quote(item)}'
    # A command of a preparation whose controller died may still be at work.
    yield f"""$until=[DateTime]::UtcNow.AddSeconds({_STRAGGLER_S})
while($true){{try{{$lock=[IO.FileStream]::new("$state\\change",[IO.FileMode]::OpenOrCreate,
[IO.FileAccess]::ReadWrite,[IO.FileShare]::None,4096,[IO.FileOptions]::DeleteOnClose);break}}
catch [IO.IOException],[UnauthorizedAccessException]{{if([DateTime]::UtcNow -ge $until){{throw}}
Start-Sleep -Milliseconds {_ASK_AGAIN_MS}}}}}"""
    yield _LIMIT
    yield _SAVE


def _limited(change: Change) -> Iterator[str]:
    """Each command with its own time."""
    for command in change.commands:
        yield f"$watch=Limit-Time {change.deadline_s}"
        yield _shown(command)
        yield "$watch.Stop()"


def _snapshot(command: str) -> str:
    path = '"$receipt.before"'
    lines = f"[string[]]@(& {{\n{command}\n}})"
    return f"if(-not [IO.File]::Exists({path})){{[IO.File]::WriteAllLines({path},{lines})}}"


def _save(receipt: Receipt, measured: Sequence[str]) -> str:
    """Save a receipt, in which the time and what is measured are filled in on the host."""
    made = {**receipt.made, **{name: _blank(name) for name in measured}}
    document = {"schemaVersion": SCHEMA_VERSION, **asdict(replace(receipt, made=made, at=_blank("time")))}
    blanks: Mapping[str, str] = {f'"{_blank(name)}"': _variable(name) for name in measured}
    names = {**blanks, _blank("time"): "time"}
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", json.dumps(document))
    words = [f"${names[piece]}" if piece in names else quote(piece) for piece in pieces]
    return f"Save-Receipt ({'+'.join(words)})"


def _blank(name: str) -> str:
    return f"@mxc-ops fills in {name}@"


def _variable(name: str) -> str:
    return f"measured_{name}"


def _as_json(command: str, earlier: object) -> str:
    """The lines that a command prints, with earlier ones, as a JSON array."""
    known: list[str] = list(earlier) if isinstance(earlier, list) else []  # pyright: ignore[reportUnknownArgumentType] - of text: we measured it
    literal = f"@({','.join(quote(line) for line in known)})"
    lines = f"{literal}+@(& {{\n{command}\n}}|ForEach-Object{{[string]$_}})"
    return f"ConvertTo-Json -Compress -InputObject @(@({lines})|Sort-Object -Unique)"
