"""Commands for Windows PowerShell 5.1. What they do is what `sh` does, by the means of Windows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from mxc_ops.prep.receipts import COMPLETE, FAILED, PENDING, SCHEMA_VERSION, WINDOWS_DIRECTORY, Receipt
from mxc_ops.prep.shells import HELD_BY_ANOTHER, Change
from mxc_ops.prep.windows.script import PROTECTED_STATE, STATE, headed, quote

__all__ = ["SHELL"]

_MARK = "=== mxc-ops survey"
_HOLDER = rf'"{STATE}\holder"'
_CHANGE = rf'"{STATE}\change"'
_STRAGGLER_S = 900
_STRAGGLER = "a change that an interrupted preparation has begun"
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
# What was there before is kept over an interruption, and over nothing else: what others have changed since a
# change ended would be taken for ours.
_FRESH_SNAPSHOT = f"""if(-not ([IO.File]::Exists("$receipt.json") -and
[IO.File]::ReadAllText("$receipt.json").Contains('"state": "{PENDING}"'))){{
[IO.File]::Delete("$receipt.before")}}"""
_REMOVE_EMPTY = (
    f"""foreach($path in "{WINDOWS_DIRECTORY}","{STATE}"){{try{{[IO.Directory]::Delete($path)}}catch{{}}}}"""
)


class PowerShell:
    """See `mxc_ops.prep.shells.Shell`."""

    def survey(self, commands: Sequence[str], deadline_s: int) -> str:
        parts = [
            f"& {{\n{command}\n}}|ForEach-Object{{[Console]::Out.WriteLine([string]$_)}}\n"
            f"[Console]::Out.WriteLine('{_MARK} {number}')"
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
        if not receipt.item:
            body = "\n".join([_LIMIT, *_logged(_limited(change))])
            return headed("run", body, commands=len(change.commands))
        lines = [
            *_head(receipt.item),
            _FRESH_SNAPSHOT,
            f"$outcome={quote(PENDING)}",
            _save(receipt, ()),
            *([_kept(change.snapshot)] if change.snapshot else []),
            "$failure=$null;try{",
            *_limited(change),
            "}catch{$failure=$_}",
            *_recorded(change),
            '[IO.File]::Delete("$receipt.before")',
            "if($failure){throw $failure}",
        ]
        parts = {"snapshot": bool(change.snapshot), "measured": list(change.measured)}
        body = "\n".join([_LIMIT, *_logged(lines)])
        return headed("change", body, item=receipt.item, commands=len(change.commands), **parts)

    def reversal(self, change: Change) -> str:
        item = change.receipt.item
        files = ",".join(f'"$receipt.{kind}"' for kind in ("json", "before", "new"))
        lines = [*_head(item), *_limited(change), f"foreach($path in {files}){{[IO.File]::Delete($path)}}"]
        body = "\n".join([_LIMIT, *_logged(lines)])
        return headed("reversal", body, item=item, commands=len(change.commands))

    def hold(self, holder: str, wait_s: int) -> str:
        # Windows removes the file when its holder ends, however it ends. Others may read it meanwhile, not
        # write to it. Never in vain at once: whoever asks for the holder has the file for a moment.
        straggler = f"[Console]::Out.WriteLine({quote(_STRAGGLER)})"
        body = f"""$until=[DateTime]::UtcNow.AddSeconds({max(1, wait_s)})
{_locked("lock", _HOLDER, "Read", _tell_holder(), again=PROTECTED_STATE)}
{_locked("change", _CHANGE, "None", straggler)}
$change.Close()
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


def _tell_holder() -> str:
    return (
        f"try{{$file=[IO.FileStream]::new({_HOLDER},[IO.FileMode]::Open,[IO.FileAccess]::Read,"
        "([IO.FileShare]::ReadWrite -bor [IO.FileShare]::Delete))\n"
        "[Console]::Out.WriteLine([IO.StreamReader]::new($file).ReadToEnd());$file.Close()}"
        "catch [IO.IOException]{}"
    )


