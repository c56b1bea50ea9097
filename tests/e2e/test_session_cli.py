"""What `mxc-ops session` does with a sandbox, seen by what comes of it: exit codes, terminals, commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import DEADLINE_S, Commands, wait_until
from tests.e2e.session_commands import SessionCommands
from tests.images import image

pytestmark = pytest.mark.backend("bubblewrap")
TERMINALS = "for n in 0 1 2; do test -t $n && echo $n; done; true"
COUNT = "n=0; while :; do n=$((n+1)); echo $n > {0}/.new; mv {0}/.new {0}/tick; sleep 0.02; done"
PAUSE_S = 0.5


@pytest.fixture(scope="module")
def ops(caller: Commands) -> Iterator[SessionCommands]:
    made = SessionCommands(caller)
    yield made
    made.close()


@pytest.fixture(scope="module")
def granted(ops: SessionCommands) -> Path:
    """Written to by `box`, and read by the test."""
    return ops.grant("granted")


@pytest.fixture(scope="module")
def box(ops: SessionCommands, granted: Path) -> str:
    return ops.running("--rw", str(granted))


# --- exec ------------------------------------------------------------------------------------------


def test_a_command_that_asks_for_a_terminal_has_the_callers(ops: SessionCommands, box: str) -> None:
    line = f"{TERMINALS}; stty size; echo 'who?'; read name; echo hello $name; exit 5"
    code, shown = ops.on_a_terminal("exec", "--tty", box, "--", "sh", "-c", line, typed="me\n")
    lines = shown.split("\r\n")
    assert code == 5, shown
    assert [text for text in lines if text != "me"] == ["0", "1", "2", "31 101", "who?", "hello me", ""]


@pytest.mark.parametrize("verb", ["exec", "run"])
def test_it_ends_with_its_command_where_the_terminal_is_somebody_elses(
    ops: SessionCommands, box: str, verb: str
) -> None:
    """As after su(1): it cannot be opened again, so that reading from it waits for a key."""
    words = ["session", "exec", "--tty", box] if verb == "exec" else ["run", "--tty"]
    code, shown = ops.on_a_terminal(*words, "--", "sh", "-c", "echo on; exit 5", own=False, verb=())
    assert (code, shown) == (5, "on\r\n")


def test_a_command_that_asks_for_a_terminal_has_one_also_where_the_caller_has_none(
    ops: SessionCommands, box: str
) -> None:
    assert ops("exec", "--tty", box, "--", "sh", "-c", TERMINALS).splitlines() == ["0", "1", "2"]


def test_a_command_that_asks_for_none_has_no_terminal(ops: SessionCommands, box: str) -> None:
    assert ops("exec", box, "--", "sh", "-c", TERMINALS) == ""


@pytest.mark.parametrize(
    ("line", "code"),
    [("exit 7", 7), ("exit 124", 124), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_a_command_ends_exec_and_wait_as_it_ended(
    ops: SessionCommands, box: str, line: str, code: int
) -> None:
    assert ops("exec", box, "--", "sh", "-c", f"echo out; {line}", code=code) == "out\n"
    ops("wait", box, ops.detached(box, line), code=code)


def test_a_timeout_is_124_for_who_runs_the_command_and_for_who_waits_for_it(
    ops: SessionCommands, box: str
) -> None:
    # It ends by itself with another code where nobody ends it.
    slow = "echo on; sleep 30; exit 9"
    assert ops("exec", "--timeout", "1", box, "--", "sh", "-c", slow, code=124) == "on\n"
    job = ops.detached(box, slow, "--timeout", "1")
    ops("wait", box, job, code=124)
    told = json.loads(ops("wait", box, job, "--json", code=124))
    assert (told["timedOut"], told["lost"]) == (True, "")
    assert ops("exec", "--timeout", "60", box, "--", "echo", "in time") == "in time\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--", "/no/such/program"), "/no/such/program"),
        (("--cwd", "/no/such/folder", "--", "echo", "ran"), "/no/such/folder"),
        (("--detach", "--", "/no/such/program"), "/no/such/program"),
    ],
)
def test_what_could_not_be_started_is_125(
    ops: SessionCommands, box: str, words: tuple[str, ...], said: str
) -> None:
    done = ops.run("exec", box, *words)
    assert (done.returncode, done.stdout) == (125, "")
    assert said in done.stderr


def test_where_nothing_runs_exec_and_shell_are_125(ops: SessionCommands) -> None:
    stopped = ops.provision("--backend", "bubblewrap")
    for identifier, said in ((stopped, "is not running"), ("no-such-name", "no-such-name")):
        for words in (("exec", identifier, "--", "echo", "ran"), ("shell", identifier)):
            done = ops.run(*words)
            assert (done.returncode, done.stdout) == (125, "")
            assert said in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--",),
        ("--env", "X", "--", "echo", "ran"),
        ("--env", "=x", "--", "echo", "ran"),
        ("--timeout", "-1", "--", "echo", "ran"),
        ("--timeout", "nan", "--", "echo", "ran"),
        ("--detach", "--tty", "--", "echo", "ran"),
        ("--no-such-flag", "--", "echo", "ran"),
    ],
)
def test_a_command_line_that_is_none_is_64(ops: SessionCommands, box: str, words: tuple[str, ...]) -> None:
    done = ops.run("exec", box, *words)
    assert (done.returncode, done.stdout) == (64, ""), done.stderr
    assert done.stderr


def test_a_command_has_the_variables_and_the_directory_that_it_is_given(
    ops: SessionCommands, box: str
) -> None:
    words = ("--env", "A=b=c d", "--env", "E=", "--cwd", "/usr")
    line = 'pwd; echo "$A|${E-unset}|${F-unset}"'
    assert ops("exec", *words, box, "--", "sh", "-c", line) == "/usr\nb=c d||unset\n"


def test_a_wait_that_outlives_the_sandbox_cannot_know_and_is_125(ops: SessionCommands) -> None:
    identifier = ops.running()
    code, told = _stopped_while_it_waits(ops, identifier)
    for _ in range(4):
        if b"is not running" not in told:  # else the stop was there before it had begun to wait
            break
        ops("start", identifier)
        code, told = _stopped_while_it_waits(ops, identifier)
    assert (code, b"warning" in told) == (125, True), told


def _stopped_while_it_waits(ops: SessionCommands, identifier: str) -> tuple[int, bytes]:
    waiting = ops.start("wait", identifier, ops.detached(identifier, "sleep 600"))
    wait_until(lambda: _connected(waiting), "wait never asked")
    ops("stop", identifier)
    _, told = waiting.communicate(timeout=DEADLINE_S)
    return waiting.returncode, told


def _connected(process: subprocess.Popen[bytes]) -> bool:
    try:
        links = [str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    except FileNotFoundError:  # closed in between
        return False
    return process.poll() is not None or any(link.startswith("socket:") for link in links)


# --- detached commands -----------------------------------------------------------------------------


def test_kill_sends_the_signal_that_it_is_told(ops: SessionCommands, box: str, granted: Path) -> None:
    line = "trap 'echo asked >> {0}/signals' USR1; trap 'echo bye; exit 9' TERM; echo > {0}/up; "
    job = ops.detached(box, (line + "while :; do sleep 0.02; done").format(granted))
    wait_until((granted / "up").exists, "it never came up")
    for number, name in enumerate(("USR1", "SIGUSR1", str(int(signal.SIGUSR1))), 1):
        ops("kill", "--signal", name, box, job)
        wait_until(lambda number=number: _lines(granted / "signals") == number, f"{name} never came")
    assert ops.json("ps", box)["jobs"][-1]["ended"] is None
    ops("kill", box, job)
    ops("wait", box, job, code=9)
    assert ops("logs", box, job) == "bye\n"
    killed = ops.detached(box, "trap '' TERM; sleep 600")
    ops("kill", "--signal", "KILL", box, killed)
    ops("wait", box, killed, code=137)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_kill_takes_no_signal_that_there_is_not(ops: SessionCommands, box: str) -> None:
    job = ops.detached(box, "sleep 600")
    for name in ("BLAH", "term", "-5", "²", "999", "4294967296", ""):
        done = ops.run("kill", box, job, f"--signal={name}")
        assert (done.returncode, done.stdout) == (64, ""), (name, done.stderr)
        assert "no signal is called" in done.stderr
    assert ops.json("ps", box)["jobs"][-1]["ended"] is None
    ops("kill", box, job)
    ops("wait", box, job, code=143)


def test_logs_are_what_it_wrote_on_each_stream_and_follow_goes_on_until_it_ends(
    ops: SessionCommands, box: str, granted: Path
) -> None:
    line = f"echo one; echo oops >&2; until [ -e {granted}/go ]; do sleep 0.02; done; echo two"
    job = ops.detached(box, line)
    wait_until(lambda: ops("logs", box, job) == "one\n", "it never wrote")
    assert ops.run("logs", box, job).stderr == "oops\n"
    following = ops.start("logs", "--follow", box, job)
    assert following.stdout is not None
    assert following.stdout.readline() == b"one\n"
    (granted / "go").touch()
    assert following.communicate(timeout=DEADLINE_S) == (b"two\n", b"oops\n")
    assert following.returncode == 0
    assert ops("logs", "-f", box, job) == "one\ntwo\n"


def test_ps_tells_what_runs_and_how_the_others_ended(ops: SessionCommands) -> None:
    identifier = ops.running()
    for line in ("exit 3", "kill -KILL $$", "exec sleep 600"):
        ops.detached(identifier, line)
    ops("wait", identifier, "1", code=3)
    ops("wait", identifier, "2", code=137)
    head, *rows = [line.split() for line in ops("ps", identifier).splitlines()]
    assert head == ["job", "state", "started", "command"]
    assert [row[:3] for row in rows[:2]] == [["1", "exited", "3"], ["2", "signal", "9"]]
    assert rows[2][:2] == ["3", "running"]
    assert rows[2][3:] == ["sh", "-c", "exec", "sleep", "600"]
    jobs = ops.json("ps", identifier)["jobs"]
    assert [(job["job"], job["status"]) for job in jobs] == [(1, 3 << 8), (2, signal.SIGKILL), (3, None)]
    for verb, code in (("wait", 125), ("logs", 1), ("kill", 1)):
        done = ops.run(verb, identifier, "4")
        assert (done.returncode, done.stdout) == (code, "")
        assert "no detached command 4" in done.stderr


# --- suspend, resume, inspect, several at once -----------------------------------------------------


def test_what_is_suspended_stands_still_and_goes_on_when_it_is_resumed(
    ops: SessionCommands, box: str, granted: Path
) -> None:
    tick = granted / "tick"
    job = ops.detached(box, COUNT.format(granted))

    def ticks() -> bool:
        before = tick.read_text() if tick.exists() else ""
        time.sleep(PAUSE_S)
        return tick.exists() and tick.read_text() != before

    wait_until(ticks, "it never ran")
    for _ in range(2):
        ops("suspend", box)
        assert not ticks()
    assert ops.json("inspect", box)["state"] == "suspended"
    for words, code in (
        (("exec", box, "--", "echo", "ran"), 125),
        (("ps", box), 1),
        (("wait", box, job), 125),
    ):
        done = ops.run(*words)
        assert (done.returncode, done.stdout, "is suspended" in done.stderr) == (code, "", True)
    assert not ticks(), "nor did asking wake it"
    ops("resume", box)
    wait_until(ticks, "it never went on")
    assert ops.json("inspect", box)["state"] == "running"
    assert ops("exec", box, "--", "echo", "ran") == "ran\n"
    ops("kill", "--signal", "KILL", box, job)
    ops("wait", box, job, code=137)
    assert not ticks(), "what was killed ticks no more"


def test_inspect_tells_the_policy_the_lease_and_what_became_of_it(
    ops: SessionCommands, granted: Path
) -> None:
    identifier = ops.provision("--ro", str(granted), "--idle", "600", "--lifetime", "86400")
    told = ops.json("inspect", identifier)
    assert (told["id"], told["state"], told["starts"], told["origin"]) == (identifier, "provisioned", 0, "")
    assert told["document"]["filesystem"]["readonlyPaths"] == [str(granted)]
    assert told["lease"] == {"idleSeconds": 600, "absoluteSeconds": 86400}
    assert (told["snapshots"], "supervisor" in told) == ([], False)
    ops("start", identifier)
    ops("snapshot", identifier, "--name", "clean")
    told = ops.json("inspect", identifier)
    assert (told["state"], told["starts"]) == ("running", 1)
    assert Path(f"/proc/{told['supervisor']['pid']}").is_dir()
    assert [one["name"] for one in told["snapshots"]] == ["clean"]
    ops("stop", identifier)
    told = json.loads(ops("inspect", identifier))
    assert (told["state"], told["ended"], "supervisor" in told) == ("provisioned", "stopped", False)


def test_of_several_each_is_tried_whatever_becomes_of_another(ops: SessionCommands) -> None:
    first, last = (ops.provision("--backend", "bubblewrap") for _ in range(2))
    done = ops.run("start", first, "no-such-name", last)
    assert (done.returncode, done.stdout, "no-such-name" in done.stderr) == (1, "", True)
    assert [ops.json("inspect", one)["state"] for one in (first, last)] == ["running"] * 2
    told = json.loads(ops("stop", first, "no-such-name", last, "--json", code=1))
    assert [(one["id"], one["state"]) for one in told["sandboxes"]] == [
        (first, "provisioned"),
        (last, "provisioned"),
    ]
    assert [error["code"] for error in told["errors"]] == ["not_provisioned"]
    ops("deprovision", first, "no-such-name", last, code=1)
    for gone in (first, last):
        assert "stale_id" in ops("inspect", gone, "--json", code=1)


# --- provision -------------------------------------------------------------------------------------


def test_a_policy_may_come_as_a_document_on_standard_input(ops: SessionCommands, granted: Path) -> None:
    body = {
        "version": "1.0.0",
        "containment": "bubblewrap",
        "process": {"commandLine": "true"},
        "filesystem": {"readonlyPaths": [str(granted)]},
    }
    (granted / "note").write_text("told\n")
    name = f"stdin-{os.urandom(8).hex()}"
    identifier = ops.provision("-", "--name", name, stdin=json.dumps(body))
    ops("start", name)
    assert ops("exec", name, "--", "cat", f"{granted}/note") == "told\n"
    ops("exec", name, "--", "touch", f"{granted}/new", code=1)
    assert ops.json("inspect", name)["id"] == identifier
    for flag in (("--rw", str(granted)), ("--host-loopback",), ("--backend", "bubblewrap")):
        done = ops.run("provision", "-", *flag, stdin=json.dumps(body))
        assert (done.returncode, done.stdout, flag[0] in done.stderr) == (64, "", True)
    for text in ("", "{", json.dumps(body | {"filesystem": {"readonlyPaths": ["/does/not/exist"]}})):
        done = ops.run("provision", "-", stdin=text)
        assert (done.returncode, done.stdout, bool(done.stderr)) == (1, "", True)


def test_a_name_is_one_sandboxs_alone(ops: SessionCommands) -> None:
    name = f"name-{os.urandom(8).hex()}"
    identifier = ops.provision("--name", name)
    done = ops.run("provision", "--name", name)
    assert (done.returncode, done.stdout, name in done.stderr) == (1, "", True)
    assert ops.json("inspect", name)["id"] == identifier
    for wrong in ("Upper", "-x", "a" * 64, "a/b"):
        done = ops.run("provision", f"--name={wrong}")
        assert (done.returncode, done.stdout, "cannot be the name" in done.stderr) == (1, "", True)


@pytest.mark.parametrize(
    ("backend", "prefix"),
    [("bubblewrap", "bwrap"), pytest.param("lxc", "lxc", marks=pytest.mark.backend("lxc"))],
)
def test_the_containment_is_the_one_that_is_named(ops: SessionCommands, backend: str, prefix: str) -> None:
    if backend == "lxc":
        image("base")
    identifier = ops.provision("--backend", backend)
    told = ops.json("inspect", identifier)
    assert identifier.startswith(f"{prefix}:")
    assert (told["containment"], told["document"]["containment"]) == (backend, backend)
