"""Runs in virtual machines by the API: what goes in, what comes out, how they end, what is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backends.base import Access, Environment, Grant, SandboxRequest, SecretSource, Timeout
from backends.ended import Outcome
from backends.errors import BackendUnavailable, LaunchFailed, MxcError, PolicyRefused
from backends.frozen import replace
from backends.qemu.loop_thread import submit
from backends.qemu.pools import close_pools, keep_parked
from backends.virtual_machine import CommandKind, VirtualMachine
from mxc_ops.one_shot import prepare, run
from mxc_ops.one_shot_async import arun
from mxc_ops.result import Result
from tests.conftest import User
from tests.images import image
from tests.vm_engine import descendants, is_qemu

pytestmark = pytest.mark.backend("vm")
microvm = pytest.mark.backend("microvm")

PATH = Environment((("PATH", "/usr/bin:/bin"),))


def asked(line: str, **others: Any) -> SandboxRequest:
    vm = VirtualMachine("base", image("base"))
    return replace(SandboxRequest("vm", shell=line, environment=PATH, vm=vm), **others)


def source(text: str, **others: Any) -> SandboxRequest:
    vm = VirtualMachine("python", image("python"), command=CommandKind.PYTHON)
    return replace(SandboxRequest("microvm", shell=text, environment=PATH, vm=vm), **others)


def machines() -> list[int]:
    """The QEMUs of this process."""
    return [pid for pid in descendants(os.getpid()) if is_qemu(pid)]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = machines()
    yield
    assert machines() == before


def test_the_streams_stay_apart_and_the_exit_code_is_the_commands() -> None:
    result = run(asked("cat; echo problem >&2; exit 7"), input=b"from the host\n")
    assert (result.exit_code, result.outcome, result.signal) == (7, Outcome.EXITED, None)
    assert (result.stdout, result.stderr) == (b"from the host\n", b"problem\n")


def test_much_goes_through_in_both_directions() -> None:
    """More than any window or pipe holds."""
    data = os.urandom(1 << 20)
    result = run(asked("tee /dev/stderr"), input=data)
    assert result.stdout == data
    assert result.stderr == data


def test_a_signal_that_ends_the_command_is_told() -> None:
    result = run(asked("kill -SEGV $$"))
    assert (result.exit_code, result.outcome, result.signal) == (128 + 11, Outcome.SIGNALLED, 11)


def test_a_command_hears_of_its_timeout_and_is_ended_when_it_does_not_listen() -> None:
    listens = "trap 'echo heard; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    result = run(asked(listens, timeout=Timeout(1500, 5000, "TERM")))
    assert (result.exit_code, result.outcome) == (124, Outcome.TIMED_OUT)
    assert result.stdout.endswith(b"heard\n")
    deaf = "trap '' TERM; echo ready; while :; do sleep 1; done"
    result = run(asked(deaf, timeout=Timeout(500, 200, "TERM")))
    assert (result.exit_code, result.outcome) == (124, Outcome.TIMED_OUT)


def test_what_is_interrupted_leaves_no_machine() -> None:
    def interrupt(_: bytes) -> None:
        assert machines()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(asked("echo ready; sleep 1000"), on_stdout=interrupt)


def test_threads_run_machines_at_once() -> None:
    def one(number: int) -> Result:
        return run(asked(f"echo {number}; exit {number}"))

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(one, range(6)))
    assert [(result.stdout, result.exit_code) for result in results] == [
        (f"{number}\n".encode(), number) for number in range(6)
    ]


def test_tasks_run_machines_at_once_and_a_cancelled_one_leaves_none() -> None:
    async def main() -> None:
        running = [asyncio.ensure_future(arun(asked(f"echo {number}"))) for number in range(4)]
        doomed = asyncio.ensure_future(arun(asked("sleep 1000")))
        results: list[Result] = await asyncio.gather(*running)
        assert [result.stdout for result in results] == [f"{number}\n".encode() for number in range(4)]
        while not machines():
            await asyncio.sleep(0.01)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed

    asyncio.run(main())


def test_a_secret_is_in_no_command_line_and_no_environment_of_the_host(tmp_path: Path) -> None:
    secret = "the-secret-6c1f"
    (tmp_path / "token").write_text(secret)
    (tmp_path / "token").chmod(0o600)
    environment = Environment(PATH.entries, (("TOKEN", SecretSource(file=str(tmp_path / "token"))),))
    seen: list[bytes] = []

    def look(chunk: bytes) -> None:
        seen.append(chunk)
        for pid in descendants(os.getpid()):
            for file in ("cmdline", "environ"):
                assert secret.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()

    request = asked("echo $TOKEN; sleep 0.2", environment=environment)
    result = run(request, on_stdout=look)
    assert b"".join(seen) == f"{secret}\n".encode()
    with prepare(request) as prepared:
        assert secret not in repr(prepared.plan)
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"shell": None, "args": ("no-such-program",)}, LaunchFailed, "program_not_found"),
        ({"shell": None, "args": ("/etc/hostname",)}, LaunchFailed, "program_not_executable"),
        ({"cwd": "/no/such/place"}, PolicyRefused, "cwd_unusable"),
        ({"vm": VirtualMachine("no-such-image")}, BackendUnavailable, "no_image"),
    ],
)
def test_what_cannot_start_is_told_by_name(changes: dict[str, Any], error: type[MxcError], code: str) -> None:
    with pytest.raises(error) as caught:
        run(asked("true", **changes))
    assert caught.value.problems[0].code == code
    assert caught.value.path
    assert run(asked("echo fine")).stdout == b"fine\n"


def test_a_grant_that_does_not_fit_is_told_with_the_memory_that_it_takes(tmp_path: Path) -> None:
    """Within the cap, but more than this machine can hold."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(200 << 20)
    grant = Grant(str(tmp_path), Access.READ_WRITE, "/filesystem/readwritePaths/0")
    with pytest.raises(PolicyRefused, match="does not fit into the virtual machine") as caught:
        run(asked("true", grants=(grant,)))
    assert (caught.value.path, caught.value.fix) == (grant.pointer, "mxcOps.vm.memoryMib: 512")


