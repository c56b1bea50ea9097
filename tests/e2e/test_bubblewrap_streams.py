"""A workload can open its own standard streams by name, also under a uid that is not its caller's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mxc_ops import Policy, run

pytestmark = pytest.mark.backend("bubblewrap")


def test_a_pipe_that_is_handed_through_can_be_opened_by_name() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        run(Policy(), "echo hi >/dev/stdout", stdout=writer).check()
        os.close(writer)
        assert output.read() == b"hi\n"


def test_captured_and_fed_pipes_can_be_opened_by_name() -> None:
    result = run(Policy(), "cat /dev/stdin; echo oops >/dev/stderr", input=b"fed")
    assert (result.stdout, result.stderr) == (b"fed", b"oops\n")


def test_the_terminal_can_be_opened_by_name() -> None:
    result = run(Policy(tty=True), "echo hi >/dev/tty; echo ho >/dev/stdout; test -t 0")
    assert (result.exit_code, result.stdout) == (0, b"hi\r\nho\r\n")


def test_a_named_pipe_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    fifo = os.open(path, os.O_RDWR)
    try:
        run(Policy(), "echo hi", stdout=fifo).check()
        assert os.read(fifo, 100) == b"hi\n"
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.close(fifo)
