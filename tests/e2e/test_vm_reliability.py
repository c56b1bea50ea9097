"""What goes wrong in an engine of virtual machines: one named error each, and the next run works."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from backends.agent.connection import GuestConnection
from backends.errors import LaunchFailed
from backends.qemu import template as template_module
from backends.qemu.memory_file import seal, sparse_file
from backends.qemu.parts import open_parts
from backends.qemu.running_machine import RunningMachine
from backends.qemu.template import open_template
from backends.qemu.template_plan import GRANTS_BYTES
from tests.conftest import CHECKOUT
from tests.vm_engine import Engine, code_of, drive, is_gone, kill, opened_engine, qemu_of, said

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with opened_engine(tmp_path_factory.getbasetemp() / "templates") as made:
        yield made


# The agent's own code overwritten: whatever it does next, it dies of it, as of a bug.
KILL_AGENT = r"""
range=$(grep -m1 r-xp /proc/1/maps | cut -d' ' -f1)
start=$((16#${range%-*})) end=$((16#${range#*-}))
dd if=/dev/zero of=/proc/1/mem bs=4096 count=$(((end - start) / 4096)) seek=$start oflag=seek_bytes
"""


@pytest.mark.parametrize(
    ("line", "last_words"),
    [("echo c > /proc/sysrq-trigger", "sysrq triggered crash"), (KILL_AGENT, "Attempted to kill init")],
    ids=["kernel panic", "agent killed"],
)
def test_a_guest_that_dies_is_told_with_its_last_words(engine: Engine, line: str, last_words: str) -> None:
    async def main() -> None:
        async with engine.clone() as clone:
            qemu = qemu_of(clone)
            with pytest.raises(LaunchFailed) as caught:
                await said(clone, f"exec bash -c {shlex.quote(line)}", privileged=True)
            assert code_of(caught) == "qemu_ended"
            assert last_words in str(caught.value)
            await clone.guest.machine.wait_gone()
            assert is_gone(qemu)
        await engine.works()

    drive(main())


def test_a_qemu_that_is_killed_is_told_at_once(engine: Engine) -> None:
    """Whoever waits for a command hears of it, and so does whoever asks later."""

    async def main() -> None:
        async with engine.clone() as clone:
            waiting = asyncio.ensure_future(said(clone, "sleep 1000"))
            await asyncio.sleep(0.1)
            kill(qemu_of(clone), signal.SIGKILL)
            with pytest.raises(LaunchFailed) as caught:
                await waiting
            assert code_of(caught) == "qemu_ended"
            assert "signal 9" in str(caught.value)
            for ask in (clone.guest.machine.execute("query-status"), said(clone, "echo")):
                with pytest.raises(LaunchFailed) as caught:
                    await ask
                assert code_of(caught) == "qemu_ended"
                assert "signal 9" in str(caught.value)
        await engine.works()

    drive(main())


def test_a_qemu_that_stands_still_is_noticed_and_ended(engine: Engine) -> None:
    async def main() -> None:
        async with engine.clone() as clone:
            machine, qemu = clone.guest.machine, qemu_of(clone)
            assert machine.monitor is not None
            kill(qemu, signal.SIGSTOP)
            with pytest.raises(LaunchFailed) as caught:
                await machine.guard(machine.monitor.execute("query-status", deadline_s=0.5))
            assert "did not answer 'query-status' within 0.5 s" in str(caught.value)
            with pytest.raises(LaunchFailed) as caught:
                await clone.guest.ask(clone.guest.agent.ping(deadline_s=0.5))
            assert (code_of(caught), caught.value.retryable) == ("guest_silent", True)
        assert is_gone(qemu)
        await engine.works()

    drive(main())


def test_memory_that_is_sealed_too_early_is_refused_by_qemu_by_name(engine: Engine) -> None:
    """A template in the making writes through to its memory."""

    async def main() -> None:
        memory, grants = sparse_file("memory", 256 << 20), sparse_file("grants", GRANTS_BYTES)
        seal(memory)
        try:
            with open_parts(engine.image, boots=True) as parts, pytest.raises(LaunchFailed) as caught:
                descriptors = {**parts.fds, "memory": memory, "grants": grants}
                await RunningMachine.start(engine.plan.booted, engine.confinement, descriptors)
        finally:
            os.close(memory)
            os.close(grants)
        assert code_of(caught) == "qemu_ended"
        assert "map backing store for guest RAM: Operation not permitted" in str(caught.value)
        await engine.works()

    drive(main())


def test_a_spoilt_template_is_made_anew(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "templates"
    builds = counted_builds(monkeypatch)

    async def main() -> None:
        await engine.template()
        subprocess.run(["cp", "-a", "--sparse=always", engine.store.folder, copy], check=True)
        del builds[:]
        with opened_engine(copy) as other:
            os.truncate(copy / other.plan.key / "memory", 1 << 20)
            await other.works()
            assert builds == [other.plan.key]
        with opened_engine(copy) as other:
            await other.works()
            assert builds == [other.plan.key], "and kept"
        assert sorted(path.name for path in copy.iterdir()) == [".lock", engine.plan.key]

    drive(main())


def counted_builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the templates that are made from now on."""
    builds: list[str] = []
    make = template_module._make  # pyright: ignore[reportPrivateUsage]

    async def counted(plan: template_module.TemplatePlan, *others: object) -> None:
        builds.append(plan.key)
        await make(plan, *others)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(template_module, "_make", counted)
    return builds


ON_A_SMALL_DISK = f"""
import json, subprocess, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from pathlib import Path
from backends.errors import LaunchFailed
from backends.qemu.template import open_template
from tests.vm_engine import drive, opened_engine
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", folder], check=True)
with opened_engine(Path(folder)) as engine:
    try:
        drive(open_template(engine.plan, engine.confinement, engine.store))
    except LaunchFailed as error:
        print(json.dumps([error.as_dict(), sorted(path.name for path in Path(folder).iterdir())]))
with opened_engine(Path(sys.argv[2])) as engine:
    drive(engine.works())
    print("works")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_full_disk_is_told_with_what_to_do_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    drive(engine.works())
    argv = ["unshare", "--mount", sys.executable, "-c", ON_A_SMALL_DISK, tmp_path, engine.store.folder]
    told = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert told.stdout.endswith("\nworks\n"), told.stderr
    error, left = json.loads(told.stdout.splitlines()[0])
    problem = error["problems"][0]
    assert (problem["code"], error["retryable"]) == ("template_not_stored", True)
    assert "No space left on device" in problem["message"]
    assert f"make room where {tmp_path} lies" in problem["fix"]
    assert left == [".lock"]


OWNER = f"""
import sys
sys.path.insert(0, {str(CHECKOUT)!r})
from pathlib import Path
from backends.qemu import template
from tests.vm_engine import drive, opened_engine
boot = template.boot
async def counted(*args, **others):
    print("boots", flush=True)
    return await boot(*args, **others)
template.boot = counted
with opened_engine(Path(sys.argv[1])) as engine:
    sys.stdin.read()
    drive(engine.works())
    print("works")
"""


def test_owners_who_want_the_same_template_make_it_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", OWNER, tmp_path / "templates"]
    owners = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for owner in owners:
            assert owner.stdin is not None
            owner.stdin.close()
            owner.stdin = None
        said_by = [owner.communicate(timeout=90)[0] for owner in owners]
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
    assert sorted(said_by) == ["boots\nworks\n", "works\n"]


# The agent's own end of the channel, taken from it: what comes now is no longer the agent's.
ON_THE_CHANNEL = r"""
my ($number) = map { m|/(\d+)$| } grep { (readlink($_) // "") =~ m|/dev/vport| } glob "/proc/1/fd/*";
my $agent = syscall(434, 1, 0);
open(my $channel, ">&=", syscall(438, $agent, $number + 0, 0)) or die "no channel: $!";
binmode $channel; $| = 1; fcntl($channel, 4, 0);
sub say_all { my $text = shift; syswrite($channel, $text) or exit 1 }
"""
HOSTILE = MappingProxyType(
    {
        "huge lengths": 'say_all(pack("VvvV", 0xffffffff, 131, 0, 1)) for 1 .. 100;',
        "garbage for ever": 'while (1) { say_all(join "", map { chr rand 256 } 1 .. 4096) }',
        "more than was granted": """
            my $frame = pack("VvvV", 65536, 131, 1, 1) . ("x" x 65536); say_all($frame) for 1 .. 100;""",
        "half a frame": 'say_all(pack("VvvV", 60000, 131, 1, 1) . "x"); sleep 1000;',
    }
)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_guest_that_breaks_the_protocol_is_cut_off_and_ended(
    engine: Engine, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside a real guest, by root in there; that the host side stays bounded has tests of its own."""
    defaults = GuestConnection.open.__func__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "frame_deadline_s", 0.5)

    async def main() -> None:
        async with engine.clone() as clone:
            qemu = qemu_of(clone)
            program = shlex.quote(f"{ON_THE_CHANNEL}{HOSTILE[what]}")
            with pytest.raises(LaunchFailed) as caught:
                await said(clone, f"perl -e {program} && sleep 1000", privileged=True)
            assert code_of(caught) == "guest_failed"
        assert is_gone(qemu)
        await engine.works()

    drive(main())


def test_clones_follow_each_other_without_a_failure(engine: Engine, soak: bool) -> None:
    async def main() -> None:
        for _ in range(200 if soak else 20):
            await engine.works()

    drive(main(), 900)


def test_clones_that_are_started_together_all_answer(engine: Engine) -> None:
    async def main() -> None:
        await engine.template()
        await asyncio.gather(*(engine.works() for _ in range(20)))

    drive(main())


@pytest.mark.soak
def test_a_hundred_clones_are_alive_at_once(
    engine: Engine, record_property: Callable[[str, object], None]
) -> None:
    async def main() -> None:
        ready = asyncio.Semaphore(2)
        everybody = asyncio.Barrier(100)
        sizes: list[int] = []

        async def one(number: int) -> None:
            async with ready:
                opened = engine.clone()
                clone = await opened.__aenter__()
                assert await said(clone, f"echo {number}") == f"{number}\n"
            try:
                await everybody.wait()
                sizes.append(pss_kib(qemu_of(clone)))
                assert await said(clone, f"echo {number}") == f"{number}\n"
                await everybody.wait()
            finally:
                await opened.__aexit__(None, None, None)

        await engine.template()
        await asyncio.gather(*(one(number) for number in range(100)))
        record_property("PSS of 100 clones, MiB", sum(sizes) // 1024)
        assert sum(sizes) < 100 * 64 * 1024

    drive(main(), 600)


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError(f"no Pss of process {pid}")


def test_a_template_that_is_removed_serves_whoever_has_it_open(engine: Engine, tmp_path: Path) -> None:
    async def main() -> None:
        await engine.template()
        copy = tmp_path / "templates"
        subprocess.run(["cp", "-a", "--sparse=always", engine.store.folder, copy], check=True)
        with opened_engine(copy) as other:
            await other.template()
            other.store.remove(other.plan.key)
            await other.works()
            assert other.store.open(other.plan.key) is None
            (await open_template(engine.plan, engine.confinement, engine.store)).close()

    drive(main())