def test_a_link_of_the_host_takes_the_place_of_the_images() -> None:
    """A path that is a link on the host, as many programs' are, and one in the image."""
    link = Path("/usr/bin/awk")
    if not link.is_symlink():
        pytest.skip("this host has no alternatives")
    grant = Grant(str(link), Access.READ_ONLY, "/filesystem/readonlyPaths/0")
    result = run(asked(f"readlink {link}; {link} 'BEGIN {{ print 1 }}'", grants=(grant,)))
    assert result.stdout.decode().splitlines() == [str(link.readlink()), "1"]


def test_the_steps_of_a_run_are_told_in_their_order() -> None:
    timings = run(asked("echo")).timings
    times = dict(timings)
    expected = ["spawned", "qmpUp", "restored", "agentReady", "identified", "started", "exit"]
    assert [name for name in times if name in expected] == expected
    assert [ms for _, ms in timings] == sorted(times.values())


def test_each_run_is_a_machine_of_its_own() -> None:
    line = "cat /proc/sys/kernel/random/uuid /etc/machine-id /proc/sys/kernel/hostname; date +%s"
    first, second = (run(asked(line)).stdout.split() for _ in range(2))
    assert not set(first[:3]) & set(second[:3])


def test_a_parked_clone_gets_the_policy_of_its_tenant_and_nobody_elses(tmp_path: Path) -> None:
    for tenant in ("one", "two"):
        (tmp_path / tenant).mkdir()
        (tmp_path / tenant / "mine").write_text(f"{tenant}\n")
    with prepare(asked("true")) as prepared:
        plan = prepared.plan
    pool = submit(keep_parked(plan.template, plan.confinement, 2)).result(60)
    parked = machines()
    try:
        assert pool.parked == 2
        for tenant in ("one", "two"):
            folder = str(tmp_path / tenant)
            grant = Grant(folder, Access.READ_ONLY, "/filesystem/readonlyPaths/0")
            environment = Environment((*PATH.entries, ("TENANT", tenant)))
            line = f"echo $TENANT; cat {folder}/mine; ls {tmp_path}; pwd; cat /etc/machine-id"
            result = run(asked(line, grants=(grant,), environment=environment, cwd=folder))
            said = result.stdout.decode().splitlines()
            assert said[:-1] == [tenant, tenant, tenant, folder]
            assert "acquired" in dict(result.timings), "it was parked"
    finally:
        submit(close_pools()).result(60)
    assert not set(parked) & set(machines())


@microvm
def test_python_source_runs_by_a_fork_of_the_waiting_interpreter() -> None:
    text = "import sys\nprint(sys.argv[1:], sys.stdin.read())\nprint('problem', file=sys.stderr)\nsys.exit(5)"
    result = run(source(text, args=("a", "b")), input=b"in")
    assert (result.stdout, result.stderr, result.exit_code) == (b"['a', 'b'] in\n", b"problem\n", 5)


@microvm
def test_an_exception_in_python_source_is_on_standard_error() -> None:
    result = run(source("print('before')\nraise ValueError('my mistake')"))
    assert (result.stdout, result.exit_code) == (b"before\n", 1)
    assert result.stderr.endswith(b"ValueError: my mistake\n")


@microvm
def test_forks_of_one_interpreter_have_random_numbers_of_their_own() -> None:
    text = "import random, uuid, os; print(random.random(), uuid.uuid4(), os.urandom(8).hex(), hash('a'))"
    first, second = (run(source(text)).stdout.split() for _ in range(2))
    assert len(first) == 4
    assert not set(first[:3]) & set(second[:3])


def test_the_machines_own_tmp_leaves_it_half_of_its_memory() -> None:
    words = "stat -f -c '%b %S' /tmp; sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo"
    blocks, block_bytes, memory_kib = map(int, run(asked(words)).stdout.split())
    assert 0 < blocks <= memory_kib * 1024 // 2 // block_bytes + 1


AS_USER = """
from backends.base import Environment, SandboxRequest
from backends.virtual_machine import VirtualMachine
from mxc_ops.one_shot import run
environment = Environment((("PATH", "/usr/bin:/bin"),))
request = SandboxRequest("vm", shell="id -u; exit 3", environment=environment, vm=VirtualMachine("base"))
result = run(request)
print(result.exit_code, result.stdout)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="everything else here already runs without rights")
def test_a_user_without_rights_has_machines_of_his_own(as_user: User) -> None:
    """His template, too: he takes none from anybody else."""
    image("base")
    told = as_user(AS_USER)
    assert told.stdout == "3 b'1000\\n'\n", told.stderr
    stored = [path for path in (as_user.home / ".cache/mxc-ops/templates").iterdir() if path.is_dir()]
    assert stored
    assert {path.stat().st_uid for path in stored} == {as_user.uid}
