"""``mxc-exec … -- COMMAND``: quoted so that a shell takes it apart into the same arguments."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import ConfigError
from mxc_ops.cli.exec_command import shell_line, with_command

_ARGUMENT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


def changed(body: object, *command: str) -> Any:
    return json.loads(with_command(json.dumps(body).encode(), command))


@settings(max_examples=50, deadline=None)
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


def test_a_nul_cannot_be_passed() -> None:
    with pytest.raises(ConfigError, match="must not contain null bytes"):
        changed({}, "a\0b")


@pytest.mark.parametrize("body", [[], "text", {"process": 1}, {"mxcOps": 1, "process": 2}])
def test_what_is_wrong_otherwise_is_left_for_the_loader(body: object) -> None:
    changed(body, "ls")
