"""Every script that a rule, a fact or the shell can make is PowerShell, as far as a grammar can tell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from backends import registry
from mxc_ops.prep.receipts import Receipt
from mxc_ops.prep.rules.windows import boot_task
from mxc_ops.prep.rules.windows.common import FORGET
from mxc_ops.prep.shells import Change
from mxc_ops.prep.shells.powershell import SHELL
from tests.conftest import CHECKOUT
from tests.unit.powershell_grammar import errors

CASES = CHECKOUT / "tests/prep/cases"
_VERB = re.compile(r"^# mxc:(\S+) ", re.MULTILINE)
_SOURCES = ("facts/windows.py", "rules/windows/*.py", "shells/powershell.py")


def _case(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _facts() -> list[str]:
    return [_case(path)["command"] for path in sorted(CASES.glob("facts/windows.*/*.json"))]


def _commands() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(CASES.glob("operations/windows.*/*.json")):
        case = _case(path)
        yield f"{path.parent.name}/{path.stem}", case
        if case.get("reverse", {}).get("commands"):
            yield f"{path.parent.name}/{path.stem} back", {**case["reverse"], "arguments": case["arguments"]}


def _as_sent(name: str, case: dict[str, Any]) -> list[str]:
    """One decision's scripts, alone and as the shell sends them."""
    commands = case.get("commands", [])
    measured = case.get("measured", {})
    parts = [*commands, *([case["snapshot"]] if "snapshot" in case else []), *measured.values()]
    receipt = Receipt(
        "an.item", name.partition("/")[0], case["arguments"], case.get("prior", {}), case.get("made", {})
    )
    change = Change(receipt, commands, case.get("snapshot", ""), measured)
    plain = replace(change, receipt=replace(receipt, item=""))
    sent = [SHELL.change(change), SHELL.change(plain), SHELL.reversal(change)]
    return [*parts, *sent] if commands else []


SCRIPTS = {
    "the survey of everything": SHELL.survey(_facts(), 60),
    "hold": SHELL.hold("me", 5),
    "holder": SHELL.holder(),
    "forget": FORGET,
    **{f"fact {number}": script for number, script in enumerate(_facts())},
    **{
        f"{name} {number}": script
        for name, case in _commands()
        for number, script in enumerate(_as_sent(name, case))
    },
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_powershell(name: str) -> None:
    assert errors(SCRIPTS[name]) == []
    assert _VERB.match(SCRIPTS[name]), "its first line says what it is for"


def test_no_kind_of_script_is_missing_here() -> None:
    made = {verb for script in SCRIPTS.values() for verb in _VERB.findall(script)}
    sources = [path for pattern in _SOURCES for path in (CHECKOUT / "mxc_ops/prep").glob(pattern)]
    known = {verb for path in sources for verb in re.findall(r'headed\(\s*"([a-z-]+)"', path.read_text())}
    assert known
    assert made == known


@pytest.mark.parametrize("name", [name for name, case in _commands() if case.get("commands")])
def test_a_decision_has_one_command(name: str) -> None:
    # Windows PowerShell 5.1 has no `&&`, by which plain pyinfra would get several.
    assert len(dict(_commands())[name]["commands"]) == 1


def _boot_scripts() -> list[dict[str, Any]]:
    modules = [
        entry.needs for entry in registry.CONTAINMENTS.values() if entry.needs and "win32" in entry.platforms
    ]
    needs = [need for name in modules for need in import_module(name).NEEDS]
    return [dict(need.data) for need in needs if "script" in need.data]


def test_what_runs_at_the_start_is_powershell() -> None:
    data = _boot_scripts()
    assert data
    for told in data:
        text = boot_task.boot_script(told["script"], told["sddl"])
        assert errors(text) == []
        assert text.isascii(), "Windows PowerShell takes a file without a mark for the machine's old encoding"


def test_a_script_for_the_start_that_nobody_has_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no-such"):
        boot_task.boot_script("no-such", "")
