"""Every fact and every operation, case by case: what a host prints, what is decided, what a second run does.

The cases are the JSON files in ``cases/``. `MXC_UPDATE_GOLDEN=1` rewrites what is computed in them; read the
difference before committing it.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

import mxc_ops.prep.facts
from backends.inside.build import source_archive
from backends.inside.store import LAUNCHER
from backends.vm.on_host import OBJECTS, source
from mxc_ops.prep.decision import Decision, Query, Rule
from mxc_ops.prep.operations.common import SURVEY_DEADLINE_S
from mxc_ops.prep.remote_doctor import sources
from mxc_ops.prep.rules import AREAS, rule

CASES = Path(__file__).parent / "cases"
STATES = ("fresh", "present", "drifted", "invalid")
FACTS = sorted(CASES.glob("facts/*/*.json"))
OPERATIONS = sorted(CASES.glob("operations/*/*.json"))
LONG_TEXTS = {
    "@launcher-sources@": source_archive(LAUNCHER),
    "@our-sources@": sources().digest,
    "@libvirt-objects@": json.dumps(quote(source(OBJECTS)))[1:-1],
}

Case = dict[str, Any]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def _read(path: Path) -> Case:
    return json.loads(path.read_text())


def _hold(path: Path, case: Case, computed: Case) -> None:
    """Compare a case as it is computed with the recorded one, or record it."""
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        path.write_text(json.dumps(computed, indent=1, ensure_ascii=False) + "\n")
    else:
        assert computed == case


def _plain(value: object) -> Any:
    """As JSON has it, without programs of ours, which each change to them would change."""
    text = json.dumps(value)
    for name, long_text in LONG_TEXTS.items():
        text = text.replace(long_text, name)
    return json.loads(text)


def _is_shell(area: str, command: str) -> None:
    if area == "windows":
        return
    checked = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, ""), command


# --- facts


def _fact_class(name: str) -> Any:
    area, _, kind = name.partition(".")
    return getattr(import_module(f"mxc_ops.prep.facts.{area}"), kind)


def _fact_command(fact: Any, arguments: Case) -> str:
    command = fact.command(**arguments)
    return command if isinstance(command, str) else command.get_raw_value()


@pytest.mark.parametrize("path", FACTS, ids=_name)
def test_a_fact_asks_and_understands(path: Path) -> None:
    case = _read(path)
    fact = _fact_class(path.parent.name)()
    command = _fact_command(fact, case["arguments"])
    _is_shell(path.parent.name.partition(".")[0], command)
    output = case["output"]
    value = fact.process(list(output)) if output else fact.default()
    _hold(
        path,
        case,
        {
            "arguments": case["arguments"],
            "command": _plain(command),
            "output": output,
            "value": _plain(value),
        },
    )


@pytest.mark.parametrize("path", [path for path in FACTS if "windows." not in path.parent.name], ids=_name)
def test_a_fact_never_fails_whatever_the_host_lacks(path: Path) -> None:
    """Under plain pyinfra a fact that fails takes the host out of the run."""
    case = _read(path)
    command = _fact_command(_fact_class(path.parent.name)(), case["arguments"])
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_read_although_its_mode_says_so_is_no_empty_text() -> None:
    """As AppArmor's list of profiles for users; nobody can read the beginning of a process's memory."""
    fact = _fact_class("files.Texts")()
    command = _fact_command(fact, {"paths": ["/proc/self/mem", "/etc/passwd"]})
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert list(fact.process(done.stdout.splitlines())) == ["/etc/passwd"]


def test_a_survey_outlasts_all_that_may_hang_in_it() -> None:
    """One that is killed has answered nothing, of no item."""
    cases = {path.parent.name: _read(path) for path in FACTS if "windows." not in path.parent.name}
    commands = [_fact_command(_fact_class(name)(), case["arguments"]) for name, case in cases.items()]
    limits = [re.search(r"\btimeout (?:-\S+ [A-Z]+ )?(\d+) ", command) for command in commands]
    assert sum(int(limit[1]) for limit in limits if limit) < SURVEY_DEADLINE_S - 10


def _fact_classes() -> list[str]:
    areas = [
        module.name
        for module in pkgutil.iter_modules(mxc_ops.prep.facts.__path__)
        if module.name != "common"  # the shapes that facts have
    ]
    modules = [(area, import_module(f"mxc_ops.prep.facts.{area}")) for area in areas]
    return [
        f"{area}.{name}"
        for area, module in modules
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__.startswith(module.__name__) and not name.startswith("_")
    ]


@pytest.mark.parametrize("name", _fact_classes())
def test_every_fact_has_a_case_with_something_and_one_with_nothing(name: str) -> None:
    values = {json.dumps(_read(path)["value"]) for path in FACTS if path.parent.name == name}
    assert len(values) >= 2


# --- operations


def _as_recorded(decision: Decision) -> Case:
    """What is not empty of a decision; of files only their paths: their texts are in the commands."""
    fields: Case = {
        "before": decision.before,
        "after": decision.after,
        "commands": list(decision.commands),
        "refusal": decision.refusal,
        "fix": decision.fix,
        "notice": decision.notice,
        "restart": decision.restart,
        "unread": decision.unread,
        "prior": dict(decision.prior),
        "made": dict(decision.made),
        "uploads": [upload.name for upload in decision.uploads],
        "files": [change.path for change in decision.files],
    }
    return {name: value for name, value in _plain(fields).items() if value}


def _ask(queries: tuple[Query, ...], given: list[Any]) -> list[Any]:
    """The answers, once it is sure that each query names a fact that takes its arguments."""
    for query in queries:
        _fact_command(_fact_class(query.fact)(), _plain(dict(query.arguments)))
    assert len(given) == len(queries)
    return given


def _decide(kind: Rule, arguments: Case, given: list[Any]) -> Decision:
    return kind.decide(*_ask(kind.queries(**arguments), given), **arguments)


def _is_at_rest(decision: Decision) -> bool:
    return not decision.commands and not decision.refusal


def _is_in_state(decision: Decision, state: str) -> bool:
    match state:
        case "fresh":
            return bool(decision.commands) and not decision.refusal
        case "present":
            return _is_at_rest(decision)
        case "drifted":
            return not _is_at_rest(decision)
        case "invalid":
            return bool(decision.refusal and decision.fix) and not decision.commands
        case _:
            return False


def _journal(kind: Rule, arguments: Case) -> Case:
    parts = {"snapshot": kind.snapshot(**arguments), "measured": dict(kind.measured(**arguments))}
    return {name: part for name, part in parts.items() if part}


def _reversal(kind: Rule, case: Case, forth: Decision) -> Case:
    """The way back as it is computed; afterwards nothing must be left to take back."""
    given: Case = case["reverse"]
    arguments: Case = case["arguments"]
    record = {name: given.get(name, _plain(dict(getattr(forth, name)))) for name in ("prior", "made")}
    ask = kind.reverse_queries
    queries = ask(**record, **arguments) if ask else kind.queries(**arguments)
    answers = given["answers"] if "answers" in given else case["then"]
    back = kind.reverse(*_ask(queries, answers), **record, **arguments)
    assert back.commands or not back.refusal, "nobody could insist"
    if not back.refusal:
        later = kind.reverse(*_ask(queries, given.get("then", case["answers"])), **record, **arguments)
        assert _is_at_rest(later), "a second way back would change something"
    inputs = {name: given[name] for name in ("answers", "prior", "made", "then") if name in given}
    return {**inputs, **_as_recorded(back)}


@pytest.mark.parametrize("path", OPERATIONS, ids=_name)
def test_an_operation_decides(path: Path) -> None:
    case = _read(path)
    kind = rule(path.parent.name)
    arguments: Case = case["arguments"]
    forth = _decide(kind, arguments, case["answers"])
    assert _is_in_state(forth, path.stem.partition("-")[0]), _as_recorded(forth)
    if forth.commands:
        assert "then" in case or forth.notice, "say what the host answers after the change"
    computed = {"arguments": arguments, "answers": case["answers"], **_as_recorded(forth)}
    if forth.commands:
        computed |= _journal(kind, arguments)
    if "then" in case:
        assert _is_at_rest(_decide(kind, arguments, case["then"])), "a second run would change something"
        computed["then"] = case["then"]
    if "reverse" in case:
        computed["reverse"] = _reversal(kind, case, forth)
    _hold(path, case, computed)


@pytest.mark.parametrize("path", OPERATIONS, ids=_name)
def test_the_commands_of_an_operation_are_plain_sh(path: Path) -> None:
    case = _read(path)
    texts = [
        *case.get("commands", []),
        *case.get("reverse", {}).get("commands", []),
        case.get("snapshot", ""),
        *case.get("measured", {}).values(),
    ]
    _is_shell(path.parent.name.partition(".")[0], "\n".join(texts))


def _rules() -> list[str]:
    modules = {area: f"mxc_ops.prep.rules.{area}" for area in AREAS}
    found = {area: import_module(module) for area, module in modules.items() if find_spec(module)}
    return [f"{area}.{name}" for area, module in found.items() for name in getattr(module, "RULES", ())]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", _rules())
def test_every_operation_has_cases_for_every_state(name: str, state: str) -> None:
    folder = CASES / "operations" / name
    why = folder / f"{state}.why"
    cases = [path for path in folder.glob("*.json") if path.stem.partition("-")[0] == state]
    assert cases or (why.is_file() and why.read_text().strip()), f"no {folder.name}/{state}*.json"
    assert not (cases and why.is_file()), f"{name} has both a case and {state}.why"


@pytest.mark.parametrize("name", _rules())
def test_every_operation_has_a_way_back(name: str) -> None:
    cases = [_read(path) for path in OPERATIONS if path.parent.name == name]
    assert any("reverse" in case for case in cases)