def _locked(variable: str, path: str, share: str, in_vain: str, again: str = "") -> str:
    """Have a file that one process at a time can have; it goes with the process.

    Parameters
    ----------
    share: what others may do with it meanwhile.
    in_vain: what is told once it is ``$until``; then the process ends, whether or not its input has ended.
    again: what is done before each attempt.
    """
    return f"""while($true){{{again}
try{{${variable}=[IO.FileStream]::new({path},[IO.FileMode]::OpenOrCreate,[IO.FileAccess]::ReadWrite,
[IO.FileShare]::{share},4096,[IO.FileOptions]::DeleteOnClose);break}}
catch [IO.IOException],[UnauthorizedAccessException]{{if([DateTime]::UtcNow -ge $until){{
[Console]::Error.WriteLine([string]$_)
{in_vain}
[Environment]::Exit({HELD_BY_ANOTHER})}}
Start-Sleep -Milliseconds {_ASK_AGAIN_MS}}}}}"""


def _head(item: str) -> Iterator[str]:
    yield PROTECTED_STATE
    yield f'$null=[IO.Directory]::CreateDirectory("{WINDOWS_DIRECTORY}")'
    yield f'$receipt="{WINDOWS_DIRECTORY}\\"+{quote(item)}'
    # A command of a preparation whose controller died may still be at work.
    yield f"$until=[DateTime]::UtcNow.AddSeconds({_STRAGGLER_S})"
    yield _locked("change", _CHANGE, "None", "")
    yield _SAVE


def _logged(lines: Iterable[str]) -> Iterator[str]:
    """What is printed is shown at the end: a change whose reader is gone by then must not stop halfway."""
    yield "$printed=[Collections.Generic.List[string]]::new()"
    yield "try{"
    yield from lines
    yield "}finally{foreach($line in $printed){try{[Console]::Out.WriteLine($line)}catch{}}}"
    yield "exit 0"


def _limited(change: Change) -> Iterator[str]:
    """Each command in a scope and with a time of its own."""
    for command in change.commands:
        yield f"$watch=Limit-Time {change.deadline_s}"
        yield f"& {{\n{command}\n}}|ForEach-Object{{$printed.Add([string]$_)}}"
        yield "$watch.Stop()"


def _kept(snapshot: str) -> str:
    """What was there before, whole or not at all: what is missing from it would be taken for ours later."""
    return f"""if(-not [IO.File]::Exists("$receipt.before")){{
[IO.File]::WriteAllLines("$receipt.new",[string[]]@(& {{
{snapshot}
}}))
[IO.File]::Move("$receipt.new","$receipt.before")}}"""


def _recorded(change: Change) -> Iterator[str]:
    """Measure, and write down what was made, also by a change that failed halfway."""
    # What went wrong first is what the reader must know.
    yield "try{"
    for name, command in change.measured.items():
        yield f"${_variable(name)}={_as_json(command, change.receipt.made.get(name))}"
    yield "}catch{if($failure){throw $failure};throw}"
    yield f"$outcome=if($failure){{{quote(FAILED)}}}else{{{quote(COMPLETE)}}}"
    yield _save(change.receipt, tuple(change.measured))


def _save(receipt: Receipt, measured: Sequence[str]) -> str:
    """Save a receipt, in which state, time and what is measured are filled in on the host."""
    made = {**receipt.made, **{name: _blank(name) for name in measured}}
    blank = replace(receipt, made=made, state=_blank("state"), at=_blank("time"))
    document = {"schemaVersion": SCHEMA_VERSION, **asdict(blank)}
    blanks: Mapping[str, str] = {f'"{_blank(name)}"': _variable(name) for name in measured}
    names = {**blanks, _blank("state"): "outcome", _blank("time"): "time"}
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
