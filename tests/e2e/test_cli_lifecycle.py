"""Lifecycle documents through `mxc-exec` and `mxc-ops`: the wire of lifecycle.md, on real sandboxes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import User
from tests.e2e.commands import DEADLINE_S, MXC_EXEC, MXC_OPS, Commands, wait_until
from tests.images import image

PREFIXES = {"bubblewrap": "bwrap", "lxc": "lxc", "vm": "vm"}
NOBODYS = "0123456789abcdef" * 2
Done = subprocess.CompletedProcess[str]


class Client:
    """One caller who drives sandboxes of one containment by documents."""

    def __init__(self, caller: Commands, containment: str) -> None:
        self.caller = caller
        self.containment = containment
        self.made: list[str] = []

    def ask(self, body: Mapping[str, Any], *flags: str, program: str = MXC_EXEC, **options: Any) -> Done:
        config = self.caller.config({"version": "1.1.0-alpha", **body})
        group = ["run"] if program == MXC_OPS else []
        return self.caller.run(program, *group, *flags, config, **options)

    def provision(self, *, program: str = MXC_EXEC, **fields: Any) -> str:
        done = self.ask({"phase": "provision", "containment": self.containment, **fields}, program=program)
        result = result_of(done)
        assert set(result) == {"sandboxId"}
        self.made.append(result["sandboxId"])
        return result["sandboxId"]

    def phase(self, phase: str, identifier: str, *, program: str = MXC_EXEC, **fields: Any) -> Done:
        return self.ask({"phase": phase, "sandboxId": identifier, **fields}, program=program)

    def run(self, identifier: str, command: str, **fields: Any) -> Done:
        process = {"commandLine": command, **fields.pop("process", {})}
        stdin = fields.pop("stdin", None)
        return self.ask({"phase": "exec", "sandboxId": identifier, "process": process, **fields}, stdin=stdin)

    def close(self) -> None:
        for identifier in self.made:
            done = self.phase("deprovision", identifier)
            assert done.returncode == 0 or error_of(done)["code"] == "stale_id"


def result_of(done: Done) -> dict[str, Any]:
    """What an envelope answers, alone on standard output."""
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert list(answer) == ["result"]
    return answer["result"]


def error_of(done: Done) -> dict[str, Any]:
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert list(answer) == ["error"]
    assert {"code", "message"} <= set(answer["error"]) <= {"code", "message", "remediation"}
    return answer["error"]


def command_of(identifier: str, command: str, **process: Any) -> dict[str, Any]:
    """An exec request."""
    process = {"commandLine": command, **process}
    return {"version": "1.0.0", "phase": "exec", "sandboxId": identifier, "process": process}


def _client(name: str, containment: str, as_user: User) -> Iterator[Client]:
    if name == "root" and os.geteuid() != 0:
        pytest.skip("only root can call as root")
    if containment != "bubblewrap":
        image("base")
    client = Client(Commands(name, as_user), containment)
    try:
        yield client
    finally:
        client.close()
        shutil.rmtree(client.caller.folder, ignore_errors=True)


ON_BUBBLEWRAP, ON_LXC = pytest.mark.backend("bubblewrap"), pytest.mark.backend("lxc")
CLIENTS = [
    pytest.param(("user", "bubblewrap"), id="bubblewrap-user", marks=ON_BUBBLEWRAP),
    pytest.param(("root", "bubblewrap"), id="bubblewrap-root", marks=ON_BUBBLEWRAP),
    pytest.param(("root", "lxc"), id="lxc", marks=ON_LXC),
    pytest.param(("user", "lxc"), id="lxc-user", marks=ON_LXC),
    pytest.param(("root", "vm"), id="vm", marks=pytest.mark.backend("vm")),
]


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, as_user: User) -> Iterator[Client]:
    name, containment = request.param
    yield from _client(name, containment, as_user)


@pytest.fixture(scope="module")
def running(client: Client) -> str:
    """A sandbox that runs."""
    identifier = client.provision(containerId="box")
    assert result_of(client.phase("start", identifier)) == {}
    return identifier


def test_a_whole_life(client: Client) -> None:
    identifier = client.provision()
    prefix = PREFIXES[client.containment]
    assert re.fullmatch(rf"{prefix}:[0-9a-f]{{32}}", identifier)
    assert error_of(client.run(identifier, "true"))["code"] == "not_started"
    assert error_of(client.phase("stop", identifier))["code"] == "already_stopped"
    for _ in range(2):
        assert result_of(client.phase("start", identifier)) == {}
        assert error_of(client.phase("start", identifier))["code"] == "already_started"
        assert client.run(identifier, "echo kept > /tmp/note").returncode == 0
        done = client.run(identifier, "cat /tmp/note -; echo oops >&2; exit 7", stdin="in\n")
        assert (done.returncode, done.stdout, done.stderr) == (7, "kept\nin\n", "oops\n")
        assert result_of(client.phase("stop", identifier)) == {}
    assert result_of(client.phase("start", identifier)) == {}
    assert result_of(client.phase("deprovision", identifier)) == {}  # which stops it first
    for phase in ("start", "stop", "deprovision"):
        assert error_of(client.phase(phase, identifier))["code"] == "stale_id"
    assert error_of(client.run(identifier, "true"))["code"] == "stale_id"


def test_mxc_ops_run_speaks_the_same(client: Client) -> None:
    identifier = client.provision(program=MXC_OPS)
    assert error_of(client.phase("stop", identifier, program=MXC_OPS))["code"] == "already_stopped"
    assert result_of(client.phase("start", identifier, program=MXC_OPS)) == {}
    done = client.ask(command_of(identifier, "echo ran; exit 9"), program=MXC_OPS)
    assert (done.returncode, done.stdout, done.stderr) == (9, "ran\n", "")
    slow = command_of(identifier, "echo ran; exec sleep 60", timeout=300)
    done = client.ask(slow, "--json", program=MXC_OPS)
    assert (done.returncode, done.stdout) == (124, "ran\n")
    assert json.loads(done.stderr)["outcome"] == "timed out"
    foreign: dict[str, Any] = {**command_of(identifier, "echo ran"), "ui": {}}
    assert error_of(client.ask(foreign, program=MXC_OPS))["code"] == "malformed_request"
    assert result_of(client.phase("deprovision", identifier, program=MXC_OPS)) == {}


@pytest.mark.parametrize("flags", [("--result-file=x",), ("--accel", "tcg")])
def test_mxc_ops_run_has_no_flags_for_what_runs_nothing(somebody: Commands, flags: tuple[str, ...]) -> None:
    body = {"phase": "stop", "sandboxId": f"bwrap:{NOBODYS}"}
    done = Client(somebody, "bubblewrap").ask(body, *flags, program=MXC_OPS)
    assert (done.returncode, done.stdout) == (64, "")


# --- exec ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 255", 255), ("kill -9 $$", 137), ("no-such-program", 127)],
)
def test_a_command_ends_us_as_it_ended(client: Client, running: str, command: str, code: int) -> None:
    done = client.run(running, command)
    assert (done.returncode, done.stdout) == (code, "")


def test_what_looks_like_an_error_is_the_commands_own_output(client: Client, running: str) -> None:
    lie = '{"error":{"code":"stale_id","message":"not true"}}'
    done = client.run(running, f"printf %s '{lie}'; exit 1")
    assert (done.returncode, done.stdout, done.stderr) == (1, lie, "")


def test_output_is_raw(client: Client, running: str) -> None:
    config = client.caller.config(command_of(running, r"printf '\377\0\r\n'"))
    child = client.caller.start(MXC_EXEC, config)
    out, err = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, out, err) == (0, b"\xff\0\r\n", b"")


def test_a_command_has_its_own_directory_and_exactly_its_variables(client: Client, running: str) -> None:
    show = "pwd; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort"
    done = client.run(running, show, process={"cwd": "/usr", "env": ["GREETING=a=b c", "PATH=/usr/bin:/bin"]})
    assert done.stdout == "/usr\nGREETING=a=b c\nPATH=/usr/bin:/bin\n"
    more = client.run(running, show, process={"env": ["A=1"], "inheritDefaultEnv": True})
    own = client.run(running, show)
    assert own.stdout.startswith("/\nPATH=")
    assert sorted(more.stdout.splitlines()) == sorted([*own.stdout.splitlines(), "A=1"])


def test_arguments_need_no_shell(client: Client, running: str) -> None:
    body = {"phase": "exec", "sandboxId": running, "mxcOps": {"args": ["printf", "%s|", "a b", "$HOME"]}}
    assert client.ask(body).stdout == "a b|$HOME|"


def test_a_command_after_two_dashes_replaces_the_documents(client: Client, running: str) -> None:
    config = client.caller.config(command_of(running, "exit 9", cwd="/usr"))
    done = client.caller.run(MXC_EXEC, config, "--", "sh", "-c", 'pwd; printf "%s|" "$@"', "sh", "a  b", "*")
    assert (done.returncode, done.stdout) == (0, "/usr\na  b|*|")


def test_a_timeout_is_255_as_for_a_one_shot_and_the_sandbox_stays(client: Client, running: str) -> None:
    done = client.run(running, "echo before; exec sleep 60", process={"timeout": 300})
    assert (done.returncode, done.stdout) == (255, "before\n")
    (line,) = done.stderr.splitlines()
    message = "script timed out after 300ms"
    assert json.loads(line) == {"error": {"code": "backend_error", "message": message}}
    assert client.run(running, "echo still here").stdout == "still here\n"


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"process": {"cwd": "/no/such/folder"}}, "policy_validation", "/process/cwd"),
        ({"process": {"commandLine": "x" * 200_000}}, "malformed_request", "/process/commandLine"),
        ({"network": {}}, "policy_validation", "/network"),
        ({"filesystem": {"readwritePaths": ["/"]}}, "malformed_request", "/filesystem"),
    ],
)
def test_what_never_ran_is_an_envelope(
    client: Client, running: str, fields: dict[str, Any], code: str, said: str
) -> None:
    done = client.run(running, "echo ran", **fields)
    error = error_of(done)
    assert (error["code"], done.stderr) == (code, "")
    assert error["message"].startswith(f"{said}: ")


def test_a_program_that_is_not_there_is_an_envelope(client: Client, running: str) -> None:
    body = {"phase": "exec", "sandboxId": running, "mxcOps": {"args": ["/no/such/program"]}}
    error = error_of(client.ask(body))
    assert error["code"] == "backend_error"
    assert error["message"].startswith("/mxcOps/args: ")


def test_a_sandbox_that_is_stopped_takes_its_command_along(client: Client) -> None:
    identifier = client.provision()
    client.phase("start", identifier)
    config = client.caller.config(command_of(identifier, "echo on; exec sleep 60"), "long.json")
    child = client.caller.start(MXC_EXEC, config)
    assert child.stdout is not None
    assert child.stdout.readline() == b"on\n"
    assert result_of(client.phase("stop", identifier)) == {}
    out, err = child.communicate(timeout=DEADLINE_S)
    # It had standard output to itself: nothing of ours may follow there.
    assert (child.returncode, out) in ((255, b""), (137, b""))
    assert child.returncode == 137 or json.loads(err.splitlines()[-1])["error"]["code"] == "backend_error"


def test_a_signal_to_us_ends_the_command_and_not_the_sandbox(client: Client, running: str) -> None:
    mark = f"{client.caller.name}-{os.getpid()}"
    argv = ("sh", "-c", "echo on; read line", mark)
    body = {"phase": "exec", "sandboxId": running, "mxcOps": {"args": list(argv)}}
    config = client.caller.config({"version": "1.0.0", **body}, "signalled.json")
    child = client.caller.start(MXC_EXEC, config, stdin=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"on\n"
    seen = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    assert mark in client.run(running, seen).stdout
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 128 + signal.SIGTERM
    wait_until(lambda: mark not in client.run(running, seen).stdout, "the command has ended")


# --- provisioning ----------------------------------------------------------------------------------


def test_the_older_versions_provision_too(client: Client) -> None:
    identifier = client.provision(
        version="0.9.0-dev", correlationVector="a.1", experimental={"telemetry": {"enabled": False}}
    )
    done = client.ask({"version": "0.6.0-alpha", "phase": "deprovision", "sandboxId": identifier})
    assert result_of(done) == {}


def test_the_policy_is_the_provisioned_one(client: Client) -> None:
    folder = Path(client.caller.folder, "granted")
    folder.mkdir(exist_ok=True)
    client.caller.own(folder)
    (folder / "secret").write_text("hidden")
    (folder / "note").write_text("told")
    (client.caller.folder / "token").write_text("hunter2\n")
    client.caller.own(client.caller.folder / "token")
    policy: dict[str, Any] = {
        "filesystem": {"readonlyPaths": [str(folder)], "deniedPaths": [str(folder / "secret")]},
        "mxcOps": {"env": {"TOKEN": {"file": str(client.caller.folder / "token")}}, "limits": {"pids": 40}},
    }
    identifier = client.provision(**policy)
    assert result_of(client.phase("start", identifier)) == {}
    look = f"cat {folder}/note; cat {folder}/secret; touch {folder}/new || echo no; echo $TOKEN"
    done = client.run(identifier, look, process={"env": ["PATH=/usr/bin:/bin"]})
    assert done.stdout == "toldno\nhunter2\n"
    assert result_of(client.phase("deprovision", identifier)) == {}


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        (
            {"filesystem": {"readonlyPaths": ["/does/not/exist"]}},
            "policy_validation",
            "/filesystem/readonlyPaths/0",
        ),
        (
            {"mxcOps": {"portMappings": [{"direction": "toSandbox", "hostPort": 18080, "sandboxPort": 80}]}},
            "policy_validation",
            "/mxcOps/portMappings",
        ),
        ({"lxc": {"distribution": "debian", "release": "12"}}, "malformed_request", "/lxc"),
    ],
)
def test_a_policy_that_cannot_be_kept_provisions_nothing(
    client: Client, fields: dict[str, Any], code: str, said: str
) -> None:
    body = {"phase": "provision", "containment": client.containment} | fields
    for flags in ((), ("--dry-run",)):
        error = error_of(client.ask(body, *flags))
        assert error["code"] == code
        assert error["message"].startswith(said)


@pytest.mark.backend("bubblewrap")
def test_nobody_is_left_with_a_sandbox_whose_id_was_never_told(as_user: User) -> None:
    caller = Commands("user", as_user)
    try:
        config = caller.config({"version": "1.0.0", "phase": "provision", "containment": "bubblewrap"})
        reader, writer = os.pipe()
        os.close(reader)
        child = caller.start(MXC_EXEC, config, stdout=writer)
        os.close(writer)
        child.communicate(timeout=DEADLINE_S)
        assert child.returncode == 141
        listed = caller.run(MXC_OPS, "session", "list", "--json")
        assert json.loads(listed.stdout)["sandboxes"] == []
    finally:
        shutil.rmtree(caller.folder, ignore_errors=True)


# --- ids and states --------------------------------------------------------------------------------


def test_the_prefix_of_another_backend_does_not_lead_to_the_sandbox(client: Client, running: str) -> None:
    tail = running.partition(":")[2]
    others = set(PREFIXES.values()) - {PREFIXES[client.containment]}
    for prefix in sorted(others):
        assert error_of(client.phase("stop", f"{prefix}:{tail}"))["code"] == "stale_id"
    assert client.run(running, "echo still here").stdout == "still here\n"


# --- dry runs --------------------------------------------------------------------------------------


def test_a_dry_run_of_each_phase_changes_nothing(client: Client, running: str) -> None:
    before = _listed(client)
    bodies: list[dict[str, Any]] = [
        {"phase": "provision", "containment": client.containment},
        *({"phase": phase, "sandboxId": running} for phase in ("start", "stop", "deprovision")),
        {"phase": "exec", "sandboxId": running, "process": {"commandLine": "echo ran"}},
    ]
    for body in bodies:
        assert result_of(client.ask(body, "--dry-run")) == {}
    config = client.caller.config({"version": "1.1.0-alpha", **bodies[0]})
    assert result_of(client.caller.run(MXC_OPS, "plan", config)) == {}
    assert _listed(client) == before
    assert client.run(running, "echo still here").stdout == "still here\n"


def _listed(client: Client) -> list[tuple[str, str]]:
    """The client's sandboxes and their states; root's store may have others in it."""
    listed = json.loads(client.caller.run(MXC_OPS, "session", "list", "--json").stdout)["sandboxes"]
    return [(one["id"], one["state"]) for one in listed if one["id"] in client.made]


@pytest.mark.parametrize("text", ['{"phase": "stop", ', '["phase"]', ""])
def test_what_cannot_be_read_as_far_as_its_phase_has_no_envelope(somebody: Commands, text: str) -> None:
    done = somebody.run(MXC_EXEC, somebody.config(text))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Request error\n")
