"""`mxc-ops` itself, `backends`, `doctor` and `prep host` as commands."""

from __future__ import annotations

import json
import os
import pty

import pytest

from backends.registry import CONTAINMENTS
from tests.e2e.commands import MXC_EXEC, MXC_OPS, Commands

ESCAPE = "\x1b"


def on_a_terminal(caller: Commands, program: str, *arguments: str) -> tuple[int, str]:
    """Exit code and what a terminal of 120 columns was sent."""
    ours, theirs = pty.openpty()
    child = caller.start(
        program, *arguments, stdout=theirs, stderr=theirs, env={"COLUMNS": "120", "TERM": "xterm"}
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # EIO: the last writer is gone (pty(7))
            break
        seen += part
    os.close(ours)
    return child.wait(timeout=60), seen.decode()


def test_the_help_lists_every_group(somebody: Commands) -> None:
    done = somebody.run(MXC_OPS, "--help")
    assert done.returncode == 0
    assert all(
        f"\n    {name} " in done.stdout for name in ("run", "plan", "config", "backends", "doctor", "prep")
    )


def test_the_version_is_told(somebody: Commands) -> None:
    from mxc_ops import __version__

    assert somebody.run(MXC_OPS, "--version").stdout == f"mxc-ops {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("bogus",), ("--bogus",), ("prep",), ("doctor", "extra")])
def test_a_wrong_command_line_is_64(somebody: Commands, arguments: tuple[str, ...]) -> None:
    done = somebody.run(MXC_OPS, *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert "usage: mxc-ops" in done.stderr


@pytest.mark.parametrize("arguments", [("backends",), ("config", "check", "--base64", "e30="), ("doctor",)])
def test_nothing_colours_a_pipe(somebody: Commands, arguments: tuple[str, ...]) -> None:
    done = somebody.run(MXC_OPS, *arguments, env={"TERM": "xterm-256color", "COLORTERM": "truecolor"})
    assert ESCAPE not in done.stdout + done.stderr


@pytest.mark.backend("bubblewrap")
def test_every_containment_is_listed_with_the_reason_why_not(caller: Commands) -> None:
    answer = json.loads(caller.run(MXC_OPS, "backends", "--json").stdout)
    assert answer["schemaVersion"] == 1
    found = {entry["containment"]: entry for entry in answer["backends"]}
    assert set(found) == set(CONTAINMENTS)
    assert found["bubblewrap"]["available"]
    assert all(entry["available"] or entry["why"] for entry in found.values())


@pytest.mark.backend("bubblewrap")
def test_people_get_a_table_on_a_terminal(somebody: Commands) -> None:
    code, seen = on_a_terminal(somebody, MXC_OPS, "backends")
    assert code == 0
    assert "bubblewrap" in seen
    assert "─" in seen


@pytest.mark.backend("bubblewrap")
def test_the_doctor_says_ready_where_sandboxes_run(caller: Commands) -> None:
    done = caller.run(MXC_OPS, "doctor", "--backend", "bubblewrap", "--json")
    answer = json.loads(done.stdout)
    assert answer["exitCode"] == done.returncode
    assert done.returncode in (0, 2), done.stdout
    assert not [probe for probe in answer["probes"] if probe["health"] == "failed"]


def test_the_doctor_cannot_examine_what_is_not_there(somebody: Commands) -> None:
    done = somebody.run(MXC_OPS, "doctor", "--backend", "windows_sandbox")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'windows_sandbox'" in done.stderr


def test_prep_says_what_it_lacks_itself(somebody: Commands) -> None:
    done = somebody.run(MXC_OPS, "prep", "host", "--backend", "bubblewrap", "--json")
    assert done.returncode == 1
    problem = json.loads(done.stdout)["error"]["problems"][0]
    assert problem["code"] == "prep_not_installed"
    assert problem["fix"]


def test_the_help_of_mxc_exec_is_no_error(somebody: Commands) -> None:
    done = somebody.run(MXC_EXEC, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: mxc-exec [OPTIONS] [CONFIG_PATH] [-- COMMAND...]" in done.stdout


@pytest.mark.backend("bubblewrap")
def test_a_terminal_is_the_workloads_when_asked_for(caller: Commands) -> None:
    code, seen = on_a_terminal(
        caller, MXC_OPS, "run", "--tty", "--", "sh", "-c", "test -t 1 && echo a terminal"
    )
    assert (code, seen.strip()) == (0, "a terminal")


COMMANDS = (
    *("run", "plan", "config check", "config migrate", "config schema", "backends", "doctor"),
    *("prep host", "prep verify", "prep undo", "prep needs"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json(somebody: Commands, command: str) -> None:
    assert "--json" in somebody.run(MXC_OPS, *command.split(), "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("host", "--parallel", "-1"),
        ("host", "--fail-percent", "101"),
        ("host", "--wait", "soon"),
        ("host", "--launcher", "steal"),
        ("host", "--force"),
        ("verify", "--yes"),
        ("undo", "--backend", "bubblewrap"),
    ],
)
def test_what_prep_cannot_mean_is_64(somebody: Commands, arguments: tuple[str, ...]) -> None:
    done = somebody.run(MXC_OPS, "prep", *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert "usage: mxc-ops" in done.stderr


def test_a_backend_that_cannot_be_prepared_is_told_before_anything_else(somebody: Commands) -> None:
    done = somebody.run(MXC_OPS, "prep", "host", "--backend", "seatbelt", "--json")
    assert done.returncode == 1
    problem = json.loads(done.stdout)["error"]["problems"][0]
    assert problem["code"] == "containment_not_available"
    assert "bubblewrap" in problem["expected"]


@pytest.mark.parametrize("command", [("prep", "host"), ("doctor",)])
def test_a_feature_that_nobody_knows_is_told_with_those_that_are(
    somebody: Commands, command: tuple[str, ...]
) -> None:
    done = somebody.run(MXC_OPS, *command, "--feature", "teleport")
    assert (done.returncode, done.stdout) == (64, "")
    assert "'teleport'" in done.stderr and "network" in done.stderr


def test_prep_names_what_each_backend_needs(somebody: Commands) -> None:
    told = json.loads(somebody.run(MXC_OPS, "prep", "needs", "--backend", "bubblewrap", "--json").stdout)
    items = {row["item"] for row in told["needs"]}
    assert {"bubblewrap.package.bwrap", "bubblewrap.ids.workloads"} <= items
    assert all(name.startswith("bubblewrap.") for name in items)
