"""What of the host can be seen, and what of the caller leaks (upstream-gaps.md P6, P7, P11)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.security.callers import CALLERS_SECRET, Caller, bubblewrap_alone
from tests.security.host import wait_for_process

ENV_SECRET = "value-of-a-variable-91c4"
LOOK_EVERYWHERE = (
    "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/comm /proc/[0-9]*/maps 2>&1;"
    "ls -l /proc/[0-9]*/fd /proc/[0-9]*/cwd /proc/[0-9]*/exe /proc/[0-9]*/root 2>&1"
)


def test_the_name_of_the_host(caller: Caller) -> None:
    attack = "cat /proc/sys/kernel/hostname; uname -n; cat /etc/hostname"
    name = socket.gethostname()
    assert name in caller.upstream(attack).stdout.split()
    assert name not in caller.run(attack).stdout.split()


@pytest.mark.parametrize(
    "file", ["passwd", "group", "shadow", "hosts", "fstab", "machine-id", "ssh", "ssl/private"]
)
def test_the_hosts_files_in_etc(caller: Caller, file: str) -> None:
    host = Path("/etc") / file
    attack = f"ls -d /etc/{file} && cat /etc/{file}"
    if caller.own_system:
        _assert_not_the_hosts(caller, f"/etc/{file}")
        return
    ours = caller.run(attack).said
    if file in ("passwd", "group", "hosts"):
        lines = set(host.read_text().splitlines())
        assert lines <= set(caller.upstream(attack).stdout.splitlines())
        own = {line for line in lines if not line.startswith(("root:", "nobody:", "nogroup:", "127.", "::1"))}
        assert not own & set(ours.splitlines())
    else:
        assert not host.exists() or host.as_posix() in caller.upstream(attack).stdout
        assert "No such file" in ours or "cannot access" in ours


def _assert_not_the_hosts(caller: Caller, path: str) -> None:
    """Perhaps there is something of that name, but it is another object."""
    inode = f"stat -L -c %d:%i {path}"
    assert caller.bare(inode).stdout == caller.program(["sh", "-c", inode]).stdout
    assert not set(caller.run(inode).stdout.split()) & set(caller.bare(inode).stdout.split())


@pytest.mark.parametrize("folder", ["/home", "/root", "/opt", "/srv", "/boot", "/sys", "/mnt", "/usr/local"])
def test_the_hosts_directories_are_not_there(caller: Caller, folder: str) -> None:
    assert Path(folder).is_dir()
    assert folder in caller.bare(f"ls -d {folder}").stdout
    if caller.own_system:
        _assert_not_the_hosts(caller, folder)
    else:
        assert caller.run(f"ls -d {folder}").stdout == ""


@pytest.mark.parametrize("folder", ["/run", "/var", "/tmp", "/var/tmp", "/dev/shm", "/usr"])
def test_directories_that_are_there_are_not_the_hosts(caller: Caller, folder: str) -> None:
    _assert_not_the_hosts(caller, folder)
    assert caller.run(f"ls -d {folder}").stdout == f"{folder}\n"
    if folder in ("/run", "/var") and not caller.own_system:
        assert set(caller.run(f"ls -A {folder}").stdout.split()) <= {"run", "tmp"}


def test_the_callers_environment(caller: Caller) -> None:
    attack = f"env; {LOOK_EVERYWHERE}"
    theirs = caller.upstream(attack)
    assert CALLERS_SECRET in theirs.stdout, "upstream's process 1 has the caller's environment"
    assert CALLERS_SECRET not in caller.run(attack).said


def test_policy_and_environment_in_the_processes_inside(caller: Caller, place: Path) -> None:
    (place / "denied-name-77").mkdir()
    policy: dict[str, Any] = {
        "read_only": [place],
        "denied": [place / "denied-name-77"],
        "env": {"TOKEN": ENV_SECRET, "PATH": "/usr/bin"},
    }
    attack = f"unset TOKEN; exec sh -c '{LOOK_EVERYWHERE}'"
    theirs = caller.upstream(attack, ends=False, **policy).stdout
    assert ENV_SECRET in theirs and "denied-name-77" in theirs
    ours = caller.run(attack, ends=False, **policy).said
    assert "/proc/1/" in ours, "the attack looked at process 1"
    assert ENV_SECRET not in ours
    assert "denied-name-77" not in ours


def test_policy_and_environment_in_the_processes_outside(
    caller: Caller, root: Caller, place: Path, as_user: object
) -> None:
    """Every user of the host can read command lines; the environment only its owner."""
    (place / "denied-name-78").mkdir()
    policy: dict[str, Any] = {
        "read_only": [place],
        "denied": [place / "denied-name-78"],
        "env": {"TOKEN": ENV_SECRET, "PATH": "/usr/bin"},
    }
    nap = "32.03125"
    running = caller.begin(f"unset TOKEN; exec sleep {nap}", **policy, timeout_s=2)
    workload = wait_for_process(nap)
    ours = _look_at_ancestors(root, workload.pid)
    assert running.told().outcome == "timed out"
    assert ("lxc-start" if caller.containment == "lxc" else "bwrap") in ours
    for text in (ENV_SECRET, "denied-name-78", str(place), CALLERS_SECRET):
        assert text not in ours, f"{text} is in a command line or an environment"


def _look_at_ancestors(root: Caller, pid: int) -> str:
    """Command lines and environments, as root reads them, from the workload up to but not with the worker."""
    source = """
