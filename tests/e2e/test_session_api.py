"""Sandboxes that live between commands, the same on every backend: the Python API on real sandboxes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.errors import ConfigError, LaunchFailed, LifecycleError, PolicyRefused
from mxc_ops import AsyncSession, Outcome, Policy, SecretSource
from mxc_ops.session.entry import Entry
from mxc_ops.session.service import Sessions
from mxc_ops.session.session import Session
from tests.e2e.sessions import until
from tests.images import image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root starts all of them here")

DEADLINE_S = 60
KINDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]


@pytest.fixture(scope="module", params=KINDS)
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    if request.param != "bubblewrap":
        image("base")
    with Session.open(Policy(containment=request.param)) as session:
        yield session


def test_what_one_command_leaves_the_next_one_finds(session: Session) -> None:
    first = session.exec("echo kept > /tmp/left; echo out; echo err >&2; exit 3")
    assert (first.exit_code, first.stdout, first.stderr) == (3, b"out\n", b"err\n")
    assert session.exec(["cat", "/tmp/left"]).stdout == b"kept\n"


def test_a_command_has_its_own_environment_directory_input_and_timeout(session: Session) -> None:
    policy = session.policy(env={"GREETING": "grüß dich"}, cwd="/usr")
    done = session.exec("cat; echo $GREETING; pwd", input=b"in\n", policy=policy)
    assert done.stdout == "in\ngrüß dich\n/usr\n".encode()
    late = session.exec("sleep 300", policy=session.policy(timeout_s=0.3))
    assert (late.outcome, late.exit_code) == (Outcome.TIMED_OUT, 124)
    assert session.exec("kill -TERM $$").signal == signal.SIGTERM


@pytest.mark.parametrize("kind", KINDS)
def test_the_async_twin(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello\n")

    async def main() -> str:
        async with await AsyncSession.open(kind, Policy(env={"A": "b"})) as session:
            await session.put(str(tmp_path / "in"), "/tmp/in")
            both = await asyncio.gather(session.exec("cat /tmp/in"), session.exec("echo $A"))
            assert [result.stdout for result in both] == [b"hello\n", b"b\n"]
            (fork,) = (await session.fork()).sessions
            assert (await fork.exec("cat /tmp/in")).stdout == b"hello\n"
            await fork.close()
            await session.stop()
            await session.start()
            assert (await session.exec("test -e /tmp/in")).exit_code == 1
            other = await AsyncSession.attach(session.id)
            await other.suspend()
            await other.resume()
            await other.exec("echo back > /tmp/out")
            await other.get("/tmp/out", str(tmp_path / "out"))
        return session.id

    ended = asyncio.run(main())
    assert (tmp_path / "out").read_text() == "back\n"
    with pytest.raises(LifecycleError):
        Session.attach(ended)


def test_nothing_is_left_of_one_whose_opening_was_cancelled() -> None:
    async def main() -> None:
        opening = asyncio.ensure_future(AsyncSession.open("bubblewrap", name="cancelled-opening"))
        await asyncio.sleep(0.005)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(main())
    entries = [entry for entry in Sessions().entries() if isinstance(entry, Entry)]
    assert "cancelled-opening" not in {entry.record.name for entry in entries}


def test_what_no_start_could_take_is_not_provisioned(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" name'
    odd.mkdir()
    with pytest.raises(ConfigError):
        Sessions().provision(Policy(containment="bubblewrap", read_only=[odd]), name="for-no-start")
    entries = [entry for entry in Sessions().entries() if isinstance(entry, Entry)]
    assert "for-no-start" not in {entry.record.name for entry in entries}


def test_secrets_reach_a_command_that_nobody_waits_for(session: Session, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hush\n")
    job = session.detach(["/bin/sh", "-c", "echo $TOKEN"], env={"TOKEN": SecretSource(file=str(secret))})
    assert session.wait(job["job"])["status"] == 0
    assert session.log(job["job"], "out")[0] == b"hush\n"
    assert "hush" not in repr(session.jobs()) + repr(Sessions().inspect(session.id))


def test_a_terminal_of_its_own(session: Session) -> None:
    done = session.exec("tty; stty size", policy=session.policy(tty=True))
    assert done.stdout == b"/dev/pts/0\r\n24 80\r\n"


def test_many_commands_run_at_once(session: Session) -> None:
    answers: list[bytes] = []

    def one(number: int) -> None:
        answers.append(session.exec(f"sleep 0.2; echo {number}").stdout)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(answers) == [b"%d\n" % number for number in range(10)]


def test_on_an_event_loop_and_piece_by_piece(session: Session) -> None:
    async def several() -> list[bytes]:
        lines = [session.aexec(f"sleep 0.1; echo {number}") for number in range(5)]
        return [result.stdout for result in await asyncio.gather(*lines)]

    assert asyncio.run(several()) == [b"%d\n" % number for number in range(5)]

    async def cancelled() -> None:
        task = asyncio.ensure_future(session.aexec("sleep 303"))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    seen = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    until(lambda: b"sleep 303" not in session.exec(seen).stdout)
    with session.spawn("read line; echo got $line") as process:
        process.stdin.write(b"this\n")
        process.stdin.close()
        assert process.stdout.read() == b"got this\n"
        assert process.wait().exit_code == 0


def test_what_cannot_be_started_says_why(session: Session) -> None:
    with pytest.raises(LaunchFailed) as caught:
        session.exec(["no-such-program"])
    assert caught.value.problems[0].code == "program_not_found"
    with pytest.raises(PolicyRefused) as refused:
        session.exec("true", policy=session.policy(cwd="/no/such"))
    assert refused.value.problems[0].code == "cwd_unusable"


def test_every_command_is_under_what_a_run_is_under(session: Session) -> None:
    line = "id -u; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; cat /etc/shadow"
    done = session.exec(line)
    assert done.stdout.split() == [b"1000", b"CapEff:" + b"0" * 16, b"NoNewPrivs:1", b"Seccomp:2"]
    assert done.exit_code != 0


def test_commands_that_nobody_is_attached_to(session: Session) -> None:
    job = session.detach(["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done; echo bad >&2; exit 5"])
    ended = session.wait(job["job"])
    assert os.waitstatus_to_exitcode(ended["status"]) == 5
    assert session.log(job["job"], "out") == (b"1\n2\n3\n", 6)
    assert session.log(job["job"], "err", 2) == (b"d\n", 4)
    endless = session.detach(["sleep", "300"])
    assert session.job(endless["job"])["status"] is None
    session.kill(endless["job"], signal.SIGKILL)
    assert os.waitstatus_to_exitcode(session.wait(endless["job"])["status"]) == -signal.SIGKILL
    with pytest.raises(LaunchFailed) as caught:
        session.wait(99)
    assert caught.value.problems[0].code == "no_such_job"


def test_of_a_long_log_the_end_is_kept(session: Session) -> None:
    job = session.detach(["sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; echo end"])
    session.wait(job["job"])
    kept, end = session.log(job["job"], "out")
    assert end == 5_000_004
    assert kept.endswith(b"xend\n")
    assert (1 << 20) <= len(kept) <= (2 << 20)


def test_another_process_finds_it_by_the_beginning_of_its_id(session: Session) -> None:
    session.exec("echo shared > /tmp/shared")
    source = (
        "import sys; from mxc_ops.session.session import Session;"
        " sys.stdout.buffer.write(Session.attach(sys.argv[1]).exec('cat /tmp/shared').stdout)"
    )
    shortened = session.id[: session.id.index(":") + 13]
    done = subprocess.run(
        [sys.executable, "-c", source, shortened], capture_output=True, check=False, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stdout) == (0, b"shared\n")


def test_whoever_goes_takes_their_command_along_and_nothing_else(session: Session) -> None:
    source = (
        "import sys; from mxc_ops.session.session import Session;"
        " Session.attach(sys.argv[1]).exec('echo up; exec sleep 301', stdout=1)"
    )
    going = subprocess.Popen([sys.executable, "-c", source, session.id], stdout=subprocess.PIPE)
    assert going.stdout is not None
    assert going.stdout.readline() == b"up\n"
    staying = session.detach(["sleep", "302"])
    going.kill()
    going.wait()
    seen = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    until(lambda: b"sleep 301" not in session.exec(seen).stdout)
    assert b"sleep 302" in session.exec(seen).stdout
    session.kill(staying["job"], signal.SIGKILL)


@pytest.mark.backend("vm")
def test_copies_of_a_running_machine_go_on_where_it_was() -> None:
    image("base")
    service = Sessions()
    with Session.open(Policy(containment="vm")) as original:
        original.exec("echo kept > /tmp/left")
        original.detach(["sh", "-c", "while :; do echo tick >> /tmp/ticks; sleep 0.05; done"])
        until(lambda: original.exec("test -s /tmp/ticks").exit_code == 0)
        copies = list(original.fork(2).sessions)
        try:
            seen = [copy.exec("cat /tmp/left /proc/sys/kernel/hostname /etc/machine-id") for copy in copies]
            lines = [result.stdout.split() for result in seen]
            assert [line[0] for line in lines] == [b"kept", b"kept"]
            assert lines[0][1:] != lines[1][1:], "each has an identity of its own"
            for copy in (*copies, original):
                ticks = int(copy.exec("wc -l < /tmp/ticks").stdout)
                until(lambda copy=copy, ticks=ticks: int(copy.exec("wc -l < /tmp/ticks").stdout) > ticks)
            copies[0].exec("echo changed > /tmp/left")
            assert original.exec("cat /tmp/left").stdout == b"kept\n"
            assert service.inspect(copies[0].id)["origin"] == original.id
            deeper = copies[0].fork().sessions[0]
            copies.append(deeper)
            assert deeper.exec("cat /tmp/left").stdout == b"changed\n"
        finally:
            for copy in copies:
                copy.close()


@pytest.mark.backend("vm")
def test_copies_of_a_busy_copy_are_whole(soak: bool) -> None:
    """Its memory is in no file: of copies that were saved while it ran, half ended in a kernel panic."""
    image("base")
    with Session.open(Policy(containment="vm")) as original:
        original.detach(["sh", "-c", "while :; do echo tick >> /tmp/ticks; ls /usr >/dev/null; done"])
        with original.fork().sessions[0] as copy:
            for _ in range(20 if soak else 3):
                with copy.fork().sessions[0] as deeper:
                    assert deeper.exec("echo whole").stdout == b"whole\n"


@pytest.mark.parametrize("kind", KINDS)
def test_the_states_and_what_they_take(kind: str, tmp_path: Path) -> None:
    service = Sessions()
    entry = service.provision(Policy(containment=kind))
    session = Session.attach(entry.id)

    def code(phase: Callable[[], object]) -> str:
        with pytest.raises(LifecycleError) as caught:
            phase()
        return caught.value.code

    try:
        assert code(session.stop) == "already_stopped"
        assert code(lambda: session.exec("true")) == "not_started"
        session.start()
        assert code(session.start) == "already_started"
        session.exec("echo x > /tmp/x")
        session.stop()
        session.start()
        assert session.exec("cat /tmp/x").exit_code == 1, "a sandbox that was stopped begins anew"
    finally:
        session.close()
    assert code(session.start) == code(session.close) == "stale_id"


@pytest.mark.parametrize("kind", KINDS)
def test_a_supervisor_that_is_killed_takes_its_sandbox_along(kind: str) -> None:
    service = Sessions()
    entry = service.start(service.provision(Policy(containment=kind)).id)
    try:
        sandbox = service.inspect(entry.id)["supervisor"]["sandbox"]
        os.kill(entry.record.supervisor_pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{sandbox}").exists())
        with pytest.raises(LifecycleError) as caught:
            Session.attach(entry.id).exec("true")
        assert caught.value.code == "stale_id"
        service.gc()
        assert service.inspect(entry.id)["state"] == "provisioned"
        assert not Path(entry.record.run_folder).exists()
        assert service.start(entry.id).shown.value == "running"
    finally:
        service.deprovision(entry.id)
