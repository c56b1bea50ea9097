"""Hyperlight's native driver beyond what this host carries: with packages that pretend to.

They run a program in the worker itself: what it finds there is what somebody finds who gets out of a machine.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from backends.base import Environment, Limits, SecretSource, Streams, Timeout
from backends.ended import Outcome
from backends.errors import LaunchFailed
from backends.frozen import replace
from backends.hyperlight.native.facts import Device, NativeFacts
from backends.hyperlight.native.observe import tried
from mxc_ops.result import Result
from tests.conftest import CHECKOUT, User
from tests.hyperlight_packages import installed, pretended
from tests.native_runs import asking, facts_with, run, start

pytestmark = pytest.mark.backend("hyperlight")

With = Callable[[str], NativeFacts]
_S = 20
SLEEPS = "import time\nprint(1, flush=True)\ntime.sleep(600)"


@pytest.fixture(scope="module")
def facts_of_fault(tmp_path_factory: pytest.TempPathFactory) -> With:
    """Facts of packages with the given fault."""

    @cache
    def make(fault: str) -> NativeFacts:
        return facts_with(pretended(tmp_path_factory.mktemp("environment") / "python", fault))

    return make


@pytest.fixture
def facts(facts_of_fault: With) -> NativeFacts:
    return facts_of_fault("")


@contextmanager
def quiet() -> Generator[tuple[int, Streams]]:
    """The reading end of a program's standard output, and its streams: it has no other."""
    with pipe() as (ours, theirs), Path(os.devnull).open("r+b") as nothing:
        yield ours, Streams(nothing.fileno(), theirs, nothing.fileno())


@contextmanager
def pipe() -> Generator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            os.close(fd)


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _S
    while not holds():
        assert time.monotonic() < give_up, "it does not happen"
        time.sleep(0.01)


# --- ends -------------------------------------------------------------------------------------------


def ends(result: Result) -> tuple[Outcome, int, int | None]:
    return result.outcome, result.exit_code, result.signal


def test_what_the_packages_print_is_not_the_programs(facts_of_fault: With) -> None:
    result = run(facts_of_fault("noisy"), "import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert (result.stdout, result.stderr, result.warnings) == (b"out\n", b"err\n", ())


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (
            "refused",
            "RuntimeError: Failed to create sandbox: Internal error: Failed to run vm: Unexpected VM exit:"
            " Unknown KVM VCPU exit: InternalError",
        ),
        ("aborted", "their process ended by SIGABRT: thread panicked at mod.rs"),
        ("exits", "their process ended with 0"),
    ],
)
def test_a_machine_that_cannot_be_made_is_an_error(facts_of_fault: With, fault: str, why: str) -> None:
    with pytest.raises(LaunchFailed) as failed:
        run(facts_of_fault(fault), "print('never')")
    problem = failed.value.problems[0]
    assert problem.code == "native_not_started"
    assert problem.message == f"Hyperlight's packages could not make the machine: {why}"
    assert "mxcOps.hyperlight.driver: qemu" in problem.fix


@pytest.mark.parametrize(
    ("fault", "source", "why"),
    [
        ("panic", "print('before', flush=True)", "RuntimeError: the host's side panicked"),
        (
            "",
            "import hyperlight_sandbox\nprint('before', flush=True)\nhyperlight_sandbox.trap('out of stack')",
            "RuntimeError: Execution failed: guest execution failed: out of stack",
        ),
    ],
)
def test_a_machine_that_stops_is_no_exit_code(
    facts_of_fault: With, fault: str, source: str, why: str
) -> None:
    result = run(facts_of_fault(fault), source)
    assert ends(result) == (Outcome.SIGNALLED, 128 + signal.SIGABRT, signal.SIGABRT)
    assert (result.stdout, result.warnings) == (b"before\n", (f"the machine stopped: {why}",))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSYS, signal.SIGTERM])
def test_a_worker_that_dies_in_the_run_ends_it(facts: NativeFacts, number: int) -> None:
    result = run(facts, f"import os\nprint('before', flush=True)\nos.kill(os.getpid(), {number:d})")
    assert (*ends(result), result.stdout) == (Outcome.SIGNALLED, 128 + number, number, b"before\n")


