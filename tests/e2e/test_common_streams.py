"""Standard streams, the same in every containment: whole, apart, byte for byte, and in nobody's way."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from mxc_ops import ConfigError, PolicyRefused, Sandbox, Stdin, StdinMode, arun, run
from tests.e2e.containments import Containment

MIB = 1 << 20


@pytest.fixture
def text(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    path = tmp_path / "text"
    path.write_bytes("ein Wört in a file".encode())
    return path


def test_both_outputs_are_apart_and_exact_while_input_is_read(contained: Containment) -> None:
    """Three streams full at the same time: whoever waited for one of them would wait for ever."""
    data = os.urandom(3 * MIB + 17)
    result = run(contained.policy(), ["tee", "/dev/stderr"], input=data)
    assert result.ok
    assert result.stdout == data
    assert result.stderr == data


def test_streams_can_be_opened_by_name(contained: Containment) -> None:
    line = "cat /dev/stdin; echo out >/dev/stdout; echo oops >/dev/stderr"
    result = run(contained.policy(), line, input=b"fed\n")
    assert (result.stdout, result.stderr) == (b"fed\nout\n", b"oops\n")


def test_input_that_is_not_given_is_empty(contained: Containment) -> None:
    result = run(contained.policy(), "cat; echo end; echo oops >&2")
    assert (result.stdout, result.stderr) == (b"end\n", b"oops\n")


@pytest.mark.parametrize("mode", list(StdinMode))
def test_where_input_comes_from(contained: Containment, text: Path, mode: StdinMode) -> None:
    content = {StdinMode.TEXT: "ein Wört\n" * 200_000, StdinMode.FILE: str(text)}.get(mode, "")
    policy = contained.policy(stdin=Stdin(mode, content))
    with text.open("rb") as file:
        file.seek(4)
        result = run(policy, "cat", stdin=file)
    expected = {
        StdinMode.INHERIT: text.read_bytes()[4:],
        StdinMode.NONE: b"",
        StdinMode.FILE: text.read_bytes(),
        StdinMode.TEXT: content.encode(),
    }
    assert result.stdout == expected[mode]


def test_input_from_a_pipe_ends_with_it(contained: Containment) -> None:
    """And what is written after that comes out all the same."""
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as pipe:
            for _ in range(64):
                pipe.write(bytes(range(256)) * 128)

    feeder = threading.Thread(target=feed)
    feeder.start()
    command = "sha256sum; sleep 0.2; echo later; echo last >&2"
    result = run(contained.policy(), command, stdin=reader)
    feeder.join()
    os.close(reader)
    digest = hashlib.sha256(bytes(range(256)) * 128 * 64).hexdigest()
    assert result.stdout.decode() == f"{digest}  -\nlater\n"
    assert result.stderr == b"last\n"


def test_who_ignores_the_input_or_closes_it_is_not_disturbed(contained: Containment) -> None:
    result = run(
        contained.policy(), "head -c 5; exec <&-; sleep 0.2; echo done", input=b"first" + bytes(4 * MIB)
    )
    assert (result.exit_code, result.stdout) == (0, b"firstdone\n")


def test_output_beyond_the_cap_is_dropped_counted_and_visible(contained: Containment) -> None:
    size = 8 * MIB
    command = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"
    result = run(contained.policy(), command, max_output_bytes=MIB)
    assert len(result.stdout) == len(result.stderr) == MIB
    assert result.stdout_dropped_bytes == result.stderr_dropped_bytes == size - MIB
    assert result.stdout_truncated and result.stderr_truncated
    assert result.as_dict()["stdout"]["droppedBytes"] == size - MIB
    assert result.ok


def test_a_slow_consumer_gets_everything_in_order(contained: Containment) -> None:
    seen: list[bytes] = []

    def slow(chunk: bytes) -> None:
        if len(seen) < 3:
            time.sleep(0.2)
        seen.append(chunk)

    result = run(contained.policy(), "seq 200000; echo over >&2", on_stdout=slow)
    assert b"".join(seen) == b"".join(b"%d\n" % number for number in range(1, 200_001))
    assert (result.stdout, result.stderr) == (b"", b"over\n")


def test_a_stalled_stream_does_not_hold_up_the_other(contained: Containment) -> None:
    """Nobody reads standard output; standard error goes on until the workload is told to stop."""
    line = "yes | head -c 4000000 & seq 3 >&2; read word; echo heard $word >&2; exit 3"
    with Sandbox(contained.policy()).spawn(line) as process:
        assert [process.stderr.readline() for _ in range(3)] == [b"1\n", b"2\n", b"3\n"]
        process.stdin.write(b"stop\n")
        process.stdin.flush()
        assert process.stderr.readline() == b"heard stop\n"


def test_a_dialogue(contained: Containment) -> None:
    command = "while read line; do echo got $line; done; echo bye >&2; exit 4"
    with Sandbox(contained.policy()).spawn(command) as process:
        for word in (b"one", b"two"):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"got " + word + b"\n"
        assert process.poll() is None
        process.stdin.close()
        result = process.wait()
    assert (result.exit_code, result.stdout, result.stderr) == (4, b"", b"bye\n")


def test_chunks_come_while_the_command_runs(contained: Containment) -> None:
    with Sandbox(contained.policy()).spawn("echo a; sleep 0.3; echo b >&2; sleep 0.3; echo c") as process:
        assert list(process.chunks()) == [("stdout", b"a\n"), ("stderr", b"b\n"), ("stdout", b"c\n")]


def test_a_command_that_ends_does_not_wait_for_its_input_to_end(contained: Containment) -> None:
    with Sandbox(contained.policy()).spawn("echo done; exit 6") as process:
        ended = process.poll(60)
        assert ended is not None
        assert (ended.exit_code, ended.stdout) == (6, b"done\n")


def test_background_processes_do_not_hold_the_run_open(contained: Containment) -> None:
    started = time.monotonic()
    result = run(contained.policy(), "(sleep 300; echo never) & (setsid sleep 300 &) ; echo done; exit 5")
    assert (result.exit_code, result.stdout) == (5, b"done\n")
    assert time.monotonic() - started < 100


def test_output_goes_to_descriptors_of_the_caller(contained: Containment, tmp_path: Path) -> None:
    kind = "[ -f /dev/fd/1 ] && echo file || echo carried"
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        result = run(contained.policy(), f"{kind}; seq 100000; echo oops >&2", stdout=out, stderr=err)
    assert (result.exit_code, result.stdout, result.stderr) == (0, b"", b"")
    first, rest = (tmp_path / "out").read_text().split("\n", 1)
    assert first == ("file" if contained.hands_descriptors_through else "carried")
    assert rest.splitlines() == [str(number) for number in range(1, 100_001)]
    assert (tmp_path / "err").read_text() == "oops\n"


def test_both_outputs_may_go_to_one_descriptor(contained: Containment, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        run(contained.policy(), "echo a; echo b >&2; echo c", stdout=out, stderr=out.fileno())
    lines = (tmp_path / "out").read_text().split()
    assert (lines if contained.one_order_on_one_descriptor else sorted(lines)) == ["a", "b", "c"]


def test_a_reader_that_leaves_ends_the_writer_as_usual(contained: Containment) -> None:
    reader, writer = os.pipe()
    with Sandbox(contained.policy()).spawn("exec yes", stdout=writer) as process:
        os.close(writer)
        assert os.read(reader, 4) == b"y\ny\n"
        os.close(reader)
        ended = process.poll(60)
    assert ended is not None
    assert (ended.exit_code, ended.signal) == (141, 13)


def test_runs_of_one_event_loop_keep_their_streams_apart(contained: Containment) -> None:
    async def main() -> list[bytes]:
        runs = [arun(contained.policy(), "cat; echo; echo $0", input=b"%d" % n) for n in range(3)]
        return [result.stdout for result in await asyncio.gather(*runs)]

    assert asyncio.run(main()) == [b"%d\n/bin/sh\n" % n for n in range(3)]


def test_what_cannot_be_an_input_or_output_is_refused(contained: Containment, tmp_path: Path) -> None:
    policy = contained.policy()
    with pytest.raises(ConfigError, match="stderr: descriptor 999999 is not open"):
        run(policy, "true", stderr=999999)
    with pytest.raises(ConfigError, match="input and stdin exclude each other"):
        run(policy, "true", input=b"", stdin=0)
    with pytest.raises(ConfigError, match="already says"):
        run(policy.replace(stdin=Stdin(StdinMode.NONE)), "true", input=b"")
    with pytest.raises(PolicyRefused, match="cannot be opened"):
        run(policy.replace(stdin=Stdin(StdinMode.FILE, str(tmp_path / "missing"))), "true")
