"""Documents on the command line, the same in every containment, for root and for users without rights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import DEADLINE_S, MXC_OPS, Commands, wait_until
from tests.e2e.containments import Containment


def run(caller: Commands, *arguments: Any, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return caller.run(MXC_OPS, "run", *arguments, stdin=stdin, env=env)


def result_of(done: subprocess.CompletedProcess[str]) -> Mapping[str, Any]:
    return json.loads(done.stderr.splitlines()[-1])


def test_a_document_is_all_that_a_run_needs(contained: Containment, caller: Commands) -> None:
    granted, out = caller.folder / f"ro-{contained.name}", caller.folder / f"rw-{contained.name}"
    for folder in (granted, out):
        folder.mkdir()
        (folder / "file").write_text("content\n")
        caller.own(folder)
        caller.own(folder / "file")
    (granted / "secret").write_text("secret\n")
    caller.own(granted / "secret")
    body = contained.document(
        f"cat; cat file; cat secret 2>/dev/null; env; id -u; echo new > {out}/file; echo oops >&2; exit 7",
        process={"cwd": str(granted), "env": ["GREETING=grüß dich", "PATH=/usr/bin"], "timeout": 100_000},
        filesystem={
            "readonlyPaths": [str(granted)],
            "readwritePaths": [str(out)],
            "deniedPaths": [str(granted / "secret")],
        },
        mxcOps={"limits": {"openFiles": 64, "pids": 50}},
    )
    result_file = caller.folder / f"{contained.name}.json"
    done = run(caller, "--result-file", result_file, caller.config(body), stdin="in\n", CALLERS="hunter2")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (7, "oops\n")
    assert lines[:2] == ["in", "content"]
    assert {line for line in lines[2:] if not line.startswith("PWD=")} == {
        "GREETING=grüß dich",
        "PATH=/usr/bin",
        "1000",
    }
    assert (out / "file").read_text() == "new\n"
    told = json.loads(result_file.read_text())
    assert (told["outcome"], told["exitCode"], told["conflicts"]) == ("exited", 7, [])
    assert {limit["name"] for limit in told["limits"]} >= {"openFiles", "pids", "timeoutMs"}
    assert bool(told["timings"]) is contained.timed


@pytest.mark.skipif(os.geteuid() != 0, reason="whoever is not root finds their own programs by HOME")
def test_a_run_takes_nothing_from_the_environment(contained: Containment) -> None:
    """As from a service manager: without PATH, programs are found in other places."""
    argv = [Path(sys.executable).parent / MXC_OPS, "run", "--backend", contained.name, "--", "echo", "there"]
    done = subprocess.run(argv, env={}, capture_output=True, check=False, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"there\n", b"")


def test_flags_say_the_same(contained: Containment, caller: Commands) -> None:
    flags = ("--backend", contained.name, "--env", "A=b c", "--cwd", "/tmp", "--open-files", "64")
    done = run(caller, *flags, "--", "sh", "-c", "echo $A; pwd; ulimit -n; exit 3")
    assert (done.returncode, done.stdout) == (3, "b c\n/tmp\n64\n"), done.stderr


def test_timeouts_signals_and_refusals_are_told_apart(contained: Containment, somebody: Commands) -> None:
    backend = ("--json", "--backend", contained.name)
    late = run(somebody, *backend, "--timeout", "1.5", "--", "sleep", "300")
    own = run(somebody, *backend, "--", "sh", "-c", "exit 124")
    killed = run(somebody, *backend, "--", "sh", "-c", "kill -9 $$")
    refused = run(somebody, *backend, "--ro", "/does/not/exist", "--", "true")
    missing = run(somebody, *backend, "--", "no-such-program")
    codes = [done.returncode for done in (late, own, killed, refused, missing)]
    assert codes == [124, 124, 137, 125, 125]
    assert [result_of(done)["outcome"] for done in (late, own, killed)] == [
        "timed out",
        "exited",
        "signalled",
    ]
    assert result_of(refused)["error"]["problems"][0]["path"] == "--ro"
    assert result_of(missing)["error"]["problems"][0]["code"] == "program_not_found"


def test_a_way_in_without_a_port_is_refused_by_name(contained: Containment, somebody: Commands) -> None:
    body = contained.document("echo ran", network={"ingress": {"default": "allow"}})
    done = run(somebody, somebody.config(body))
    assert (done.returncode, done.stdout) == (125, "")
    assert "/network/ingress/default" in done.stderr
    assert "fix: " in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_us_ends_the_sandbox(
    contained: Containment, caller: Commands, number: signal.Signals
) -> None:
    command = ("sh", "-c", "echo up; sleep 300")
    child = caller.start(MXC_OPS, "run", "--backend", contained.name, "--", *command)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    helpers = _below(child.pid)
    assert helpers
    child.send_signal(number)
    assert child.wait(timeout=60) == (-9 if number is signal.SIGKILL else 128 + number)
    wait_until(lambda: not [path for path in helpers if path.exists()], "something outlived us", 60)
    child.communicate()


def _below(pid: int) -> set[Path]:
    """Processes that `pid` started, and those that they started."""
    found: set[Path] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                found |= {Path("/proc", child), *_below(int(child))}
    return found
