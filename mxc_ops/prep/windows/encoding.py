"""How a script reaches PowerShell through sshd, whatever shell is set there."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

__all__ = ["LONGEST_LINE", "Invocation", "invocation"]

LONGEST_LINE = 8000
"""Characters of a line. cmd.exe takes 8191, with its own name; it is the shell of Windows' sshd unless one
sets another."""

_POWERSHELL = "powershell.exe -NoLogo -NoProfile -NonInteractive -EncodedCommand"
# An error ends the script with status 1 and one message, at once: `exit` would wait for the end of standard
# input. No progress bars are drawn. Where there is no console, its encoding cannot be set.
_PROLOGUE = (
    "$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue'"
    "\ntry{[Console]::OutputEncoding=[Text.UTF8Encoding]::new($false)}catch{}"
    "\ntrap{[Console]::Error.WriteLine([string]$_);[Environment]::Exit(1)}\n"
)
# Not ``-Command -``: that runs its input line by line, and a trap reaches no further than its line.
_FROM_INPUT = (
    "$text=(-join @($input)) -replace '[^A-Za-z0-9+/=]',''\n"
    "& ([ScriptBlock]::Create([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($text))))"
)


@dataclass(frozen=True)
class Invocation:
    """`line` for sshd; `stdin`: the script itself, where it does not fit into a line, else ""."""

    line: str
    stdin: str = ""


def invocation(script: str) -> Invocation:
    """How to run a script. It travels as base64, which no shell between us and PowerShell changes."""
    whole = _PROLOGUE + script
    line = _encoded(whole)
    if len(line) <= LONGEST_LINE:
        return Invocation(line)
    return Invocation(_encoded(_FROM_INPUT), b64encode(whole.encode()).decode())


def _encoded(script: str) -> str:
    return f"{_POWERSHELL} {b64encode(script.encode('utf-16-le')).decode()}"