def test_who_forges_a_report_gets_no_further_than_an_exit_code(facts: NativeFacts) -> None:
    source = """
import glob, os
for link in glob.glob("/proc/self/fd/*"):
    try:
        if os.readlink(link).startswith("/memfd:"):
            os.write(int(link.rpartition("/")[2]), b'[1]\\n{"ended": "\\\\u001b[2J"}\\n\\xff{')
    except OSError:
        pass
os._exit(3)
"""
    result = run(facts, source)
    assert ends(result) == (Outcome.EXITED, 3, None)


def test_a_timeout_ends_it_and_keeps_what_was_printed(facts: NativeFacts) -> None:
    request = asking("import time\nprint('before', flush=True)\ntime.sleep(600)", timeout=Timeout(1500, 0))
    result = run(facts, request)
    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.TIMED_OUT, 124, b"before\n")


def test_a_timeout_ends_packages_that_hang(facts_of_fault: With) -> None:
    result = run(facts_of_fault("stuck"), asking("print(1)", timeout=Timeout(700, 0)))
    assert (result.outcome, result.stdout) == (Outcome.TIMED_OUT, b"")


@pytest.mark.parametrize("how", ["signal", "expire", "kill"])
def test_it_can_be_ended_from_outside(facts: NativeFacts, how: str) -> None:
    with quiet() as (ours, streams):
        running = start(facts, SLEEPS, streams)
        assert os.read(ours, 2) == b"1\n"
        assert running.wait(0) is None
        running.kill() if how == "kill" else getattr(running, how)(signal.SIGINT)
        ended = running.wait(_S)
    assert ended is not None
    if how == "kill":
        assert (ended.outcome, ended.exit_code) == (Outcome.KILLED, 128 + signal.SIGKILL)
    else:
        assert (ended.outcome, ended.signal) == (Outcome.SIGNALLED, signal.SIGINT)
    assert running.wait() == ended


def test_nothing_is_left_of_many(facts: NativeFacts) -> None:
    def descriptors() -> int:
        gc.collect()  # of failures in earlier tests
        return len(list(Path("/proc/self/fd").iterdir()))

    run(facts, "pass")
    before = descriptors()
    for source in ("pass", "import sys\nsys.exit(1)", "import os\nos.abort()"):
        run(facts, source)
    assert descriptors() == before


def test_it_dies_with_who_started_it(facts: NativeFacts) -> None:
    environment = facts.packages.environment if facts.packages else ""
    owner = f"""
import os, sys
from pathlib import Path
from backends.base import Streams
from tests.native_runs import facts_with, start
running = start(facts_with(Path({environment!r})), {SLEEPS!r}, Streams(0, 1, 2))
print(running.pid, file=sys.stderr, flush=True)
running.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", owner],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "1\n", process.stderr.read()
        pid = int(process.stderr.readline())
        process.kill()
    until(lambda: not Path(f"/proc/{pid}").exists())


# --- streams ----------------------------------------------------------------------------------------


def test_output_arrives_while_it_runs(facts: NativeFacts) -> None:
    source = "import sys\nprint('ready', flush=True)\nprint(input(), flush=True)"
    with pipe() as (ours, theirs), pipe() as (read, write):
        running = start(facts, source, Streams(read, theirs, theirs))
        assert os.read(ours, 64) == b"ready\n"
        os.write(write, b"an answer\n")
        assert os.read(ours, 64) == b"an answer\n"
        ended = running.wait(_S)
    assert ended is not None and ended.exit_code == 0


def test_much_is_printed_on_both_and_kept_apart(facts: NativeFacts) -> None:
    source = (
        "import sys\nfor _ in range(40):\n    print('o' * 50_000)\n    print('e' * 50_000, file=sys.stderr)"
    )
    result = run(facts, source)
    assert result.stdout == (b"o" * 50_000 + b"\n") * 40
    assert result.stderr == (b"e" * 50_000 + b"\n") * 40


def test_a_reader_that_is_gone_is_an_error_of_the_programs(facts: NativeFacts) -> None:
    source = "import sys\ntry:\n    print('x', flush=True)\nexcept BrokenPipeError:\n    sys.exit(7)"
    read, write = os.pipe()
    os.close(read)
    try:
        assert run(facts, source, stdout=write).exit_code in (7, 120)
    finally:
        os.close(write)


# --- confinement ------------------------------------------------------------------------------------

LOOK = """
import json, os
status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
def may_write(folder):
    try: open(f"{folder}/x", "w").close()
    except OSError: return False
    return True
