"""Copies of sandboxes that are no virtual machines: private files are copied, grants are shared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.errors import LaunchFailed
from mxc_ops import Policy, Session
from tests.e2e.commands import Commands
from tests.e2e.sessions import told, until
from tests.images import image

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="containers are started by root alone")
DEADLINE_S = 30
PRIVATE = {"bubblewrap": ("/tmp", "/dev/shm"), "lxc": ("/tmp", "/dev/shm", "/var/tmp")}
FILL = r"""
set -e; cd /tmp
echo one > file; touch -d '2001-02-03 04:05:06.789 UTC' file; ln file other; chmod 640 file
ln -s /etc/passwd link; ln -s ../../../../../../../../nowhere far; mkfifo pipe; truncate -s 1T sparse
mkdir -p closed/deep 'odd
name'; echo two > closed/deep/secret; chmod 0 closed/deep/secret closed/deep; chmod 0 closed
echo "$(printf '\377')" > "$(printf 'no utf-8 \377')"
head -c 3000000 /dev/urandom > big; echo three > /dev/shm/shared
"""
TELL = r"""
cd /tmp; stat -c '%n %A %h %u %s %Y' file other link far pipe sparse closed; readlink link far
chmod 700 closed closed/deep; stat -c '%A %s' closed/deep/secret; chmod 600 closed/deep/secret
cat closed/deep/secret /dev/shm/shared; ls -d odd*; cat "$(printf 'no utf-8 \377')"; cksum big
test "$(stat -c %i file)" = "$(stat -c %i other)" && echo linked; du sparse
"""


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.backend(name)) for name in PRIVATE])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "lxc":
        image("base")
    return request.param


@pytest.fixture
def granted(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o777)
    yield tmp_path


@as_root
def test_private_files_are_copied_as_they_are_and_grants_are_shared(kind: str, granted: Path) -> None:
    with Session.open(Policy(containment=kind, read_write=[granted])) as original:
        told(original, FILL)
        told(original, f"echo in > {granted}/grant")
        forked = original.fork(2)
        copies = forked.sessions
        try:
            assert forked.scope.copied == PRIVATE[kind]
            assert forked.scope.shared == (str(granted),)
            expected = told(original, TELL)
            assert [told(copy, TELL) for copy in copies] == [expected, expected]
            told(copies[0], f"echo changed > /tmp/file; echo changed > {granted}/grant; rm /dev/shm/shared")
            assert (
                told(original, f"cat /tmp/file {granted}/grant /dev/shm/shared") == b"one\nchanged\nthree\n"
            )
            assert told(copies[1], "cat /tmp/other") == b"one\n"
            assert len({original.id, *(copy.id for copy in copies)}) == 3
        finally:
            for copy in copies:
                copy.close()


@as_root
@pytest.mark.backend("lxc")
def test_what_a_grant_shows_is_not_taken_for_private() -> None:
    """Containers have a /var/tmp of their own, unless that of the host is granted with what it lies in."""
    image("base")
    theirs = Path("/var/tmp/mxc-ops-fork-test")
    theirs.write_text("the host's\n")
    try:
        with Session.open(Policy(containment="lxc", read_only=[Path("/var")])) as original:
            assert told(original, f"cat {theirs}; echo ours > /tmp/ours") == b"the host's\n"
            forked = original.fork()
            with forked.sessions[0] as copy:
                assert forked.scope.copied == PRIVATE["bubblewrap"]
                assert told(copy, f"cat {theirs} /tmp/ours") == b"the host's\nours\n"
    finally:
        theirs.unlink()


@as_root
def test_copies_of_copies_and_of_what_stands_still(kind: str) -> None:
    with Session.open(Policy(containment=kind)) as original:
        told(original, "echo kept > /tmp/kept")
        original.suspend()
        with original.fork().sessions[0] as copy:
            told(copy, "echo more >> /tmp/kept")
            with copy.fork().sessions[0] as deeper:
                assert told(deeper, "cat /tmp/kept") == b"kept\nmore\n"
        original.resume()
        assert told(original, "cat /tmp/kept") == b"kept\n"


@as_root
def test_a_copy_is_of_one_moment_and_its_original_goes_on(kind: str) -> None:
    """`second` is written after `first`: no moment is without the one of them that came before."""
    count = "n=0; while :; do n=$((n+1)); echo $n > /tmp/first; echo $n > /tmp/second; done"
    with Session.open(Policy(containment=kind)) as original:
        running = original.detach(["sh", "-c", count])["job"]
        halted = original.detach(["sh", "-c", "kill -STOP $$; echo on"])["job"]
        pids = "grep -l 'kill -STOP' /proc/[0-9]*/cmdline | head -1 | cut -d/ -f3"
        until(lambda: b"T" in original.exec(f"cut -d' ' -f3 /proc/$({pids})/stat").stdout)
        until(lambda: original.exec("test -s /tmp/second").exit_code == 0)
        for _ in range(3):
            with original.fork().sessions[0] as copy:
                first = told(copy, "cat /tmp/first")
                second = told(copy, "cat /tmp/second")
                # A file that is just written anew is empty.
                assert not (first and second) or int(second) <= int(first) <= int(second) + 1
                assert told(copy, "ls /proc | grep -c '^[0-9]*$'") < b"9", "no process is copied"
        before = told(original, "cat /proc/uptime; cat /tmp/first")
        until(lambda: told(original, "cat /proc/uptime; cat /tmp/first") != before)
        assert original.job(running)["status"] is None
        assert original.job(halted)["status"] is None, "what had been stopped before stays so"


@as_root
@pytest.mark.backend("bubblewrap")
def test_who_looks_as_if_it_had_ended_stands_still_as_well() -> None:
    """Its first thread has, and the other one writes on."""
    source = """
