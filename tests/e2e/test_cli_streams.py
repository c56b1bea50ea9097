"""Standard streams that are closed or full: an answer or an error, never a traceback."""

from __future__ import annotations

import json

import pytest

from tests.e2e.commands import DEADLINE_S, MXC_EXEC, MXC_OPS, Commands, one_shot

COMMANDS = (
    (MXC_OPS, "config check FILE"),
    (MXC_OPS, "config schema 1.0.0"),
    (MXC_OPS, "plan FILE"),
    (MXC_OPS, "backends"),
    (MXC_OPS, "--version"),
    (MXC_OPS, "--help"),
    (MXC_EXEC, "--dry-run FILE"),
    (MXC_EXEC, "--help"),
)


def shell(caller: Commands, program: str, arguments: str, redirection: str) -> tuple[int, str, str]:
    """Run one command under a shell that redirects its streams."""
    path = caller.config(one_shot())
    line = f'exec "$0" {arguments.replace("FILE", str(path))} {redirection}'
    child = caller.start_argv(["sh", "-c", line, caller.program(program)])
    out, err = child.communicate(timeout=DEADLINE_S)
    return child.returncode, out.decode(), err.decode()


@pytest.mark.backend("bubblewrap")
@pytest.mark.parametrize(("program", "arguments"), COMMANDS)
def test_a_closed_standard_output_loses_the_answer_only(
    somebody: Commands, program: str, arguments: str
) -> None:
    assert shell(somebody, program, arguments, ">&-") == (0, "", "")


@pytest.mark.backend("bubblewrap")
@pytest.mark.parametrize(("program", "arguments"), COMMANDS)
def test_a_full_standard_output_is_an_error(somebody: Commands, program: str, arguments: str) -> None:
    said = f"{program}: error: standard output cannot be written: No space left on device\n"
    assert shell(somebody, program, arguments, ">/dev/full") == (1, "", said)


def test_a_closed_standard_input_is_an_empty_document(somebody: Commands) -> None:
    code, out, err = shell(somebody, MXC_OPS, "config check -", "<&-")
    assert (code, err) == (1, "")
    assert out.startswith("-: refused\n  error: the document is empty\n")


def test_a_closed_standard_error_moves_no_message_to_standard_output(somebody: Commands) -> None:
    assert shell(somebody, MXC_OPS, "plan missing.json", "2>&-") == (125, "", "")


@pytest.mark.backend("bubblewrap")
def test_remarks_that_nobody_can_read_change_nothing(somebody: Commands) -> None:
    warned = somebody.config(one_shot("exit 3", ui={"disable": False}), "warned.json")
    result = somebody.folder / "result.json"
    code, _, _ = shell(somebody, MXC_OPS, f"run --result-file {result} {warned}", "2>/dev/full")
    assert code == 3
    assert json.loads(result.read_text())["exitCode"] == 3
    assert shell(somebody, MXC_OPS, f"run --json {warned}", "2>/dev/full") == (3, "", "")
    assert shell(somebody, MXC_OPS, "plan missing.json", "2>/dev/full") == (125, "", "")
    assert shell(somebody, MXC_EXEC, "missing.json", "2>/dev/full") == (1, "", "")
    late = somebody.config(one_shot(process={"commandLine": "sleep 9", "timeout": 100}), "late.json")
    assert shell(somebody, MXC_EXEC, str(late), "2>/dev/full") == (255, "", "")