from pathlib import Path

def main(pid):
    seen = []
    while pid > 1:
        process = Path(f"/proc/{pid}")
        words = (process / "cmdline").read_bytes()
        if words.split(b"\\0")[1:2] == [b"-c"] and b"mxc_ops" in words:
            break
        seen += [words, (process / "environ").read_bytes()]
        pid = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return b" ".join(seen).decode(errors="replace")
"""
    return root.call(source, pid=pid)


@bubblewrap_alone
def test_a_stranger_sees_upstreams_policy_in_its_command_line(caller: Caller, place: Path) -> None:
    """The control of the test above: with upstream's arguments the same look finds them."""
    from tests.security.upstream import upstream_argv

    nap = "33.03125"
    argv = upstream_argv(
        f"exec sleep {nap}", read_only=[place], env={"TOKEN": ENV_SECRET, "PATH": "/usr/bin"}
    )
    child = caller.popen(argv)
    try:
        wait_for_process(nap)
        seen = Path(f"/proc/{child.pid}/cmdline").read_text()
        assert ENV_SECRET in seen and str(place) in seen
    finally:
        child.kill()
        child.wait()


def test_a_secret_variable_reaches_the_workload_alone(caller: Caller, place: Path) -> None:
    secret = place / "token"
    secret.write_text(ENV_SECRET)
    os.chown(secret, caller.uid, caller.gid)
    document = {
        "version": "1.1.0-alpha",
        "containment": caller.containment,
        "process": {
            "commandLine": f"printenv TOKEN; unset TOKEN; exec sh -c '{LOOK_EVERYWHERE}; cat {secret}'"
        },
        "mxcOps": {"env": {"TOKEN": {"file": str(secret)}}},
    }
    source = """
import json
from mxc_ops import run

def main(document):
    result = run(document)
    rest = json.dumps(result.as_dict() | {"stdout": ""})
    return {"stdout": result.stdout.decode(errors="replace"), "all": rest}
"""
    found = caller.call(source, document=document)
    assert found["stdout"].splitlines()[0] == ENV_SECRET
    assert ENV_SECRET not in "\n".join(found["stdout"].splitlines()[1:])
    assert ENV_SECRET not in found["all"]


def test_processes_of_the_host(caller: Caller) -> None:
    listing = "ls /proc | grep -c '^[0-9]'"
    assert int(caller.bare(listing).stdout) > int(caller.run(listing).stdout)
    numbers = caller.run("for p in /proc/[0-9]*; do echo ${p#/proc/}; done").stdout.split()
    assert all(int(number) < 20 for number in numbers)


@pytest.fixture
def listening(place: Path) -> Iterator[dict[str, str]]:
    """Sockets of the host: an abstract one, and one with a path in the granted directory's parent."""
    names = {"abstract": f"@mxc-ops-test-{os.getpid()}", "path": f"{place}.sock"}
    servers = [socket.socket(socket.AF_UNIX) for _ in names]
    servers[0].bind("\0" + names["abstract"][1:])
    servers[1].bind(names["path"])
    Path(names["path"]).chmod(0o777)
    for server in servers:
        server.listen(8)
    yield names
    for server in servers:
        server.close()
    Path(names["path"]).unlink()


@pytest.mark.parametrize("kind", ["abstract", "path"])
def test_unix_sockets_of_the_host(caller: Caller, probe: Path, listening: dict[str, str], kind: str) -> None:
    attack = [probe, f"connect={listening[kind]}"]
    assert caller.bare(attack).results["connect"] == "ok"
    told = caller.run(attack, read_only=[probe.parent])
    assert told.results["connect"] in ("ECONNREFUSED", "ENOENT", "EPERM", "EACCES")


def test_tcp_on_the_loopback_of_the_host(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=server.listen, daemon=True).start()
        port = server.getsockname()[1]
        attack = f'bash -c "exec 3<>/dev/tcp/127.0.0.1/{port}" && echo reached; cat /proc/net/dev'
        assert "reached" in caller.bare(attack).stdout
        told = caller.run(attack)
        assert "reached" not in told.stdout
        interfaces = [line.split(":")[0].strip() for line in told.stdout.splitlines() if ":" in line]
        assert interfaces == ["lo"]
