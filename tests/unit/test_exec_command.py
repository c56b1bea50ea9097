"""``mxc-exec … -- COMMAND``: quoted so that a shell takes it apart into the same arguments."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import ConfigError
from mxc_ops.cli.exec_command import process_line, shell_line, with_command

_ARGUMENT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


def changed(body: object, *command: str) -> Any:
    return json.loads(with_command(json.dumps(body).encode(), command))


@settings(max_examples=50)
@given(st.lists(_ARGUMENT, min_size=1, max_size=5))
def test_a_shell_takes_the_line_apart_into_the_arguments(arguments: list[str]) -> None:
    line = f"printf '%s\\0' {shell_line(arguments)}"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode() == "".join(f"{argument}\0" for argument in arguments)


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("plain_@%+=:,./-09AZ", "plain_@%+=:,./-09AZ"),
        ("", "''"),
        ("a b", "'a b'"),
        ("~", "'~'"),
        ("é", "'é'"),
        ("a\nb", "'a\nb'"),
    ],
)
def test_only_harmless_characters_go_unquoted(argument: str, quoted: str) -> None:
    assert shell_line([argument]) == quoted


def test_the_command_replaces_the_documents_own_and_our_args() -> None:
    body = {"process": {"commandLine": "old", "cwd": "/usr"}, "mxcOps": {"args": ["old"], "tty": True}}
    assert changed(body, "new", "a b") == {
        "process": {"commandLine": "new 'a b'", "cwd": "/usr"},
        "mxcOps": {"tty": True},
    }


def test_a_document_without_a_process_gets_one() -> None:
    assert changed({"version": "1.0.0"}, "ls") == {"version": "1.0.0", "process": {"commandLine": "ls"}}


@pytest.mark.parametrize("phase", ["provision", "start", "stop", "deprovision", 1])
def test_lifecycle_requests_other_than_exec_take_no_command(phase: object) -> None:
    with pytest.raises(ConfigError, match="one-shot and exec requests only"):
        changed({"phase": phase}, "ls")


def test_an_exec_request_takes_one() -> None:
    assert changed({"phase": "exec"}, "ls")["process"] == {"commandLine": "ls"}


def test_a_machine_that_runs_already_gets_arguments_whatever_it_takes_lines_for() -> None:
    request = {"phase": "exec", "sandboxId": "vm:0"}
    said = {"process": {"commandLine": "old", "cwd": "/usr"}, "mxcOps": {"tty": True}}
    told = {"process": {"cwd": "/usr"}, "mxcOps": {"tty": True, "args": ["new", "a b"]}}
    assert changed({**request, **said}, "new", "a b") == {**request, **told}
    assert changed(request, "ls") == {**request, "process": {}, "mxcOps": {"args": ["ls"]}}


def test_a_nul_cannot_be_passed() -> None:
    with pytest.raises(ConfigError, match="must not contain null bytes"):
        changed({}, "a\0b")


@pytest.mark.parametrize(
    "body",
    [
        [],
        "text",
        {"process": 1},
        {"mxcOps": 1, "process": 2},
        {"phase": "exec", "sandboxId": 5},
        {"phase": "exec", "sandboxId": "vm:", "mxcOps": 1, "process": 2},
    ],
)
def test_what_is_wrong_otherwise_is_left_for_the_loader(body: object) -> None:
    changed(body, "ls")


def test_arguments_of_a_machine_stay_arguments() -> None:
    body = {"containment": "microvm", "mxcOps": {"args": ["old"], "tty": True}}
    assert changed(body, "new", "a b") == {**body, "mxcOps": {"args": ["new", "a b"], "tty": True}}
    ours = {"vm": {"command": "args"}, "args": ["old"]}
    assert changed({"mxcOps": ours}, "new") == {"mxcOps": {**ours, "args": ["new"]}}


@pytest.mark.parametrize(
    ("ours", "line"), [({}, 'print(1) "x \'y"'), ({"vm": {"command": "shell"}}, "'print(1)' 'x '\\''y'")]
)
def test_the_command_of_a_microvm_is_quoted_as_for_windows_unless_a_shell_takes_it(
    ours: dict[str, Any], line: str
) -> None:
    body = {"containment": "microvm", "mxcOps": ours}
    assert changed(body, "print(1)", "x 'y")["process"]["commandLine"] == line


@pytest.mark.parametrize("containment", ["vm", "microvm"])
@pytest.mark.parametrize("kind", ["python", "node"])
def test_source_is_handed_on_as_it_is(containment: str, kind: str) -> None:
    body = {"containment": containment, "mxcOps": {"vm": {"command": kind}}}
    assert changed(body, "print(1, 'a b')")["process"]["commandLine"] == "print(1, 'a b')"
    assert changed(body, "import", "os")["process"]["commandLine"] == "import os"


def _taken_apart(line: str) -> list[str]:
    """The rules of Microsoft's C runtime for arguments: 2n backslashes and a quote are n and a quote mark."""
    arguments: list[str] = []
    current, quoted, begun, place = "", False, False, 0
    while place < len(line):
        after = place
        while line[after : after + 1] == "\\":
            after += 1
        backslashes, place = after - place, after
        character = line[place : place + 1]
        if character == '"':
            current += "\\" * (backslashes // 2)
            if backslashes % 2:
                current += '"'
            else:
                quoted = not quoted
            begun = True
        else:
            current += "\\" * backslashes
            begun = begun or backslashes > 0
            if character in (" ", "\t") and not quoted:
                if begun:
                    arguments.append(current)
                current, begun = "", False
            elif character:
                current, begun = current + character, True
        place += 1
    return [*arguments, current] if begun else arguments


@given(st.lists(st.text('ab \\"\t\n', max_size=8), min_size=1, max_size=4))
def test_a_windows_program_takes_the_line_apart_into_the_arguments(arguments: list[str]) -> None:
    assert _taken_apart(process_line(arguments)) == arguments
