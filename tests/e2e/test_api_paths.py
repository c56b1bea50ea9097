"""What a sandbox does with granted temporary directories and tool paths."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mxc_ops import Policy, private_tmp, run, tool_paths

pytestmark = pytest.mark.backend("bubblewrap")


def test_a_private_directory_carries_files_both_ways_and_goes_afterwards():
    with private_tmp() as work:
        Path(work, "in").write_text("given")
        run(Policy(read_write=[work]), f"tr a-z A-Z < {work}/in > {work}/out").check()
        assert Path(work, "out").read_text() == "GIVEN"
    assert not Path(work).exists()


def test_a_private_directory_goes_although_the_workload_locked_it():
    with private_tmp() as work:
        run(Policy(read_write=[work]), f"mkdir -p {work}/a/b/c && chmod 0 {work}/a/b {work}/a").check()
    assert not Path(work).exists()


def test_tools_outside_the_system_run_when_their_directory_is_granted(tmp_path: Path):
    tmp_path.chmod(0o755)
    tool = tmp_path / "greet"
    tool.write_text("#!/bin/sh\necho hello\n")
    tool.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    policy = Policy(read_only=tool_paths(environ))
    assert run(policy, [str(tool)]).stdout == b"hello\n"


SCRIPT = """
import asyncio
from pathlib import Path
from mxc_ops import Policy, Sandbox, private_tmp, run

with private_tmp() as work:
    print(run(Policy(read_write=[work]), f"echo in > {work}/x; echo err >/dev/stderr").check().stderr)
    print(Path(work, "x").read_text().strip())
    run(Policy(read_write=[work]), f"mkdir -p {work}/a/b && chmod 0 {work}/a/b {work}/a").check()
print(Path(work).exists())
print(asyncio.run(Sandbox(Policy(tty=True, timeout_s=30)).arun("test -t 1 && echo tty")).stdout)
with Sandbox(Policy()).spawn("cat") as process:
    process.stdin.write(b"dialogue")
    process.stdin.close()
    print(process.wait().stdout)
"""


def test_a_plain_user_gets_the_same(as_user: Callable[[str], subprocess.CompletedProcess[str]]):
    done = as_user(SCRIPT)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["b'err\\n'", "in", "False", "b'tty\\r\\n'", "b'dialogue'"]
