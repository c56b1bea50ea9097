"""Several containers of one owner in one utility VM: together, and apart from each other all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.frozen import replace
from backends.wslc.shared import joining
from backends.wslc.shared.place import machines_folder, sweep
from backends.wslc.shared.plan import SLOTS
from mxc_ops import (
    BackendUnavailable,
    LaunchFailed,
    LifecycleError,
    Limits,
    Policy,
    PolicyRefused,
    Process,
    Result,
    Sandbox,
    Session,
    WarmPool,
    WslcSettings,
    network,
    run,
)
from tests.conftest import UNPRIVILEGED_UID
from tests.container_archives import directory, file, symlink, system
from tests.e2e.commands import MXC_OPS, Commands, processes_of, wait_until
from tests.images import image
from vm_images.oci.importing import import_archive
from vm_images.oci.inventory import remove

pytestmark = pytest.mark.backend("wslc")

ONE, TWO = "mxc-test/shared-one:1", "mxc-test/shared-two:1"
BUSYBOX = Path("/bin/busybox")
MACHINE = b"node-name=grants7"
ANSWERS = 'while read -r line; do eval "$line" </dev/null 2>&1; echo; echo =====; done'


@pytest.fixture(scope="module", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    image("utility")
    folder = tmp_path_factory.mktemp("archives")
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    links = [symlink(f"bin/{name}", "busybox") for name in listed if name not in ("busybox", "sh")]
    more = (*links, directory("tmp", mode=0o1777), directory("srv"))
    for reference in (ONE, TWO):
        archive = folder / "root.tar"
        which = file("etc/which", f"{reference}\n")
        only = file(f"srv/only-{reference[-5:-2]}", os.urandom(100_000))
        archive.write_bytes(system(BUSYBOX.read_bytes(), *more, which, only))
        import_archive(archive, reference)
    yield
    end_machines()
    for reference in (ONE, TWO):
        remove(reference)


def shared(reference: str = ONE, settings: dict[str, Any] | None = None, **fields: Any) -> Policy:
    said = replace(WslcSettings(image=reference, shared_vm=True), **(settings or {}))
    return Policy(containment="wslc", wslc=said, **fields)


def lines(result: Result) -> list[str]:
    assert result.ok, result.stderr
    return result.stdout.decode().splitlines()


def hosts(uid: int | None = None) -> list[int]:
    return processes_of(os.geteuid() if uid is None else uid, b"backends.wslc.shared.host")


def machines() -> list[int]:
    return processes_of(None, MACHINE)


def end_machines() -> None:
    for pid in hosts():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not hosts() and not machines(), "killed machines are still there")
    sweep()


class Asked:
    """A container whose one command does what it is told, line by line."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def say(self, line: str) -> str:
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        said: list[str] = []
        while (got := self.process.stdout.readline().decode()) != "=====\n":
            assert got, self.process.wait()
            said.append(got)
        return "".join(said)[:-1].removesuffix("\n")


@contextmanager
def asked(policy: Policy) -> Generator[Asked]:
    with Sandbox(policy).spawn(ANSWERS) as process:
        yield Asked(process)


@pytest.mark.soak
def test_a_machine_that_does_not_answer_does_not_outlive_its_owners() -> None:
    """It takes the half minute that an agent is waited for; a second owner's container must not save it."""
    with Sandbox(shared()).spawn("sleep 1000") as process:
        wait_until(lambda: len(machines()) == 1, "there is no machine")
        (machine,) = machines()
        os.kill(machine, signal.SIGSTOP)
        process.kill()
    wait_until(lambda: not hosts() and not machines(), "it is still there", 90)


def test_two_containers_of_one_machine_see_nothing_of_each_other() -> None:
    with asked(shared(ONE)) as one, asked(shared(TWO)) as two:
        assert len(machines()) == 1 and len(hosts()) == 1
        assert (one.say("cat /etc/which; ls /srv"), two.say("cat /etc/which; ls /srv")) == (
            f"{ONE}\nonly-one",
            f"{TWO}\nonly-two",
        )
        one.say("sleep 4321 & echo secret >/tmp/secret; echo secret >/dev/shm/secret; hostname -F /etc/which")
        one.say("nc -l -p 4000 -e echo reached & nc -l -p 4000 -s 127.0.0.2 &")
        assert "4321" in one.say("ps") and "4321" not in two.say("ps; cat /proc/[0-9]*/cmdline")
        assert two.say("ls -A /tmp /dev/shm; hostname") == "/dev/shm:\n\n/tmp:\nmxc-sandbox"
        assert two.say("ls /sys/class/net; nc 127.0.0.1 4000 </dev/null || echo none").split("\n") == [
            "lo",
            "nc: can't connect to remote host (127.0.0.1): Connection refused",
            "none",
        ]
        two.say("kill -9 -1; sleep 0")
        assert "4321" in one.say("ps"), "signals stay where they are"
        one.process.kill()
        one.process.wait()
        assert two.say("cat /etc/which") == TWO, "the end of one leaves the other"


