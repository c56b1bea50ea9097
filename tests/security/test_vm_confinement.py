"""What a guest that has broken out of its machine finds: the process of QEMU, and nothing else."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.linux.uid_range import configured_range
from backends.qemu.confined import ConfinedQemu
from tests.security.host import namespaces, wait_until
from tests.vm_engine import Engine, descendants, drive, is_gone, kill, opened_engine, qemu_of, said

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
# Its program, its libraries, its firmware, and what any process has.
MAY_SEE = re.compile(
    r"/|/(usr/)?lib(64)?|/etc/ld\.so\.cache|/usr/share/(qemu|seabios|qemu-kvm|sgabios)|/usr/bin/qemu-system-x86_64"
    r"|/usr/libexec/qemu-kvm|/proc|/dev|/dev/(null|zero|full|random|urandom|tty|pts|kvm)"
)


@pytest.fixture(scope="module")
def engine(prepared_host: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with opened_engine(tmp_path_factory.getbasetemp() / "templates") as made:
        yield made


@asynccontextmanager
async def qemu(engine: Engine) -> AsyncGenerator[int]:
    async with engine.clone() as clone:
        yield qemu_of(clone)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def test_qemu_has_a_uid_of_its_own_and_no_group_of_ours(engine: Engine) -> None:
    async def main() -> None:
        async with qemu(engine) as one, qemu(engine) as other:
            found = [status(pid) for pid in (one, other)]
            if os.geteuid() != 0:
                assert all(set(of["Uid"].split()) == {str(os.getuid())} for of in found)
                return
            uids = configured_range()
            assert uids is not None
            taken = {int(word) for of in found for word in (*of["Uid"].split(), *of["Gid"].split())}
            assert len(taken) == 2, "not even two of our machines share one"
            assert all(uids.first <= uid < uids.first + uids.count for uid in taken)
            assert all(set(map(int, of["Groups"].split())) <= taken for of in found)

    drive(main())


def test_no_process_of_a_machine_keeps_a_privilege(engine: Engine) -> None:
    """Bubblewrap itself keeps what it needs to take its child along, in its own namespace."""

    async def main() -> None:
        async with engine.clone() as clone:
            inside = [pid for pid in descendants(clone.guest.machine.qemu.pid) if _is_inside(pid)]
            assert qemu_of(clone) in inside
            for pid in inside:
                found = status(pid)
                assert {name: int(found[name], 16) for name in CAPABILITY_SETS} == dict.fromkeys(
                    CAPABILITY_SETS, 0
                )
                assert found["NoNewPrivs"] == "1"

    drive(main())


def _is_inside(pid: int) -> bool:
    return len(status(pid)["NSpid"].split()) == 2


def test_qemu_is_under_its_own_filter_of_system_calls(engine: Engine) -> None:
    async def main() -> None:
        async with qemu(engine) as pid:
            for task in Path(f"/proc/{pid}/task").iterdir():
                assert "Seccomp:\t2" in (task / "status").read_text(), task.name

    drive(main())


def test_qemu_shares_no_namespace_with_us_and_has_no_network(engine: Engine) -> None:
    async def main() -> None:
        async with qemu(engine) as pid, qemu(engine) as other:
            shared = {name.partition(":")[0] for name in namespaces(pid) & namespaces(os.getpid())}
            assert shared <= {"cgroup"}, "and that one only where a kernel has none"
            assert not namespaces(pid) & namespaces(other) - namespaces(os.getpid())
            devices = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
            assert [line.partition(":")[0].strip() for line in devices] == ["lo"]
            assert len(Path(f"/proc/{pid}/net/route").read_text().splitlines()) <= 1

    drive(main())


def test_qemu_sees_its_own_files_only(engine: Engine) -> None:
    async def main() -> None:
        async with qemu(engine) as pid:
            mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
            assert [fields[4] for fields in mounts if not MAY_SEE.fullmatch(fields[4])] == []
            writable = {fields[4] for fields in mounts if "rw" in fields[5].split(",")}
            assert {place for place in writable if not place.startswith(("/dev/", "/proc"))} == set()
            root = Path(f"/proc/{pid}/root")
            assert {path.name for path in root.iterdir()} <= {"usr", "lib", "lib64", "etc", "proc", "dev"}
            assert [path.name for path in (root / "etc").iterdir()] == ["ld.so.cache"]
            assert not (root / "dev/kvm").exists() or engine.plan.clone.accelerator == "kvm"

    drive(main())


def test_qemu_has_only_what_it_was_handed(engine: Engine) -> None:
    """No directory, and of files with names its image, for reading only."""

    async def main() -> None:
        async with qemu(engine) as pid:
            opened = {path.name: str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
            named = {fd: name for fd, name in opened.items() if name.startswith("/") and "memfd:" not in name}
            assert set(named.values()) <= {"/dev/null", engine.image.rootfs, "/dev/kvm"}
            image = [fd for fd, name in named.items() if name == engine.image.rootfs]
            assert image
            for fd in image:
                flags = int(Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split()[3], 8)
                assert flags & os.O_ACCMODE == os.O_RDONLY

    drive(main())


def test_qemu_sees_no_other_process(engine: Engine) -> None:
    async def main() -> None:
        async with qemu(engine) as pid:
            numbers = [path.name for path in Path(f"/proc/{pid}/root/proc").iterdir() if path.name.isdigit()]
            assert len(numbers) == 2, "the launcher that it ends with, and itself"

    drive(main())


def test_qemu_finds_nothing_in_its_environment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with qemu(engine) as pid:
            assert b"of-the-caller" not in Path(f"/proc/{pid}/environ").read_bytes()

    monkeypatch.setenv("SECRET", "secret-of-the-caller")
    drive(main())


def test_qemu_is_under_limits_of_its_own(engine: Engine) -> None:
    parents = dict(engine.confinement.cgroup_parents)
    if not parents:
        pytest.skip("this caller may make no control groups")

    async def main() -> None:
        async with qemu(engine) as pid:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            assert groups.count(f"mxc-ops-{Path('/proc/self/ns/pid').stat().st_ino}-{os.getpid()}-") == len(
                engine.confinement.limits.cgroup
            )
            assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())

    drive(main())


@pytest.mark.parametrize("part", ["QEMU", "launcher inside", "bubblewrap"])
def test_a_machine_ends_as_a_whole(engine: Engine, part: str) -> None:
    """Whichever process of it dies: no other is left, and its owner hears of it."""

    async def main() -> None:
        async with engine.clone() as clone:
            everything = list(descendants(clone.guest.machine.qemu.pid))
            inside = [pid for pid in everything if _is_inside(pid)]
            victims = {
                "QEMU": qemu_of(clone),
                "launcher inside": next(pid for pid in inside if pid != qemu_of(clone)),
                "bubblewrap": everything[0],
            }
            kill(victims[part], signal.SIGKILL)
            await clone.guest.machine.wait_gone()
            wait_until(lambda: all(map(is_gone, everything)), "a process of the machine is left")
        await engine.works()

    drive(main())


# Brings the card up with the address that QEMU's user network gives guests, then connects to the host's.
CONNECT = r"""
use Socket;
socket(my $card, AF_INET, SOCK_DGRAM, 0);
my $address = pack("a16 S n a4 x16", "eth0", AF_INET, 0, inet_aton("10.0.2.15"));
ioctl($card, 0x8916, $address) or die "no address: $!";
my $up = pack("a16 s x22", "eth0", 0x41);
ioctl($card, 0x8914, $up) or die "not up: $!";
$SIG{ALRM} = sub { print "nobody\n"; exit };
alarm 3;
socket(my $to, AF_INET, SOCK_STREAM, 0);
print connect($to, sockaddr_in($ARGV[0], inet_aton("10.0.2.2"))) ? "reached\n" : "refused: $!\n";
"""


def test_a_guest_reaches_nobody_through_its_network_card(engine: Engine) -> None:
    """By root in there, while somebody listens on this host's loopback, where 10.0.2.2 would lead to."""
    heard = socket.create_server(("127.0.0.1", 0))
    heard.settimeout(0.2)
    port = heard.getsockname()[1]

    async def main() -> None:
        async with engine.clone() as clone:
            connect = f"perl -e {shlex.quote(CONNECT)} {port}; cat /proc/net/arp"
            told = await said(clone, connect, privileged=True)
            assert "reached" not in told
            assert "10.0.2.2 " in told, "the card works: QEMU was asked"
        with pytest.raises(TimeoutError):
            heard.accept()

    drive(main())
    heard.close()


def test_what_qemu_was_given_to_read_it_cannot_write(engine: Engine, tmp_path: Path) -> None:
    """Of a user's own QEMU the images are the user's too: opened anew, the next machines' would be others."""
    tmp_path.chmod(0o755)
    image = tmp_path / "image"
    image.write_text("as it was built\n")
    image.chmod(0o666)
    given = os.open(image, os.O_RDONLY)
    shell = os.path.realpath("/bin/sh")
    try:
        script = f"read -r line < /proc/self/fd/{given}; echo $line >&2; echo evil > /proc/self/fd/{given}"
        escaped = ConfinedQemu(engine.confinement, "tcg", (shell, "-c", script), (given,))
        assert select.select([escaped.pidfd], [], [], 30)[0]
        words = escaped.collect()
    finally:
        os.close(given)
    assert "as it was built" in words
    assert "Permission denied" in words
    assert image.read_text() == "as it was built\n"
