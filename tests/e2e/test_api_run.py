"""`run`: what goes in, what comes out, and how it ends. Every test starts real sandboxes."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mxc_ops import (
    CommandFailed,
    ConfigError,
    Limits,
    Outcome,
    Policy,
    PolicyRefused,
    SecretSource,
    Stdin,
    StdinMode,
    prepare,
    run,
)
from tests.e2e.commands import children

pytestmark = pytest.mark.backend("bubblewrap")

MIB = 1024 * 1024
ANYTHING = Policy()


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture(autouse=True)
def nothing_left_behind():
    descriptors = open_descriptors()
    processes = children()
    yield
    assert open_descriptors() <= descriptors, "a descriptor leaked"
    assert children() <= processes, "a process was left behind"


def test_a_shell_line_and_an_argument_vector_mean_what_they_say():
    assert run(ANYTHING, 'echo "$((1 + 1)) $0"').stdout == b"2 /bin/sh\n"
    assert run(ANYTHING, ["printf", "%s|", "a b", "$HOME", "*"]).stdout == b"a b|$HOME|*|"


def test_streams_are_separate_and_binary_safe():
    script = "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stderr.buffer.write(b'\\xff\\0')"
    result = run(ANYTHING, ["python3", "-c", script])
    assert result.stdout == bytes(range(256))
    assert result.stderr == b"\xff\0"


def test_input_reaches_the_workload_whole_and_ends():
    data = os.urandom(3 * MIB)
    result = run(ANYTHING, ["sha256sum"], input=data)
    assert result.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_without_input_standard_input_is_empty():
    assert run(ANYTHING, "cat; echo end").stdout == b"end\n"


def test_a_workload_that_ignores_its_input_does_not_disturb_the_run():
    assert run(ANYTHING, "exec <&-; echo done", input=bytes(4 * MIB)).stdout == b"done\n"


def test_output_beyond_the_cap_is_dropped_counted_and_visible():
    result = run(ANYTHING, "head -c 5000000 /dev/zero; echo no >&2", max_output_bytes=1_000_000)
    assert (len(result.stdout), result.stdout_dropped_bytes) == (1_000_000, 4_000_000)
    assert result.stdout_truncated and not result.stderr_truncated
    assert result.as_dict()["stdout"]["droppedBytes"] == 4_000_000
    assert result.ok


def test_a_flood_of_output_while_input_is_read_deadlocks_nobody():
    data = os.urandom(4 * MIB)
    result = run(ANYTHING, ["tee", "/dev/stderr"], input=data)
    assert result.stdout == data
    assert result.stderr == data


def test_a_flood_on_both_streams_stays_within_the_cap_in_memory():
    size = 64 * MIB
    command = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"
    result = run(ANYTHING, command, max_output_bytes=MIB)
    assert len(result.stdout) == len(result.stderr) == MIB
    assert result.stdout_dropped_bytes == result.stderr_dropped_bytes == size - MIB


def test_callbacks_get_every_chunk_and_nothing_is_kept():
    seen: list[bytes] = []
    result = run(ANYTHING, "echo one; sleep 0.05; echo two; echo three >&2", on_stdout=seen.append)
    assert b"".join(seen) == b"one\ntwo\n"
    assert len(seen) >= 2
    assert (result.stdout, result.stderr) == (b"", b"three\n")


def test_what_a_callback_raises_ends_the_sandbox_and_reaches_the_caller():
    def refuse(chunk: bytes) -> None:
        raise LookupError(chunk.decode())

    started = time.monotonic()
    with pytest.raises(LookupError, match="first"):
        run(ANYTHING, "echo first; sleep 60", on_stdout=refuse)
    assert time.monotonic() - started < 30


def test_keyboard_interrupt_ends_the_sandbox_and_reaches_the_caller():
    def interrupt(_: bytes) -> None:
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        run(ANYTHING, "echo up; sleep 60", on_stdout=interrupt)


def test_exit_codes_and_signals_are_told_apart():
    exited = run(ANYTHING, "exit 137")
    killed = run(ANYTHING, ["sh", "-c", "kill -9 $$"])
    assert (exited.exit_code, exited.outcome, exited.signal) == (137, Outcome.EXITED, None)
    assert (killed.exit_code, killed.outcome, killed.signal) == (137, Outcome.SIGNALLED, 9)


def test_check_returns_the_result_of_a_success_and_raises_with_the_last_words():
    assert run(ANYTHING, "true").check().ok
    with pytest.raises(CommandFailed, match=r"exited with 3.*no such luck") as caught:
        run(ANYTHING, "echo no such luck >&2; exit 3").check()
    assert caught.value.result.exit_code == 3


def test_a_timeout_kills_and_says_so():
    result = run(Policy(timeout_s=0.3), "echo begun; sleep 60")
    assert (result.outcome, result.exit_code, result.timed_out) == (Outcome.TIMED_OUT, 124, True)
    assert result.stdout == b"begun\n"
    assert result.limits_hit == ("timeoutMs",)


def test_a_workload_may_use_the_grace_to_clean_up():
    policy = Policy(timeout_s=0.3, grace_s=30, timeout_signal="INT")
    result = run(policy, "trap 'echo cleaned; exit 7' INT; echo begun; while :; do sleep 0.05; done")
    assert result.stdout == b"begun\ncleaned\n"
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, 124)


def test_a_workload_that_ignores_the_signal_is_killed_after_the_grace_with_its_descendants():
    stubborn = (
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 61 & sleep 61') & while :; do sleep 1; done"
    )
    started = time.monotonic()
    result = run(Policy(timeout_s=0.3, grace_s=0.3), stubborn)
    assert result.timed_out
    assert time.monotonic() - started < 30


def test_a_timeout_that_is_not_reached_is_held_but_not_hit():
    result = run(Policy(timeout_s=60), "true")
    assert [(limit.name, limit.hit) for limit in result.limits if limit.name == "timeoutMs"] == [
        ("timeoutMs", False)
    ]


def test_background_processes_neither_hold_the_run_open_nor_survive():
    started = time.monotonic()
    assert run(ANYTHING, "sleep 61 & echo done").stdout == b"done\n"
    assert time.monotonic() - started < 30


def test_descriptors_are_handed_through_uncopied(tmp_path: Path):
    given = tmp_path / "given"
    given.write_bytes(b"from a file")
    with given.open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        result = run(ANYTHING, "[ -f /dev/fd/0 ] && [ -f /dev/fd/1 ] && cat", stdin=stdin, stdout=stdout)
    assert (tmp_path / "out").read_bytes() == b"from a file"
    assert (result.exit_code, result.stdout) == (0, b"")


def test_both_outputs_may_go_to_one_descriptor(tmp_path: Path):
    with (tmp_path / "out").open("wb") as out:
        run(ANYTHING, "echo a; echo b >&2; echo c", stdout=out, stderr=out.fileno())
    assert (tmp_path / "out").read_bytes() == b"a\nb\nc\n"


def test_a_descriptor_that_is_not_open_is_refused_by_name():
    with pytest.raises(ConfigError, match="stderr: descriptor 999999 is not open"):
        run(ANYTHING, "true", stderr=999999)


def test_the_policys_own_standard_input(tmp_path: Path):
    file = tmp_path / "input"
    file.write_bytes(b"in a file")
    tmp_path.chmod(0o755)
    assert run(Policy(stdin=Stdin(StdinMode.FILE, str(file))), "cat").stdout == b"in a file"
    assert run(Policy(stdin=Stdin(StdinMode.TEXT, "ein Wört")), "cat").stdout.decode() == "ein Wört"
    assert run(Policy(stdin=Stdin(StdinMode.NONE)), "cat", stdin=0).stdout == b""


def test_contradicting_inputs_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="input and stdin exclude each other"):
        run(ANYTHING, "true", input=b"", stdin=0)
    with pytest.raises(ConfigError, match="already says"):
        run(Policy(stdin=Stdin(StdinMode.NONE)), "true", input=b"")
    with pytest.raises(PolicyRefused, match="cannot be opened"):
        run(Policy(stdin=Stdin(StdinMode.FILE, str(tmp_path / "missing"))), "true")


def test_secrets_come_from_files_and_descriptors_and_are_not_in_the_result(tmp_path: Path):
    (tmp_path / "token").write_text("s3cret-file\n")
    ours, theirs = os.pipe()
    os.write(theirs, b"s3cret-pipe")
    os.close(theirs)
    env = {"A": SecretSource(file=str(tmp_path / "token")), "B": SecretSource(fd=ours), "C": "plain"}
    result = run(Policy(env=env), 'echo "$A $B $C"')
    os.close(ours)
    assert result.stdout == b"s3cret-file s3cret-pipe plain\n"
    assert "s3cret" not in repr(result.provenance) + repr(result.enforced) + repr(result.origin.plan)


def test_a_document_runs_from_a_dict_a_path_bytes_and_with_its_warnings(tmp_path: Path):
    document = {"version": "0.8.0-alpha", "process": {"commandLine": "echo hello"}}
    path = tmp_path / "config.json"
    path.write_text('{"version": "0.8.0-alpha", "process": {"commandLine": "echo hello"}}')
    for source in (document, path, str(path), path.read_bytes()):
        assert run(source).stdout == b"hello\n"
    with pytest.raises(ConfigError, match="already holds a command"):
        run(document, "true")
    with pytest.raises(ConfigError, match="cannot be read"):
        run(tmp_path / "missing.json")


def test_a_result_says_what_was_enforced_by_which_mechanism_and_where_it_came_from():
    result = run(Policy(limits=Limits(open_files=64)), "ulimit -n")
    told = result.as_dict()
    assert result.stdout == b"64\n"
    assert {"openFiles"} <= {limit["name"] for limit in told["limits"]}
    assert all(entry["what"] and entry["mechanism"] for entry in told["enforced"])
    assert told["provenance"]["planHash"].startswith("sha256:")
    assert {"mxc-ops", "kernel", "bubblewrap", "launcher"} <= told["provenance"]["versions"].keys()


def test_provenance_tells_policies_and_commands_apart():
    one, same, other = (run(ANYTHING, line).provenance for line in ("true", "true", "true #"))
    assert one == same
    assert one.document_hash != other.document_hash


def test_preparing_plans_and_starts_nothing():
    before = children()
    with prepare(Policy(read_only=["/usr/share"]).request("true")) as prepared:
        assert prepared.plan.as_dict()["backend"] == "bubblewrap"
    assert children() == before


def test_a_refused_policy_leaves_nothing_open():
    with pytest.raises(PolicyRefused, match="no-such-directory"):
        run(Policy(read_only=["/usr/share", "/no-such-directory"]), "true")


def test_what_says_nothing_to_run_is_refused_by_its_type():
    with pytest.raises(ConfigError, match="NoneType says nothing to run"):
        run(None, "true")  # type: ignore[arg-type] - the mistake in question
