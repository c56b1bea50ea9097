"""Real programs under each seccomp profile: what must run, runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.linux import landlock, seccomp
from backends.linux.bpf import MAX_INSTRUCTIONS, Assembler
from tests.unit.launching import SANDBOX_UID, Finished, run_inside

SHELL = "seq 99 | sort -rn | head -3 | tr '\\n' ' '; cp -a /etc/hostname c; mkfifo p; ls | wc -l; date -u > d"
PYTHON = """
import json, subprocess, tempfile, threading, multiprocessing.pool, socket, sqlite3, ssl, select
with tempfile.TemporaryDirectory(dir='.') as folder:
    sqlite3.connect(folder + '/db').execute('create table t (a)')
a, b = socket.socketpair()
threads = [threading.Thread(target=a.send, args=(b'x',)) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
print(json.dumps([b.recv(3).decode(), subprocess.check_output(['echo', 'child'], text=True)]))
print(multiprocessing.pool.ThreadPool(2).map(abs, [-1, 2]))
"""
GIT = (
    "git init -q . && git config user.email a@b && git config user.name n && echo x > f && git add f && "
    "git commit -q -m m && git gc -q && git log --format=%s"
)
COMPILER = "echo 'int main(){return 42;}' > m.c && gcc -O2 -o m m.c && { ./m; echo $?; }"
NODE = 'node -e \'require("fs").writeFile("f", "x", e => console.log("written", e))\''
JAVA = "java -Xshare:auto -version 2>&1 | grep -c version"
NETWORK = (
    "python3 -c \"import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[0])\""
)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    place = tmp_path / "work"
    place.mkdir()
    if os.geteuid() == 0:
        os.chown(place, SANDBOX_UID, SANDBOX_UID)
    return place


def run(profile: str, place: Path, script: str) -> Finished:
    """Under the filter and under Landlock, as the backend does it."""
    rules = landlock.rules(landlock.NEWEST_ABI, [str(place), "/tmp", "/dev/shm"])
    env = (("PATH", "/usr/bin:/bin"), ("HOME", str(place)), ("TMPDIR", str(place)))
    return run_inside(
        "sh", "-c", script, cwd=str(place), env=env, seccomp=seccomp.program(profile), landlock=rules
    )


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_shell_and_core_utilities(workplace: Path, profile: str) -> None:
    done = run(profile, workplace, SHELL)
    assert (done.stdout, done.stderr) == (b"99 98 97 2\n", b"")


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_python_with_threads_children_and_sockets(workplace: Path, profile: str) -> None:
    (workplace / "program.py").write_text(PYTHON)
    done = run(profile, workplace, "python3 program.py")
    assert (done.stdout, done.stderr) == (b'["xxx", "child\\n"]\n[1, 2]\n', b"")


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_git(workplace: Path, profile: str) -> None:
    done = run(profile, workplace, GIT)
    assert done.stdout == b"m\n", done.stderr


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_a_compiler_and_what_it_makes(workplace: Path, profile: str) -> None:
    assert run(profile, workplace, COMPILER).stdout == b"42\n"


@pytest.mark.parametrize("profile", ["default", "debug"])
@pytest.mark.parametrize(
    ("script", "output"), [(NODE, b"written null\n"), (JAVA, b"1\n"), (NETWORK, b"127.0.0.1\n")]
)
def test_larger_runtimes(workplace: Path, profile: str, script: str, output: bytes) -> None:
    program = script.split(maxsplit=1)[0]
    if not Path("/usr/bin", program).exists():
        pytest.skip(f"{program} is not installed")
    done = run(profile, workplace, script)
    assert (done.stdout, done.stderr) == (output, b"")


def test_a_tracer_works_in_debug_only_and_never_on_process_1(workplace: Path) -> None:
    trace = (
        "import ctypes, os, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def seize(pid): return 'seized' if libc.ptrace(0x4206, pid, 0, 0) == 0 else ctypes.get_errno()\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(60)\n"
        "print(seize(child), seize(1))\n"
    )
    (workplace / "trace.py").write_text(trace)
    answers = {profile: run(profile, workplace, "python3 trace.py") for profile in ("debug", "default")}
    assert {profile: (done.stdout, done.stderr) for profile, done in answers.items()} == {
        "debug": (b"seized 1\n", b""),
        "default": (b"1 1\n", b""),
    }


def test_each_program_fits_the_kernels_limit_and_is_named_by_its_hash() -> None:
    for profile in seccomp.PROFILES:
        assert len(seccomp.program(profile)) % 8 == 0
        assert len(seccomp.program(profile)) // 8 < MAX_INSTRUCTIONS // 8
    assert len({seccomp.profile_hash(profile) for profile in seccomp.PROFILES}) == 3


def test_an_unknown_profile_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'lax'.*default, strict, debug"):
        seccomp.program("lax")


def test_the_assembler_refuses_what_the_kernel_cannot_run() -> None:
    far = Assembler()
    far.if_equal(1, "end")
    for _ in range(256):
        far.load(0)
    far.label("end")
    far.give(0)
    with pytest.raises(ValueError, match="too far"):
        far.assemble()
    backwards = Assembler()
    backwards.label("start")
    backwards.jump("start")
    with pytest.raises(ValueError, match="behind"):
        backwards.assemble()
    long = Assembler()
    for _ in range(MAX_INSTRUCTIONS + 1):
        long.give(0)
    with pytest.raises(ValueError, match="4097 instructions"):
        long.assemble()
    with pytest.raises(ValueError, match="twice"):
        backwards.label("start")