print(json.dumps({
    "root": sorted(os.listdir("/")),
    "packages": sorted(os.listdir("/packages")),
    "etc": sorted(os.listdir("/etc")),
    "devices": sorted(os.listdir("/dev")),
    "writable": [f for f, _, _ in os.walk("/") if not f.startswith("/proc") and may_write(f)],
    "network": sorted(line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line),
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "capabilities": [status[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")],
    "locked": [status["NoNewPrivs"].strip(), status["Seccomp"].strip()],
    "environment": open("/proc/self/environ").read(),
    "command": open("/proc/self/cmdline").read(),
    "uid": os.getuid(),
}))
"""


def test_out_of_the_machine_there_is_nothing(facts: NativeFacts, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame")
    secret = Environment((("PASSWORD", "hunter2"),), (("TOKEN", SecretSource(file=str(tmp_path / "token"))),))
    result = run(facts, asking(LOOK, environment=secret))
    found = json.loads(result.stdout)
    assert found["packages"] == ["hyperlight_sandbox", "hyperlight_sandbox_backend_wasm", "python_guest"]
    assert set(found["root"]) <= {"dev", "etc", "lib", "lib64", "packages", "proc", "usr"}
    assert found["etc"] == ["ld.so.cache"]
    assert set(found["devices"]) & {"kvm", "mshv", "sda", "mem"} == set()
    assert set(found["writable"]) <= {"/dev/shm"}
    assert found["network"] == ["lo"]
    assert len(found["processes"]) == 2  # the launcher, and the worker
    assert set(found["capabilities"]) == {"0" * 16}
    assert found["locked"] == ["1", "2"]
    assert found["environment"] == ""
    assert [word for word in ("hunter2", "sesame", "may_write") if word in found["command"]] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a range of uids")
def test_a_worker_of_roots_is_somebody_of_its_own_with_the_devices_group(facts: NativeFacts) -> None:
    device = Device("/dev/null", 0, 4321, 0o660, 0, usable=True, made="")
    with quiet() as (ours, streams):
        running = start(replace(facts, device=device), f"open('/dev/null', 'r+b')\n{SLEEPS}", streams)
        assert os.read(ours, 2) == b"1\n"
        (init,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{init}/status").read_text().splitlines())
        running.kill()
        assert running.wait(_S) is not None
    assert int(fields["Uid"].split()[1]) >= 1_900_000_000
    assert (fields["Gid"].split()[1], fields["Groups"].split()) == ("4321", [])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a memory control group")
def test_what_the_worker_takes_is_bounded(facts: NativeFacts) -> None:
    if "memory" not in facts.cgroups.parents:
        pytest.skip("no memory control group is ours to use")
    result = run(facts, asking("x = bytearray(2 << 30)", limits=Limits(memory_mib=64)))
    assert (result.outcome, result.signal) == (Outcome.SIGNALLED, signal.SIGKILL)


def test_a_users_worker_runs_too(as_user: User) -> None:
    environment = pretended(as_user.tree / "hyperlight")
    done = as_user(f"""
from backends.base import FilesystemView, SandboxRequest, Streams
from backends.frozen import replace
from backends.hyperlight.native import packages
from backends.hyperlight.native.launch import launch_native
from backends.hyperlight.native.observe import facts_of
from backends.hyperlight.native.plan import plan_native
from backends.hyperlight.native.trial import NoHandles
found, why = packages.examine({str(environment)!r})
assert found, why
facts = replace(facts_of(found), why="", device=None)
request = SandboxRequest("hyperlight", shell="import os; print(os.getuid())")
plan = plan_native(request, facts, FilesystemView())
ended = launch_native(plan, NoHandles(), Streams(0, 1, 2)).wait()
print(ended.outcome.value, ended.exit_code, flush=True)
""")
    assert done.stdout.splitlines()[-1:] == ["exited 0"], done.stdout + done.stderr


# --- whether sandboxes run here ---------------------------------------------------------------------


def test_a_sandbox_that_answers_is_the_proof(facts_of_fault: With) -> None:
    assert tried(facts_of_fault("")).why == ""


def test_why_none_runs_is_told_and_found_out_once(facts_of_fault: With) -> None:
    facts = facts_of_fault("refused")
    why = tried(facts).why
    assert why.endswith("Unexpected VM exit: Unknown KVM VCPU exit: InternalError")
    (module,) = Path(facts.packages.environment if facts.packages else "").glob("lib/*/site-packages/hyp*box")
    (module / "__init__.py").write_text("raise SystemExit")
    assert tried(facts).why == why


def test_packages_that_are_not_what_was_looked_at_are_not_run(tmp_path: Path, facts_of_fault: With) -> None:
    facts = facts_with(pretended(tmp_path / "python"))
    (site,) = (tmp_path / "python").glob("lib/*/site-packages")
    (site / "hyperlight_sandbox").rename(tmp_path / "away")
    (site / "hyperlight_sandbox").mkdir()
    with pytest.raises(LaunchFailed, match="is not the object that was checked"):
        run(facts, "print('never')")


AS_FAR = """
import json, sys
from backends.hyperlight.native.observe import facts_of, tried
from backends.hyperlight.native.packages import examine, run_python
from backends.hyperlight.native.words import without_repeats
found, why = examine(sys.argv[1])
assert found, why
alone = run_python(found.python, sys.argv[2])
print(json.dumps([alone[0], without_repeats(alone[1]), tried(facts_of(found)).why]))
"""
ALONE = """
from importlib.util import find_spec
from hyperlight_sandbox import Sandbox
(folder,) = find_spec("python_guest").submodule_search_locations
guest = folder + "/resources/python-sandbox.aot"
print(Sandbox(backend="wasm", module_path=guest).run("print(6 * 7)").stdout)
"""
OWN_DEVICE = """
mknod "$1" c 10 232; chgrp "$2" "$1"; chmod "$3" "$1"; mount --make-rprivate /
mount --bind "$1" /dev/kvm; shift 3; exec "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/kvm").exists(), reason="needs root, and /dev/kvm")
@pytest.mark.parametrize(("group", "mode"), [("0", "666"), ("4321", "660")])
def test_confined_the_installed_packages_get_as_far_as_alone(tmp_path: Path, group: str, mode: str) -> None:
    """Here: to where the hypervisor refuses to run the virtual processor; elsewhere, to the answer."""
    inside = [sys.executable, "-c", AS_FAR, installed(), ALONE]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", OWN_DEVICE, "sh", tmp_path / "kvm", group, mode, *inside],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        check=False,
    )
    if "mknod" in done.stderr:
        pytest.skip(done.stderr)
    status, said, why = json.loads(done.stdout)
    if status == 0:
        assert (said, why) == ("42", "")
    else:
        assert said.startswith("RuntimeError: Failed to create sandbox: "), said
        assert why == f"Hyperlight's packages could not make the machine: {said}"


def test_a_device_that_only_root_may_open_is_said_to_be_so(facts: NativeFacts) -> None:
    if os.geteuid() != 0:
        pytest.skip("root alone may open it, and hands it to nobody")
    device = Device("/dev/kvm", 0, 0, 0o600, 0, usable=True, made="")
    why = tried(replace(facts, device=device)).why
    assert (
        why
        == "/dev/kvm is of uid 0, gid 0, mode 0600: a sandbox never runs as root, and nobody else may open it"
    )
