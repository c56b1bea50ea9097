"""What scripts for Windows PowerShell 5.1 are made of. Pure.

Every script begins with a line ``# mxc:VERB JSON``, which says what it is for: to people who read logs, and
to tests, which answer by it.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["PROTECTED_STATE", "STATE", "headed", "native", "printed", "quote", "readable"]

STATE = r"$env:ProgramData\mxc-ops"
"""The directory of everything that we keep on a host; for double-quoted strings."""

# To PowerShell, typographic quotes end a string just as well.
_QUOTES = re.compile("['\u2018\u2019\u201a\u201b]")

# Every user may make things in ProgramData, so what is there may be somebody's: nothing of a directory is
# trusted, or run at the next start, that administrators do not own or that inherits the rights above it.
_OWNERS = "'S-1-5-18','S-1-5-32-544'"
PROTECTED_STATE = rf"""$state="{STATE}"
if(-not [IO.Directory]::Exists($state)){{
$rights=[Security.AccessControl.DirectorySecurity]::new()
$rights.SetSecurityDescriptorSddlForm('O:BAG:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FRFX;;;BU)')
$null=[IO.Directory]::CreateDirectory($state,$rights)}}
$folder=Get-Item -LiteralPath $state -Force
$rights=$folder.GetAccessControl()
if(($folder.Attributes -band [IO.FileAttributes]::ReparsePoint) -or -not $rights.AreAccessRulesProtected -or
$rights.GetOwner([Security.Principal.SecurityIdentifier]).Value -notin {_OWNERS}){{
throw "$state is not ours: look at what it is for, then: Remove-Item -Recurse '$state'"}}"""
"""Has the directory `STATE`, which administrators alone may write to; its path is then in ``$state``."""


def quote(text: str) -> str:
    """A text as a literal.

    Raises `ValueError` for a text with a NUL, which no literal can hold.
    """
    if "\0" in text:
        raise ValueError("a NUL cannot be quoted")
    return "'" + _QUOTES.sub(lambda found: found.group() * 2, text) + "'"


def headed(verb: str, body: str, **data: Any) -> str:
    """A script with its first line.

    Parameters
    ----------
    data: what tells this script from others of the same verb; JSON.
    """
    return f"# mxc:{verb} {json.dumps(data)}\n{body}".rstrip("\n")


def printed(expression: str) -> str:
    """Prints a value as one line of JSON; not through the formatter, which would fold it."""
    return f"[Console]::Out.WriteLine((ConvertTo-Json -Compress -Depth 4 -InputObject ({expression})))"


def readable(body: str) -> str:
    """A question that answers ``{"unreadable": WHY}`` where it fails, so that the others are answered."""
    failed = printed("@{unreadable=[string]$_}")
    return f"try{{\n{body}\n}}catch{{{failed}}}"


def native(command: str) -> str:
    """The lines that a program prints on either stream, as text; its exit status is in ``$LASTEXITCODE``.

    Under ``Stop``, Windows PowerShell takes the first line on standard error for a failure.
    """
    return f"@(& {{$ErrorActionPreference='Continue';{command} 2>&1|ForEach-Object{{[string]$_}}}})"
