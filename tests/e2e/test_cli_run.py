"""`mxc-ops run`: streams, exit codes, the result document, signals. As root and as a user."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import MXC_OPS, Commands, one_shot, processes_with, wait_until

pytestmark = pytest.mark.backend("bubblewrap")


def run(caller: Commands, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return caller.run(MXC_OPS, "run", *arguments, **options)


def document_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stderr.splitlines()[-1])


def test_the_workload_has_our_streams_and_we_have_its_exit_code(caller: Commands) -> None:
    config = caller.config(one_shot("cat; echo oops >&2; exit 7"))
    done = run(caller, config, stdin="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "oops\n")


def test_a_config_comes_from_standard_input_too(caller: Commands) -> None:
    done = run(caller, "-", stdin=json.dumps(one_shot("echo from stdin")))
    assert (done.returncode, done.stdout) == (0, "from stdin\n")


def test_the_workload_gets_the_very_descriptor(caller: Commands) -> None:
    target = caller.folder / "stdout.txt"
    with target.open("wb") as file:
        child = caller.start(
            MXC_OPS, "run", "--", "stat", "-L", "-c", "%d:%i", "/dev/stdout", stdout=file.fileno()
        )
        _, err = child.communicate(timeout=60)
    status = target.stat()
    assert (child.returncode, target.read_text()) == (0, f"{status.st_dev}:{status.st_ino}\n"), err


def test_flags_say_a_policy(caller: Commands) -> None:
    granted, hidden = caller.folder / "granted", caller.folder / "granted" / "hidden"
    granted.mkdir(exist_ok=True)
    caller.own(granted)
    (granted / "open.txt").write_text("open")
    hidden.write_text("secret")
    script = f"cat {granted}/open.txt; echo; cat {hidden}; echo $GREETING; pwd; echo x > {granted}/w"
    flags = ["--ro", granted, "--deny", hidden, "--env", "GREETING=a=b c", "--cwd", granted]
    done = run(caller, *flags, "--", "sh", "-c", script)
    assert done.stdout == f"open\na=b c\n{granted}\n", done.stderr
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr


def test_a_read_write_grant_reaches_the_host(caller: Commands) -> None:
    place = caller.folder / "out"
    place.mkdir(exist_ok=True)
    caller.own(place)
    done = run(caller, "--rw", place, "--", "sh", "-c", f"echo written > {place}/file")
    assert (done.returncode, (place / "file").read_text()) == (0, "written\n"), done.stderr


def test_a_secret_comes_from_a_file_and_is_told_nobody(caller: Commands) -> None:
    secret = caller.folder / "secret"
    secret.write_text("hunter2")
    caller.own(secret)
    done = run(caller, "--json", "--env-file", f"TOKEN={secret}", "--", "sh", "-c", "echo ${#TOKEN}")
    assert (done.returncode, done.stdout) == (0, "7\n")
    assert "hunter2" not in done.stderr


def test_124_is_the_timeout_or_the_workloads_own_and_the_document_tells(caller: Commands) -> None:
    late = run(caller, "--json", "--timeout", "0.2", "--", "sleep", "60")
    own = run(caller, "--json", "--", "sh", "-c", "exit 124")
    assert (late.returncode, own.returncode) == (124, 124)
    assert document_of(late)["outcome"] == "timed out"
    assert document_of(own)["outcome"] == "exited"


def test_125_is_a_refusal_or_the_workloads_own_and_the_document_tells(caller: Commands) -> None:
    refused = run(caller, "--json", "--ro", "/does/not/exist", "--", "true")
    own = run(caller, "--json", "--", "sh", "-c", "exit 125")
    assert (refused.returncode, own.returncode) == (125, 125)
    assert document_of(refused)["outcome"] == "refused"
    assert document_of(refused)["error"]["problems"][0]["path"] == "--ro"
    assert document_of(own)["exitCode"] == 125


def test_the_result_file_says_what_was_enforced_and_leaves_the_streams_alone(caller: Commands) -> None:
    result_file = caller.folder / "result.json"
    done = run(
        caller, "--result-file", result_file, "--pids", "64", "--", "sh", "-c", "echo out; echo err >&2"
    )
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    result = json.loads(result_file.read_text())
    assert result["schemaVersion"] == 1
    assert (result["outcome"], result["exitCode"]) == ("exited", 0)
    assert {limit["name"] for limit in result["limits"]} >= {"pids"}
    assert all(limit["mechanism"] for limit in result["limits"])
    assert {entry["what"] for entry in result["enforced"]} >= {"filesystem", "network", "system calls"}
    assert result["provenance"]["documentHash"].startswith("sha256:")
    assert result["provenance"]["planHash"].startswith("sha256:")
    assert "stdout" not in result


def test_a_result_file_that_cannot_be_written_stops_the_run(caller: Commands) -> None:
    marker = caller.folder / "ran"
    caller.own(caller.folder)
    done = run(caller, "--result-file", "/does/not/exist", "--rw", caller.folder, "--", "touch", marker)
    assert done.returncode == 125
    assert "--result-file" in done.stderr
    assert not marker.exists()


def test_a_signalled_workload_is_128_plus_its_signal(caller: Commands) -> None:
    done = run(caller, "--json", "--", "sh", "-c", "kill -9 $$")
    assert done.returncode == 137
    assert (document_of(done)["outcome"], document_of(done)["signal"]) == ("signalled", 9)


def test_a_way_in_without_a_port_is_refused_by_name(caller: Commands) -> None:
    done = run(caller, caller.config(one_shot(network={"ingress": {"default": "allow"}})))
    assert (done.returncode, done.stdout) == (125, "")
    assert "/network/ingress/default" in done.stderr
    assert "fix: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a CONFIG"),
        (("--",), "no command"),
        (("config.json", "--", "true"), "exclude each other"),
        (("--ro", "/usr", "config.json"), "--ro"),
        (("--ro", "relative", "--", "true"), "--ro: the path 'relative' is relative"),
        (("--env", "NOVALUE", "--", "true"), "expected K=V"),
        (("--memory", "0", "--", "true"), "--memory"),
        (("--timeout", "soon", "--", "true"), "--timeout"),
        (("--bogus", "--", "true"), "--bogus"),
    ],
)
def test_a_wrong_command_line_is_64(somebody: Commands, arguments: tuple[str, ...], said: str) -> None:
    done = run(somebody, *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert said in done.stderr


@pytest.mark.backend("bubblewrap")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--env-file", "A=/nonexistent"), "--env-file: cannot read /nonexistent"),
        (("--env-fd", "A=99"), "--env-fd: cannot read descriptor 99"),
        (("--env-fd", "A=2"), "--env-fd: the secret's descriptor is a standard stream"),
        (("--backend", "jail"), "--backend: no containment is called 'jail'"),
        (("--backend", ""), "--backend: it is empty"),
        (("--optional", "/a"), "a path of --ro or --rw"),
        (("--file-size", "99999999999999"), "--file-size: 99999999999999 is out of range"),
    ],
)
def test_what_is_wrong_with_a_flag_is_told_by_its_name(
    somebody: Commands, flags: tuple[str, ...], said: str
) -> None:
    done = somebody.run(MXC_OPS, "run", *flags, "--", "true")
    assert done.returncode in (64, 125)
    assert said in done.stderr
    assert "/mxcOps" not in done.stderr


def test_a_broken_document_is_refused_with_every_problem_and_its_place(somebody: Commands) -> None:
    config = somebody.config(one_shot(filesystem={"readonlyPath": []}, colour="red"))
    done = run(somebody, config)
    assert done.returncode == 125
    assert "/filesystem/readonlyPath: " in done.stderr
    assert "/colour: " in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_us_ends_the_sandbox_then_us(caller: Commands, number: signal.Signals) -> None:
    marker = f"{1000 + int(number)}.25"
    child = caller.start(MXC_OPS, "run", "--", "sleep", marker)
    wait_until(lambda: processes_with("sleep", marker), "the workload never started")
    child.send_signal(number)
    assert child.wait(timeout=20) == 128 + number
    wait_until(lambda: not processes_with("sleep", marker), "the workload outlived us")


def test_being_killed_ends_the_sandbox_too(caller: Commands) -> None:
    marker = "1009.25"
    child = caller.start(MXC_OPS, "run", "--", "sleep", marker)
    wait_until(lambda: processes_with("sleep", marker), "the workload never started")
    child.kill()
    child.wait(timeout=20)
    wait_until(lambda: not processes_with("sleep", marker), "the workload outlived us")


def test_a_signal_that_was_ignored_stays_ignored(caller: Commands) -> None:
    argv = ["nohup", "mxc-ops", "run", "--", "sh", "-c", "echo started; sleep 1; echo lived"]
    child = caller.start_argv(argv)
    assert child.stdout is not None
    assert child.stdout.readline() == b"started\n"
    child.send_signal(signal.SIGHUP)
    out, _ = child.communicate(timeout=30)
    assert (child.returncode, out) == (0, b"lived\n")


def test_closed_standard_streams_are_empty_ones(caller: Commands) -> None:
    result_file = caller.folder / "closed.json"
    script = f"mxc-ops run --result-file {result_file} -- sh -c 'cat; echo out; exit 3' <&- >&- 2>&-"
    child = caller.start_argv(["sh", "-c", script])
    child.communicate(timeout=30)
    assert child.returncode == 3
    assert json.loads(result_file.read_text())["exitCode"] == 3


def test_output_passes_while_the_workload_runs(caller: Commands) -> None:
    child = caller.start(MXC_OPS, "run", "--", "sh", "-c", "echo first; cat", stdin=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"first\n"
    assert child.poll() is None
    child.communicate(timeout=30)
    assert child.returncode == 0


def test_a_reader_that_leaves_ends_the_writer_as_usual(caller: Commands) -> None:
    child = caller.start(MXC_OPS, "run", "--", "yes")
    assert child.stdout is not None
    child.stdout.read(10)
    child.stdout.close()
    started = time.monotonic()
    assert child.wait(timeout=30) == 128 + signal.SIGPIPE
    assert time.monotonic() - started < 30


def test_nothing_of_our_environment_reaches_the_workload(caller: Commands) -> None:
    done = caller.run(MXC_OPS, "run", "--", "env", env={"SECRET_OF_OURS": "hunter2"})
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names == {"PATH", "TERM"}


def test_the_plan_is_told_without_running_anything(caller: Commands) -> None:
    place = caller.folder / "untouched"
    place.mkdir(exist_ok=True)
    caller.own(place)
    body = one_shot(f"touch {place}/ran", filesystem={"readwritePaths": [str(place)]})
    done = caller.run(MXC_OPS, "plan", caller.config(body))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["schemaVersion"], answer["plan"]["backend"]) == (1, "bubblewrap")
    assert answer["planHash"].startswith("sha256:")
    assert not list(place.iterdir())


def test_a_plan_that_is_refused_is_125(caller: Commands) -> None:
    body = one_shot(filesystem={"readonlyPaths": ["/does/not/exist"]})
    done = caller.run(MXC_OPS, "plan", "--json", caller.config(body))
    assert done.returncode == 125
    assert json.loads(done.stdout)["error"]["code"] == "policy_validation"


def test_a_policy_that_the_host_uncovers_is_told_apart_from_a_refusal(caller: Commands) -> None:
    secret = caller.folder / "secret"
    for path in (secret, caller.folder / "new"):
        path.write_text("secret\n")
    arguments = ("--json", "--rw", caller.folder, "--deny", secret, "--", "sh", "-c", "echo up; sleep 20")
    child = caller.start(MXC_OPS, "run", *arguments)
    assert child.stdout is not None
    child.stdout.read(1)
    (caller.folder / "new").rename(secret)
    _, err = child.communicate(timeout=60)
    document = json.loads(err.splitlines()[-1])
    assert (child.returncode, document["outcome"]) == (125, "policy lost")
    assert document["error"]["code"] == "policy_lost"