def test_the_same_image_serves_several_each_with_what_it_writes() -> None:
    with asked(shared()) as one, asked(shared()) as two:
        one.say("echo mine >/etc/which; rm -r /srv")
        assert one.say("cat /etc/which") == "mine"
        assert two.say("cat /etc/which; ls /srv") == f"{ONE}\nonly-one"


def test_disks_are_used_again_and_hold_what_is_meant() -> None:
    expected = {reference: lines(run(shared(reference), "md5sum /srv/*"))[0] for reference in (ONE, TWO)}
    assert expected[ONE] != expected[TWO]
    for number in range(SLOTS + 2):
        reference = (ONE, TWO)[number % 2]
        assert lines(run(shared(reference), "md5sum /srv/*; cat /etc/which")) == [
            expected[reference],
            reference,
        ]
    assert len(machines()) == 1


def test_grants_are_each_containers_own(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "read").write_text(f"of {name}\n")
        (tmp_path / f"{name}-out").mkdir()

    def granted(name: str, reference: str) -> Policy:
        return shared(reference, read_only=[tmp_path / name], read_write=[tmp_path / f"{name}-out"])

    for _ in range(2):  # the second time on disks that have been used
        with asked(granted("one", ONE)) as one, asked(granted("two", TWO)) as two:
            for name, container in (("one", one), ("two", two)):
                assert container.say(f"cd {tmp_path}; cat */read; ls") == f"of {name}\n{name}\n{name}-out"
                assert "Read-only" in container.say(f"echo x >{name}/read")
                container.say(f"echo written >>{name}-out/file")
            for container in (one, two):
                container.process.stdin.close()
                assert container.process.wait().ok
    assert [(tmp_path / f"{name}-out/file").read_text() for name in ("one", "two")] == ["written\n" * 2] * 2


def test_limits_are_each_containers_own() -> None:
    grow = "head -c 24000000 /dev/zero | tail -c 23000000 | wc -c"
    small = shared(limits=Limits(memory_mib=16, pids=12))
    with asked(shared(TWO)) as neighbour:
        grown = run(small, grow)
        held = {limit.name: limit for limit in grown.limits}
        assert held["memoryMib"].hit and b"23000000" not in grown.stdout
        many = run(small, "for i in $(seq 40); do sleep 2 & done; wait")
        assert b"fork" in many.stderr
        assert neighbour.say(grow) == "23000000"


def test_more_containers_than_there_is_room_for_are_refused_until_one_has_ended() -> None:
    with ExitStack() as opened:
        first, *_ = [opened.enter_context(asked(shared((ONE, TWO)[n % 2]))) for n in range(SLOTS)]
        with pytest.raises(BackendUnavailable) as caught:
            run(shared(), "true")
        assert (caught.value.retryable, caught.value.problems[0].code) == (True, "shared_vm_full")
        first.process.kill()
        first.process.wait()
        assert run(shared(), "true").ok
    assert len(machines()) == 1


def test_a_kept_container_runs_commands_at_once_beside_one_shot_runs() -> None:
    meet = "touch /tmp/{0}; until test -e /tmp/{1}; do sleep 0.05; done; echo met"
    with Session.open(shared(TWO)) as session, asked(shared()) as beside:
        assert session.id.startswith("wslc:") and len(machines()) == 1
        there, back = (session.spawn(meet.format(*names)) for names in ("ab", "ba"))
        assert (there.wait().stdout, back.wait().stdout) == (b"met\n", b"met\n")
        assert "a" not in beside.say("ls /tmp")
        for refused in (session.suspend, session.snapshot, session.fork):
            with pytest.raises(LifecycleError) as caught:
                refused()
            assert caught.value.code == "unsupported_phase"
            assert caught.value.problems[0].path == "/mxcOps/wslc/sharedVm"
        session.stop()
        assert beside.say("cat /etc/which") == ONE
        session.start()
        assert lines(session.exec("cat /etc/which; ls /tmp")) == [TWO]
        assert len(machines()) == 1


