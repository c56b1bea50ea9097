"""`mxc-ops config`: check, migrate, schema."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import MXC_OPS, Commands, one_shot


def config(caller: Commands, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return caller.run(MXC_OPS, "config", *arguments, **options)


def test_valid_documents_are_told_with_their_version_and_kind(somebody: Commands) -> None:
    first = somebody.config(one_shot(), "first.json")
    second = somebody.config({"version": "1.0.0", "phase": "stop", "sandboxId": "iso:a"}, "second.json")
    done = config(somebody, "check", first, second)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{first}: valid (1.0.0, one-shot)\n{second}: valid (1.0.0, stop)\n"


def test_every_problem_is_told_with_its_place_and_fix(somebody: Commands) -> None:
    bad = somebody.config(one_shot(colour="red", filesystem={"readonlyPath": []}), "bad.json")
    done = config(somebody, "check", bad)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"{bad}: refused\n")
    assert "  error: /colour: " in done.stdout
    assert "  error: /filesystem/readonlyPath: " in done.stdout
    assert "readonlyPaths" in done.stdout


def test_one_bad_document_does_not_hide_the_others(somebody: Commands) -> None:
    good = somebody.config(one_shot(), "good.json")
    done = config(somebody, "check", "missing.json", good, "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["schemaVersion"] == 1
    assert [(file["source"], file["valid"]) for file in answer["files"]] == [
        ("missing.json", False),
        (str(good), True),
    ]
    assert answer["files"][0]["problems"][0]["code"] == "config_not_found"


def test_documents_come_from_standard_input_and_base64(somebody: Commands) -> None:
    text = json.dumps(one_shot())
    encoded = base64.b64encode(text.encode()).decode()
    done = config(somebody, "check", "-", "--base64", encoded, stdin=text)
    assert done.stdout == "-: valid (1.0.0, one-shot)\n--base64: valid (1.0.0, one-shot)\n"


def test_our_extension_is_refused_by_contract_and_named_by_portable(somebody: Commands) -> None:
    path = somebody.config(one_shot(mxcOps={"seccomp": "strict"}), "ours.json")
    assert config(somebody, "check", path).returncode == 0
    strict = config(somebody, "check", "--contract", path)
    assert strict.returncode == 1
    assert "/mxcOps" in strict.stdout
    portable = config(somebody, "check", "--portable", path)
    assert portable.returncode == 0
    assert "warning: /mxcOps/seccomp: " in portable.stdout
    empty = somebody.config(one_shot(mxcOps={}), "empty.json")
    assert "warning: /mxcOps: " in config(somebody, "check", "--portable", empty).stdout


def test_one_shot_refuses_lifecycle_documents(somebody: Commands) -> None:
    path = somebody.config({"version": "1.0.0", "phase": "stop", "sandboxId": "iso:a"}, "phase.json")
    assert config(somebody, "check", path).returncode == 0
    assert config(somebody, "check", "--one-shot", path).returncode == 1


def test_a_published_schema_can_be_the_judge(somebody: Commands, shared_dir: Path) -> None:
    schema = somebody.config((shared_dir / "mxc-schemas/stable" / _STABLE).read_text(), "schema.json")
    good = somebody.config(one_shot() | {"version": "0.8.0-alpha"}, "good.json")
    env = {"process": {"commandLine": "ls", "env": ["TOKEN=hunter2"], "timeout": "hunter2"}}
    bad = somebody.config(one_shot() | {"version": "0.8.0-alpha"} | env, "bad.json")
    assert config(somebody, "check", "--schema", schema, good).returncode == 0
    done = config(somebody, "check", "--schema", schema, bad)
    assert done.returncode == 1
    assert "error: /process/timeout: " in done.stdout
    assert "hunter2" not in done.stdout


_STABLE = "mxc-config.schema.0.8.0-alpha.json"


def test_a_schema_that_points_elsewhere_is_not_followed(somebody: Commands) -> None:
    schema = somebody.config({"$ref": "http://192.0.2.1/schema.json"}, "elsewhere.json")
    done = config(somebody, "check", "--schema", schema, somebody.config(one_shot()))
    assert done.returncode == 64
    assert "--schema" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("check", "--schema", "s.json", "--contract", "c.json"),
        ("migrate", "c.json"),
        ("schema",),
        (),
    ],
)
def test_a_wrong_command_line_is_64(somebody: Commands, arguments: tuple[str, ...]) -> None:
    assert config(somebody, *arguments).returncode == 64


def test_a_document_without_losses_migrates_quietly(somebody: Commands) -> None:
    old = {"version": "0.6.0-alpha", "containment": "bubblewrap", "process": {"commandLine": "ls"}}
    done = config(somebody, "migrate", somebody.config(old), "--to", "1.0.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == one_shot("ls")


def test_losses_are_told_on_stderr_and_by_the_exit_code(somebody: Commands) -> None:
    old = {
        "version": "0.7.0-alpha",
        "containment": "bubblewrap",
        "process": {"commandLine": "ls"},
        "network": {"defaultPolicy": "block", "allowedHosts": ["*.example.org"]},
    }
    new = somebody.folder / "new.json"
    somebody.own(somebody.folder)
    path = somebody.config(old)
    done = config(somebody, "migrate", path, "--to", "1.0.0", "-o", new)
    assert (done.returncode, done.stdout) == (2, "")
    assert "lossy: /network/allowedHosts" in done.stderr
    assert config(somebody, "check", "--contract", new).returncode == 0
    answer = json.loads(config(somebody, "migrate", path, "--to", "1.0.0", "--json").stdout)
    assert answer["document"] == json.loads(new.read_text())
    assert answer["losses"][0]["severity"] == "lossy"


def test_a_version_that_nothing_migrates_to_is_refused(somebody: Commands) -> None:
    done = config(somebody, "migrate", somebody.config(one_shot()), "--to", "0.4.0-alpha")
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected: " in done.stderr


def test_the_schema_of_a_version_accepts_what_the_version_accepts(somebody: Commands) -> None:
    done = config(somebody, "schema", "1.0.0")
    assert done.returncode == 0
    schema = somebody.config(done.stdout, "ours.schema.json")
    assert config(somebody, "check", "--schema", schema, somebody.config(one_shot())).returncode == 0
    assert config(somebody, "schema", "9.9.9").returncode == 1


def test_a_reader_that_leaves_is_no_error(somebody: Commands) -> None:
    child = somebody.start_argv(["sh", "-c", "mxc-ops config schema 1.0.0 | head -n 1"])
    out, err = child.communicate(timeout=30)
    assert (out.strip(), err) == (b"{", b"")


def test_what_is_told_cannot_control_a_terminal(somebody: Commands) -> None:
    path = somebody.config('{"version": "1.0.0", "\\u001b[31mred\\u202e": 1}', "escape.json")
    done = config(somebody, "check", path)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout


def test_a_migrated_document_keeps_letters_and_escapes_what_a_terminal_acts_upon(somebody: Commands) -> None:
    for command, escaped in (("echo ä", False), ("echo \u202eä\x9b", True)):
        path = somebody.config(one_shot(command), "text.json")
        done = config(somebody, "migrate", path, "--to", "1.1.0-alpha")
        assert json.loads(done.stdout)["process"]["commandLine"] == command
        assert done.stdout.isascii() is escaped