import ctypes, itertools, os, threading
def write():
    for number in itertools.count():
        for name in ("first", "second"):
            with open("/tmp/.new", "w") as file: file.write(str(number))
            os.rename("/tmp/.new", f"/tmp/{name}")
threading.Thread(target=write).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with Session.open(Policy(containment="bubblewrap")) as original:
        original.detach(["python3", "-c", source])
        until(lambda: original.exec("test -s /tmp/second").exit_code == 0)
        until(lambda: b"(zombie)" in original.exec("grep -h State /proc/[0-9]*/status").stdout)
        for _ in range(5):
            with original.fork().sessions[0] as copy:
                first, second = int(told(copy, "cat /tmp/first")), int(told(copy, "cat /tmp/second"))
                assert second <= first <= second + 1


@as_root
@pytest.mark.backend("bubblewrap")
def test_what_a_sandbox_made_of_its_names_leads_a_copy_to_nothing_of_the_host() -> None:
    """The folder above a grant, the workload's there, is moved away, and another one is put in its place."""
    inside = Path("/tmp/mxc-ops-fork-test/grant")
    inside.mkdir(parents=True, exist_ok=True)
    inside.chmod(0o777)
    try:
        with Session.open(Policy(containment="bubblewrap", read_write=[inside])) as original:
            line = "cd /tmp && mv mxc-ops-fork-test away && mkdir -p mxc-ops-fork-test/grant"
            told(original, f"{line} && echo x > mxc-ops-fork-test/grant/planted")
            with pytest.raises(LaunchFailed) as caught:
                original.fork()
            assert caught.value.problems[0].code == "not_copied"
        assert not list(inside.iterdir())
    finally:
        inside.rmdir()
        inside.parent.rmdir()


@pytest.mark.backend("bubblewrap")
def test_on_the_command_line(caller: Commands) -> None:
    def ops(*words: str) -> str:
        done = caller.run("mxc-ops", "session", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    original = ops("provision", "--backend", "bubblewrap").strip()
    made: list[str] = []
    try:
        ops("start", original)
        ops("exec", original, "--", "sh", "-c", FILL)
        answer = json.loads(ops("fork", original, "2", "--json"))
        made = [one["id"] for one in answer["sandboxes"]]
        assert (answer["copied"], answer["shared"]) == (list(PRIVATE["bubblewrap"]), [])
        assert answer["notes"] == ["no process is copied"]
        summed = ("--", "sh", "-c", f"({TELL}) | od -c")
        expected = ops("exec", original, *summed)
        assert [ops("exec", one, *summed) for one in made] == [expected, expected]
        done = caller.run("mxc-ops", "session", "fork", original)
        made.append(done.stdout.strip())
        assert done.stderr.splitlines() == [
            "copied: /tmp, /dev/shm",
            "shared: nothing",
            "no process is copied",
        ]
        assert json.loads(ops("inspect", made[-1]))["origin"] == original
    finally:
        ops("deprovision", original, *made)
