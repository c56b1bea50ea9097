"""`mxc-exec` in place of upstream's executor: the situations of cli-sdk.md §1.1, one by one."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import MXC_EXEC, Commands, one_shot, processes_with, wait_until
from tests.images import image

pytestmark = pytest.mark.backend("bubblewrap")

BUBBLEWRAP_07 = {"version": "0.7.0-alpha", "containment": "bubblewrap"}


def execute(caller: Commands, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return caller.run(MXC_EXEC, *arguments, **options)


def envelope_of(line: str) -> dict[str, Any]:
    answer = json.loads(line)
    assert list(answer) == ["error"]
    return answer["error"]


def test_the_workload_has_our_streams_and_we_have_its_exit_code(caller: Commands) -> None:
    config = caller.config(one_shot("cat; echo oops >&2; exit 7"))
    for _ in ("never seen", "seen before"):
        done = execute(caller, config, stdin="in\n")
        assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "oops\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [("kill -9 $$", 137), ("no-such-program", 127), ("exit 0", 0), ("kill -TERM $$", 143)],
)
def test_exit_codes_are_those_of_the_shell(caller: Commands, command: str, code: int) -> None:
    assert execute(caller, caller.config(one_shot(command))).returncode == code


def test_base64_wins_over_config_which_wins_over_the_argument(caller: Commands) -> None:
    first, second = caller.config(one_shot("echo 1"), "1.json"), caller.config(one_shot("echo 2"), "2.json")
    encoded = base64.b64encode(json.dumps(one_shot("echo 3")).encode()).decode()
    assert execute(caller, first).stdout == "1\n"
    assert execute(caller, first, "--config", second).stdout == "2\n"
    assert execute(caller, first, f"--config={second}", "--config-base64", encoded).stdout == "3\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.json",), "Configuration file not found: missing.json"),
        (("-",), "Configuration file not found: ./-"),
        (("--config-base64", "***"), "Failed to decode base64 configuration"),
        (("--config-base64", "e30"), "Failed to decode base64 configuration"),
        (("--config-base64", "/////w=="), "UTF-8"),
        (("--config-base64", ""), "empty"),
        (("--config-base64", "W10="), "a JSON object"),
    ],
)
def test_what_cannot_be_read_is_a_request_error(
    somebody: Commands, arguments: tuple[str, ...], said: str
) -> None:
    done = execute(somebody, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Request error\nConfiguration parse error: ")
    assert said in done.stderr


def test_an_invalid_document_is_a_request_error_with_every_problem(somebody: Commands) -> None:
    done = execute(somebody, somebody.config(one_shot(colour="red", shape="round")))
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, lines[0]) == (1, "", "Request error")
    assert [line.split(": ")[:2] for line in lines[1:]] == [
        ["Configuration parse error", "/colour"],
        ["Configuration parse error", "/shape"],
    ]


def test_no_config_is_said_in_upstreams_words(somebody: Commands) -> None:
    done = execute(somebody)
    said = "Error: No config provided. Use a positional path, --config, or --config-base64\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize("arguments", [("--bogus",), ("--force",), ("a.json", "b.json"), ("--config",)])
def test_a_wrong_command_line_is_2(somebody: Commands, arguments: tuple[str, ...]) -> None:
    done = execute(somebody, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("network", "pointer"),
    [
        ({"ingress": {"default": "allow"}}, "/network/ingress/default"),
        ({"ingress": {"hostLoopback": "allow"}}, "/network/ingress/hostLoopback"),
    ],
)
def test_a_way_in_without_a_port_is_refused_by_name(
    caller: Commands, network: dict[str, Any], pointer: str
) -> None:
    done = execute(caller, caller.config(one_shot("echo ran", network=network)))
    assert (done.returncode, done.stdout) == (255, "")
    reason, envelope = done.stderr.splitlines()
    error = envelope_of(envelope)
    assert reason.startswith(f"{pointer}: ")
    assert (error["code"], error["message"]) == ("backend_error", reason)


@pytest.mark.parametrize(
    ("field", "value", "pointer"),
    [
        ("network", {"allowLocalNetwork": True}, "/network/allowLocalNetwork"),
        ("network", {"proxy": {"builtinTestServer": True}}, "/network/proxy/builtinTestServer"),
        ("lifecycle", {"preservePolicy": True}, "/lifecycle/preservePolicy"),
    ],
)
def test_what_bubblewrap_cannot_do_is_refused_by_name(
    caller: Commands, field: str, value: dict[str, Any], pointer: str
) -> None:
    body = BUBBLEWRAP_07 | {"process": {"commandLine": "echo ran"}, field: value}
    done = execute(caller, "--allow-testing-features", caller.config(body))
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.startswith(f"{pointer}: ")


@pytest.mark.parametrize(
    "fields",
    [
        {"network": {"defaultPolicy": "block", "blockedHosts": ["192.0.2.1"]}},
        {"ui": {"disable": False, "clipboard": "all", "injection": True}},
        {"lifecycle": {"destroyOnExit": False}},
    ],
)
def test_what_only_permits_or_is_denied_anyway_runs(caller: Commands, fields: dict[str, Any]) -> None:
    done = execute(caller, caller.config(BUBBLEWRAP_07 | {"process": {"commandLine": "echo ran"}} | fields))
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_a_missing_grant_is_refused_before_anything_runs(caller: Commands) -> None:
    body = one_shot("echo ran", filesystem={"readonlyPaths": ["/does/not/exist"]})
    done = execute(caller, caller.config(body))
    assert (done.returncode, done.stdout) == (255, "")
    assert "/filesystem/readonlyPaths/0" in envelope_of(done.stderr.splitlines()[-1])["message"]


def test_a_timeout_is_255_and_the_envelope_alone(caller: Commands) -> None:
    body = one_shot() | {"process": {"commandLine": "sleep 60", "timeout": 200}}
    done = execute(caller, caller.config(body))
    assert (done.returncode, done.stdout) == (255, "")
    (line,) = done.stderr.splitlines()
    assert envelope_of(line) == {"code": "backend_error", "message": "script timed out after 200ms"}


def test_a_containment_of_another_system_is_refused_with_the_log(somebody: Commands) -> None:
    done = execute(somebody, somebody.config(one_shot("ls -l") | {"containment": "processcontainer"}))
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "error: the 'processcontainer' backend is not available on Linux"
    assert "Script code length: 5" in lines


def test_experimental_backends_need_their_flag(somebody: Commands) -> None:
    image("python")
    body = one_shot("print(6 * 7)") | {"version": "1.1.0-alpha", "containment": "microvm"}
    config = somebody.config(body)
    without = execute(somebody, config)
    gate = "error: the 'microvm' backend is experimental; enable experimental features to use it"
    assert (without.returncode, without.stderr.splitlines()[0]) == (1, gate)
    dry = execute(somebody, config, "--experimental", "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[-1]) == (
        0,
        "Dry run completed. Result: validation passed",
    )


def test_a_dry_run_tells_the_log_and_runs_nothing(caller: Commands) -> None:
    process = {"commandLine": "echo ran", "cwd": "/usr", "timeout": 500}
    body = one_shot() | {"process": process, "containerId": "a\nb"}
    done = execute(caller, "--dry-run", caller.config(body))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "Script code length: 8",
        "Working directory: /usr",
        "Script timeout: 500",
        r"Container name: a\nb",
    ]
    assert lines[4].startswith("Runner completed in ")
    assert lines[5:] == ["Dry run completed. Result: validation passed"]


def test_a_dry_run_of_what_would_be_refused_says_why(caller: Commands) -> None:
    body = one_shot(filesystem={"readonlyPaths": ["/does/not/exist"]})
    done = execute(caller, "--dry-run", caller.config(body))
    assert (done.returncode, done.stderr) == (255, "")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("Dry run completed. Result: validation failed: /filesystem/readonlyPaths/0: ")


def test_debug_prints_the_log_as_it_goes(caller: Commands) -> None:
    done = execute(caller, "--debug", caller.config(one_shot("echo ran; exit 3")))
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        "Script code length: 16",
        "Working directory: ",
        "Script timeout: 0",
        "Container name: ",
        "Bubblewrap: spawning bwrap",
    ]
    assert lines[5] == "ran"
    assert lines[7:] == ["Exit code: 3 (0x00000003)"]


def test_the_log_file_is_appended_to_and_names_the_policy(caller: Commands) -> None:
    log = caller.folder / "run.log"
    config = caller.config(one_shot("exit 3"))
    for _ in range(2):
        assert execute(caller, "--log-file", log, config).returncode == 3
    lines = [line.partition("] ") for line in log.read_text().splitlines()]
    assert all(stamp.startswith("[") and stamp[1:].isdigit() for stamp, _, _ in lines)
    texts = [text for _, _, text in lines]
    assert texts.count("Script code length: 6") == texts.count("Exit code: 3 (0x00000003)") == 2
    event = json.loads(next(text for text in texts if text.startswith("{")))
    assert event.pop("policy_hash").startswith("sha256:")
    assert event == {
        "event": "mxc.PolicyHash",
        "backend": "bubblewrap",
        "config_schema_version": "1.0.0",
    }


def test_a_log_file_that_cannot_be_opened_is_only_a_warning(caller: Commands) -> None:
    done = execute(caller, "--log-file", "/does/not/exist", caller.config(one_shot()))
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert done.stderr.startswith("Warning: could not open log file '/does/not/exist': No such file")


def test_a_command_after_two_dashes_replaces_the_documents(caller: Commands) -> None:
    awkward = ["", "a b", "it's", "$HOME", "*", "a;b", "--flag", "naïve"]
    done = execute(caller, caller.config(one_shot("exit 9")), "--", "printf", "%s|", *awkward)
    assert (done.returncode, done.stdout) == (0, "|".join([*awkward, ""]))


def test_a_command_after_two_dashes_replaces_our_args_too(caller: Commands) -> None:
    body = {"version": "1.0.0", "mxcOps": {"args": ["false"], "seccomp": "strict"}}
    assert execute(caller, caller.config(body)).returncode == 1
    assert execute(caller, caller.config(body), "--", "echo", "ran").stdout == "ran\n"


def test_the_environment_is_the_documents_and_nothing_else(caller: Commands) -> None:
    body = one_shot() | {"process": {"commandLine": "env", "env": ["GREETING=a=b c", "PATH=/usr/bin:/bin"]}}
    done = execute(caller, caller.config(body), env={"SECRET_OF_OURS": "hunter2"})
    given = dict(line.split("=", 1) for line in done.stdout.splitlines())
    given.pop("PWD", None)  # the shell's own
    assert given == {"GREETING": "a=b c", "PATH": "/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"phase": "provision", "containment": "vm"}, "malformed_request", "/containment"),
        (
            {"version": "0.8.0-alpha", "phase": "provision", "containment": "windows_sandbox"},
            "unsupported_containment",
            "windows_sandbox",
        ),
        ({"phase": "stop", "sandboxId": "iso:abcd"}, "unsupported_containment", '"iso"'),
        ({"phase": "start", "sandboxId": "nocolon"}, "malformed_id", "nocolon"),
        (
            {"phase": "exec", "sandboxId": "zzz:1", "process": {"commandLine": "ls"}},
            "unsupported_containment",
            "",
        ),
        ({"phase": "exec", "sandboxId": "zzz:1"}, "malformed_request", "/process"),
        ({"phase": "dance", "sandboxId": "zzz:1"}, "malformed_request", "/phase"),
    ],
)
def test_lifecycle_requests_are_answered_with_an_envelope_on_stdout(
    somebody: Commands, body: dict[str, Any], code: str, said: str
) -> None:
    done = execute(somebody, somebody.config({"version": "1.0.0"} | body))
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = done.stdout.splitlines()
    error = envelope_of(line)
    assert error["code"] == code
    assert said in error["message"]


def test_a_command_is_for_one_shot_and_exec_requests_only(somebody: Commands) -> None:
    body = {"version": "1.0.0", "phase": "stop", "sandboxId": "iso:abcd"}
    done = execute(somebody, somebody.config(body), "--", "ls")
    assert (done.returncode, envelope_of(done.stdout)["code"]) == (1, "malformed_request")


def test_containers_to_delete_do_not_exist(somebody: Commands) -> None:
    unnamed = execute(somebody, "--delete")
    named = execute(somebody, "--delete", "--containername", "box")
    assert (unnamed.returncode, unnamed.stderr) == (1, "Error: --containername is required with --delete\n")
    assert (named.returncode, named.stdout) == (1, "Container 'box' does not exist.\n")


@pytest.mark.backend("hyperlight")
def test_hyperlight_is_set_up_by_having_its_images_and_a_template_of_each(caller: Commands) -> None:
    for name in ("base", "python"):
        image(name)
    done = execute(caller, "--setup-hyperlight=python,bash")
    assert (done.returncode, done.stdout) == (0, "python: ready\nbash: ready\n"), done.stderr


@pytest.mark.parametrize("name", ["dotnet-jit", "perl", ""])
def test_a_runtime_that_no_recipe_makes_is_not_set_up(somebody: Commands, name: str) -> None:
    done = execute(somebody, f"--setup-hyperlight=bash,{name}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: no recipe makes the runtime '{name}'; expected: agent, python, ")


def test_the_available_backends_are_json_with_upstreams_keys(caller: Commands) -> None:
    done = execute(caller, "--available-backends")
    assert (done.returncode, done.stderr) == (0, "")
    entries = json.loads(done.stdout)
    assert [entry["backend"] for entry in entries] == [
        *("bubblewrap", "lxc", "microvm", "vm", "hyperlight", "wslc")
    ]
    assert all(set(entry) <= {"backend", "warnings"} for entry in entries)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_us_ends_the_sandbox_then_us(caller: Commands, number: signal.Signals) -> None:
    marker = f"{2000 + int(number)}.25"
    child = caller.start(MXC_EXEC, caller.config(one_shot(f"exec sleep {marker}")))
    wait_until(lambda: processes_with("sleep", marker), "the workload never started")
    child.send_signal(number)
    assert child.wait(timeout=20) == 128 + number
    wait_until(lambda: not processes_with("sleep", marker), "the workload outlived us")
