"""Scripts for PowerShell as text: literals, the way through sshd, its errors, what the shell puts together.

No PowerShell runs here. A grammar checks that what we write can be parsed, and literals are read back by
a reader of our own, which follows PowerShell's language specification (2.3.5.2.1).
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxc_ops.prep import receipts
from mxc_ops.prep.receipts import Receipt
from mxc_ops.prep.shells import HELD_BY_ANOTHER, Change
from mxc_ops.prep.shells.powershell import SHELL
from mxc_ops.prep.windows import clixml
from mxc_ops.prep.windows.encoding import LONGEST_LINE, invocation
from mxc_ops.prep.windows.script import headed, native, printed, quote, readable
from tests.unit.powershell_grammar import errors

QUOTES = "'\u2018\u2019\u201a\u201b"
_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def _literal(text: str) -> str:
    """The value of a single-quoted literal: any kind of single quote ends it, two of them are one."""
    assert text[0] in QUOTES
    value, place = "", 1
    while place < len(text):
        if text[place] in QUOTES:
            if place + 1 == len(text):
                return value
            assert text[place + 1] in QUOTES, "the literal ends before its end"
            place += 1
        value += text[place]
        place += 1
    raise AssertionError("the literal does not end")


@given(st.one_of(_texts, st.text(QUOTES + '$`"\n;)', max_size=20)))
def test_a_text_is_the_value_of_its_literal(text: str) -> None:
    assert _literal(quote(text)) == text


@given(_texts)
def test_a_literal_is_one_to_the_grammar(text: str) -> None:
    assert errors(f"$x={quote(text)}\n") == []


def test_a_text_that_no_literal_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote("a\0b")


@pytest.mark.parametrize("script", ["if(1){", "'open", "try{1", "@{a=1", "1 | | 2", "foreach($x in 1"])
def test_the_grammar_notices_what_is_no_powershell(script: str) -> None:
    assert errors(script)


# --- the way through sshd


@given(_texts)
def test_a_script_arrives_as_it_was_sent(script: str) -> None:
    sent = invocation(script)
    assert len(sent.line) <= LONGEST_LINE
    assert re.fullmatch(r"[\x20-\x7e]+", sent.line)
    assert not set(sent.line) & set("\"'%^&|<>`$")
    arrived = (
        b64decode(sent.stdin).decode() if sent.stdin else b64decode(sent.line.split()[-1]).decode("utf-16-le")
    )
    assert arrived.endswith(script)


@pytest.mark.parametrize("length", [0, 1000, 2500, 3000, 50_000])
def test_only_what_does_not_fit_into_a_line_is_sent_as_input(length: int) -> None:
    sent = invocation("#" * length)
    assert bool(sent.stdin) == (length >= 3000)
    assert len(sent.line) <= LONGEST_LINE


def test_what_reads_a_script_from_its_input_is_powershell() -> None:
    line = invocation("#" * 50_000).line
    assert errors(b64decode(line.split()[-1]).decode("utf-16-le")) == []


# --- errors


CUT_OFF = (
    '#< CLIXML\n<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
    '<S S="Error">no such file_x000D__x000A_</S><S S="Error">At line'
)
OF_WINDOWS = (
    '#< CLIXML\n<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
    '<Obj S="progress" RefId="0"><TN RefId="0"><T>System.Management.Automation.PSCustomObject</T></TN><MS>'
    '<I64 N="SourceId">1</I64><PR N="Record"><AV>Preparing modules for first use.</AV></PR></MS></Obj>'
    "<S S=\"Error\">Get-Item : Cannot find path 'C:\\&lt;nowhere&gt;' because it _x000D__x000A_</S>"
    '<S S="Error">does not exist._x000D__x000A_</S><S S="Error">At line:1 char:1_x000D__x000A_</S>'
    '<S S="verbose">not this</S><S S="Error"> _x000D__x000A_</S></Objs>'
)


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (
            OF_WINDOWS,
            ["Get-Item : Cannot find path 'C:\\<nowhere>' because it", "does not exist.", "At line:1 char:1"],
        ),
        (CUT_OFF, ["no such file", "At line"]),
        (
            f"plain first\n{OF_WINDOWS}\nplain last",
            ["plain first", "Get-Item : ", "does", "At", "plain last"],
        ),
        (
            'nothing but text\n\n<S S="Error">as it is</S>',
            ["nothing but text", "", '<S S="Error">as it is</S>'],
        ),
        ("", [""]),
        (CUT_OFF.replace("no such file", "_x001B_[31;1mred_x001B_[0m"), ["red", "At line"]),
        (
            CUT_OFF.replace("no such file", "_xD83D__xDE00_ _x005F_x000D_ &amp;amp;"),
            ["\U0001f600 _x000D_ &amp;", "At"],
        ),
        (CUT_OFF.replace("no such file", "_xD83D_ half"), ["\ufffd half", "At line"]),
        (CUT_OFF.replace('S="Error">no', 'S="Warning">no'), ["no such file", "At line"]),
    ],
)
def test_messages_are_what_is_left_of_clixml(lines: str, messages: list[str]) -> None:
    decoded = clixml.decoded(lines.split("\n"))
    assert len(decoded) == len(messages)
    for line, beginning in zip(decoded, messages, strict=True):
        assert line.startswith(beginning)


# --- what the shell puts together

RECEIPT = Receipt(
    "a.b-c",
    "windows.feature",
    {"feature": "it's \u2018quoted\u2019"},
    {"state": "Disabled"},
    {"enabled": ["earlier", "it's"], "other": 1},
    by="eve@here, process 7",
)
CHANGE = Change(RECEIPT, ("first", "second"), "a snapshot", {"enabled": "a measure"}, deadline_s=77)


@pytest.mark.parametrize(
    "script",
    [
        SHELL.survey([], 5),
        SHELL.survey([readable(printed("1")), headed("x", "1", a="b")], 5),
        SHELL.change(CHANGE),
        SHELL.change(replace(CHANGE, commands=(), snapshot="", measured={})),
        SHELL.change(replace(CHANGE, receipt=replace(RECEIPT, item=""))),
        SHELL.reversal(CHANGE),
        SHELL.hold("it's me", 0),
        SHELL.holder(),
        native("x.exe -a 'b'"),
    ],
)
def test_everything_is_powershell(script: str) -> None:
    assert errors(script) == []


def test_a_survey_is_parted_as_it_was_asked() -> None:
    asked = SHELL.survey(["one", "two", "three"], 5)
    marks = re.findall(r"WriteLine\('(=== .*?)'\)", asked)
    assert len(marks) == 3
    output = ["{}", marks[0], marks[1], "a", "", "b", marks[2]]
    assert SHELL.answers(output, 3) == [["{}"], [], ["a", "", "b"]]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_survey_that_was_cut_off_is_no_answer(kept: int) -> None:
    marks = [f"=== mxc-ops survey {number}" for number in range(kept)]
    with pytest.raises(ValueError, match=f"answered {kept} of 3"):
        SHELL.answers(marks, 3)


def _saved(script: str, *outcomes: str) -> list[str]:
    """What is saved as receipts, with times, outcomes and what is measured filled in as PowerShell would."""
    values = {"time": "2026-11-25T01:02:03Z", "measured_enabled": '["earlier","it\'s","new"]'}
    outcome = iter(outcomes)
    texts: list[str] = []
    for expression in re.findall(r"^Save-Receipt \((.*)\)$", script, re.MULTILINE):
        words = re.findall(r"(')((?:[^'\u2018\u2019]|''|\u2018\u2018|\u2019\u2019)*)'|\$(\w+)", expression)
        values["outcome"] = next(outcome)
        texts.append("".join(values[name] if name else _literal(f"'{word}'") for _, word, name in words))
    return texts


def test_a_receipt_is_pending_before_the_commands_and_complete_or_failed_after_them() -> None:
    script = SHELL.change(CHANGE)
    assert re.findall(r"^\$outcome=(.*)$", script, re.MULTILINE) == [
        "'pending'",
        "if($failure){'failed'}else{'complete'}",
    ]
    assert script.rindex("if($failure){throw $failure}") > script.rindex("Save-Receipt (")
    pending, complete = (receipts.decode(text) for text in _saved(script, "pending", "complete"))
    assert pending == replace(RECEIPT, state="pending", at="2026-11-25T01:02:03Z")
    made = {"enabled": ["earlier", "it's", "new"], "other": 1}
    assert complete == replace(RECEIPT, made=made, at="2026-11-25T01:02:03Z")
    order = ["\nSave-Receipt (", "a snapshot", "\nfirst\n", "\nsecond\n", "a measure", "Save-Receipt ("]
    places = [script.index(order[0])]
    for part in order[1:]:
        places.append(script.index(part, places[-1] + 1))
    assert places == sorted(places)


def test_without_an_item_nothing_is_recorded() -> None:
    script = SHELL.change(replace(CHANGE, receipt=replace(RECEIPT, item="")))
    assert "\nfirst\n" in script
    assert "receipt" not in script


def test_each_command_has_its_own_time() -> None:
    assert SHELL.change(CHANGE).count("Limit-Time 77") == len(CHANGE.commands)
    assert SHELL.reversal(CHANGE).count("Limit-Time 77") == len(CHANGE.commands)


def test_a_way_back_removes_the_receipt_after_the_commands() -> None:
    script = SHELL.reversal(CHANGE)
    assert script.index("\nsecond\n") < script.index('in "$receipt.json"')


def test_the_lock_leaves_its_standard_input_free() -> None:
    # It ends when its input ends; a script that does not fit into a line would be that input.
    script = SHELL.hold("x" * 200 + "@" + "y" * 64, 3600)
    assert invocation(script).stdin == ""
    assert f"[Environment]::Exit({HELD_BY_ANOTHER})" in script


def test_every_script_says_what_it_is_for() -> None:
    scripts = [
        SHELL.survey(["x"], 5),
        SHELL.change(CHANGE),
        SHELL.reversal(CHANGE),
        SHELL.hold("me", 1),
        SHELL.holder(),
    ]
    for script in scripts:
        first = re.match(r"# mxc:([a-z-]+) (\{.*\})\n", script)
        assert first
        json.loads(first.group(2))


@pytest.mark.parametrize("elevation", ["none", "root", "sudo", "sudo-password"])
def test_nobody_becomes_an_administrator_on_the_way(elevation: str) -> None:
    assert SHELL.elevated("a script", "administrator") == "a script"
    with pytest.raises(ValueError, match="administrator"):
        SHELL.elevated("a script", elevation)