def test_what_a_killed_caller_has_started_ends(somebody: Commands) -> None:
    document = {
        "version": "1.0.0",
        "containment": "wslc",
        "wslc": {"image": ONE},
        "mxcOps": {"wslc": {"sharedVm": True}},
        "process": {"commandLine": "echo up; sleep 600"},
    }
    config = somebody.config(document)
    callers = [somebody.start(MXC_OPS, "run", config) for _ in range(2)]
    for caller in callers:
        assert caller.stdout is not None and caller.stdout.readline() == b"up\n", caller.communicate()
    uid = Path(f"/proc/{callers[0].pid}").stat().st_uid
    (host,) = hosts(uid)
    held = Path(f"/proc/{host}/fd")
    before = len(list(held.iterdir()))
    callers[0].kill()
    wait_until(lambda: len(list(held.iterdir())) < before, "the host keeps what nobody holds any more")
    assert callers[1].poll() is None
    os.kill(host, signal.SIGKILL)
    out, err = callers[1].communicate(timeout=30)
    assert callers[1].returncode == 125 and b"the machine that it shares has ended" in err, (out, err)
    wait_until(lambda: not hosts(uid), "the host is killed")
    folder = Path(somebody.home, ".local/state/mxc-ops/utility")
    (left,) = folder.iterdir()
    swept = json.loads(somebody.run(MXC_OPS, "session", "gc", "--json").stdout)
    assert str(left) in swept["removed"] and not list(folder.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as two users")
def test_another_user_has_another_machine(somebody: Commands) -> None:
    with asked(shared()):
        assert len(machines()) == 1
        flags = ("--backend", "wslc", "--image", ONE, "--shared-vm")
        caller = somebody.start(MXC_OPS, "run", *flags, "--", "sh", "-c", "echo up; sleep 600")
        assert caller.stdout is not None and caller.stdout.readline() == b"up\n"
        assert len(machines()) == 2
        caller.kill()
        caller.communicate()
        (host,) = hosts(UNPRIVILEGED_UID)
        os.kill(host, signal.SIGKILL)


def test_a_machine_of_another_size_is_another_one() -> None:
    with asked(shared()), asked(shared(settings={"memory_mib": 640})) as larger:
        assert int(larger.say("awk '/MemTotal/{print $2}' /proc/meminfo")) > 550_000
        assert len(machines()) == 2


def test_when_its_host_is_killed_the_run_says_so_and_the_next_one_has_a_new_machine() -> None:
    with asked(shared()) as one, Session.open(shared(TWO)) as session:
        end_machines()
        with pytest.raises(LaunchFailed, match="the machine that it shares has ended") as caught:
            one.process.wait()
        assert caught.value.problems[0].code == "container_ended"
        wait_until(lambda: ended(session), "the session has noticed")
        assert lines(run(shared(), "cat /etc/which")) == [ONE]


def ended(session: Session) -> bool:
    try:
        session.exec("true")
    except (LifecycleError, LaunchFailed):
        return True
    return False


def test_it_ends_when_nobody_has_been_there_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    end_machines()
    monkeypatch.setattr(joining, "IDLE_S", 0.5)
    with asked(shared()) as one:
        assert run(shared(TWO), "sleep 1").ok
        assert one.say("echo there") == "there", "it is not idle while somebody is there"
    wait_until(lambda: not hosts() and not machines(), "it goes")
    assert not list(Path(machines_folder()).iterdir())


def test_many_who_start_at_once_have_one_machine(somebody: Commands) -> None:
    flags = ("--backend", "wslc", "--image", ONE, "--shared-vm")
    callers = [somebody.start(MXC_OPS, "run", *flags, "--", "sleep", "2") for _ in range(4)]
    started = [caller.communicate(timeout=60) for caller in callers]
    assert [caller.returncode for caller in callers] == [0] * 4, started
    (host,) = hosts(UNPRIVILEGED_UID if os.geteuid() == 0 else None)
    os.kill(host, signal.SIGKILL)


def test_what_no_container_in_a_shared_machine_has_is_refused_by_name(tmp_path: Path) -> None:
    def problems(policy: Policy) -> list[tuple[str, str]]:
        with pytest.raises(PolicyRefused) as caught:
            run(policy, "true")
        assert all("/mxcOps/wslc/sharedVm" in problem.fix for problem in caught.value.problems)
        return [(problem.code, problem.path) for problem in caught.value.problems]

    pointer = "/mxcOps/wslc/sharedVm"
    assert problems(shared(network=network(allow=["192.0.2.0/24"]))) == [("shared_vm_network", pointer)]
    stored = shared(settings={"storage": str(tmp_path)})
    assert problems(stored) == [("shared_vm_storage", "wslc/storagePath")]
    with pytest.raises(PolicyRefused, match="a pool"):
        WarmPool(shared(), 1)
