"""Files in and out of a guest, and mounts: the agent makes and reads the archives, and is not led astray."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backends.inside import agent_codec
from backends.inside.agent_protocol import (
    GuestCommand,
    GuestDone,
    GuestFailed,
    GuestFiles,
    GuestHide,
    GuestMount,
    Kind,
    MountFlag,
    Step,
)
from tests.unit.agent_client import PATH, AgentClient, done_or_failed, private_agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent is root in its namespaces")


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentClient]:
    with private_agent("mount -t tmpfs none /mnt; mkdir -m 1777 /mnt/t; umask 077") as client:
        yield client


@pytest.fixture
def place(agent: AgentClient, request: pytest.FixtureRequest) -> str:
    """A name in there that does not exist yet."""
    return f"/mnt/{request.node.name.translate(str.maketrans('[]/ ', '----'))}"


class Entry(tarfile.TarInfo):
    """A member and what is in it."""

    content: bytes


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: Any) -> Entry:
    made = Entry(name)
    made.type, made.size, made.content = kind, len(content), content
    for field, value in more.items():
        setattr(made, field, value)
    return made


def archive(*entries: Entry) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for each in entries:
            tar.addfile(each, io.BytesIO(each.content))
    return packed.getvalue()


def members(packed: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {member.name: member for member in tar}


def content(packed: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = tar.extractfile(name)
        assert found is not None
        return found.read()


def root(agent: AgentClient, script: str) -> str:
    spec = GuestCommand(("sh", "-ec", script), PATH, user=(0, 0), privileged=True)
    done = agent.run(spec)
    assert done.exit_code == 0, done
    return done.stdout.decode()


def failure(answer: GuestDone | GuestFailed) -> tuple[Step, int]:
    assert isinstance(answer, GuestFailed), answer
    return answer.step, answer.errno


TREE = (
    entry(".", kind=tarfile.DIRTYPE, mode=0o750, mtime=1111),
    entry("./folder", kind=tarfile.DIRTYPE, mode=0o1777, mtime=2222.5, uid=5, gid=6),
    entry("./folder/" + "long" * 40, b"content" * 20_000, mode=0o6755, mtime=1700000000.25, uid=70000, gid=8),
    entry("./folder/empty", mode=0o600),
    entry("link", kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
    entry("a/new/one", b"x", mode=0o640),
    entry("same", kind=tarfile.LNKTYPE, linkname="a/new/one"),
)


def test_a_tree_comes_out_as_it_went_in(agent: AgentClient, place: str) -> None:
    assert agent.put(GuestFiles(f"{place}/deeper"), archive(*TREE)) == GuestDone(140_001, 7)
    packed, done = agent.get(GuestFiles(f"{place}/deeper"))
    assert done == GuestDone(
        140_002, 9
    )  # both names of the file that has two, and two folders that nobody named
    seen = members(packed)
    long = seen["./folder/" + "long" * 40]
    assert (long.mode, long.uid, long.gid, long.mtime) == (0o755, 70000, 8, 1700000000.25)
    assert content(packed, long.name) == b"content" * 20_000
    folder = seen["./folder"]
    assert (folder.mode, folder.uid, folder.gid, folder.mtime) == (0o1777, 5, 6, 2222.5)
    assert (seen["."].mode, seen["."].mtime) == (0o750, 1111)
    assert (seen["./link"].type, seen["./link"].linkname) == (tarfile.SYMTYPE, "/etc/passwd")
    assert (content(packed, "./same"), seen["./same"].mode) == (b"x", 0o640)
    assert root(agent, f"stat -c %h {place}/deeper/same") == "2\n"
    assert next(iter(seen)) == "."


def test_one_file_goes_in_and_out_under_a_dot(agent: AgentClient, place: str) -> None:
    assert agent.put(GuestFiles(f"{place}/file"), archive(entry(".", b"data", mode=0o644))) == GuestDone(4, 1)
    packed, done = agent.get(GuestFiles(f"{place}/file"))
    assert (done, content(packed, "."), list(members(packed))) == (GuestDone(4, 1), b"data", ["."])


def test_an_empty_archive_makes_the_folder(agent: AgentClient, place: str) -> None:
    assert agent.put(GuestFiles(place), archive()) == GuestDone(0, 0)
    assert list(members(agent.get(GuestFiles(place))[0])) == ["."]


def test_everything_gets_the_owner_that_was_asked_for(agent: AgentClient, place: str) -> None:
    agent.put(GuestFiles(place, owner=(7, 8)), archive(*TREE))
    owners = root(agent, f"find {place} -exec stat -c '%u %g' {{}} +")
    assert set(owners.splitlines()) == {"7 8"}


def test_what_is_there_is_replaced_only_when_that_was_asked_for(agent: AgentClient, place: str) -> None:
    root(agent, f"mkdir {place}; echo old >{place}/one; ln -s /etc/passwd {place}/two; mkdir {place}/folder")
    new = archive(entry("one", b"new"), entry("two", b"new"))
    assert failure(agent.put(GuestFiles(place), new)) == (Step.WRITE, 17)
    assert agent.put(GuestFiles(place, replace=True), new) == GuestDone(6, 2)
    assert root(agent, f"cat {place}/one {place}/two; head -c 5 /etc/passwd") == "newnewroot:"
    assert failure(agent.put(GuestFiles(place, replace=True), archive(entry("folder", b"x")))) == (
        Step.WRITE,
        21,
    )


# --- attacks


@pytest.mark.parametrize(
    ("evil", "step"),
    [
        ((entry("../out", b"x"),), Step.ARCHIVE),
        ((entry("in/../../out", b"x"),), Step.ARCHIVE),
        ((entry("/mnt/out", b"x"),), Step.ARCHIVE),
        ((entry("device", kind=tarfile.CHRTYPE, devmajor=1, devminor=1),), Step.ARCHIVE),
        ((entry("pipe", kind=tarfile.FIFOTYPE),), Step.ARCHIVE),
        ((entry("l", kind=tarfile.SYMTYPE, linkname="/mnt"), entry("l/out", b"x")), Step.OPEN),
        ((entry("l", kind=tarfile.SYMTYPE, linkname=".."), entry("l", kind=tarfile.DIRTYPE)), Step.WRITE),
        ((entry("l", kind=tarfile.SYMTYPE, linkname="../out"), entry("l", b"x")), Step.WRITE),
        ((entry("h", kind=tarfile.LNKTYPE, linkname="../../etc/passwd"),), Step.ARCHIVE),
        ((entry("h", kind=tarfile.LNKTYPE, linkname="/etc/passwd"),), Step.ARCHIVE),
        ((entry("l", kind=tarfile.SYMTYPE, linkname="/"), entry("h", kind=tarfile.LNKTYPE, linkname="l/x")),
         Step.WRITE),
        ((entry("x", b"x", pax_headers={"path": "../out"}),), Step.ARCHIVE),
    ],
)  # fmt: skip
def test_nothing_gets_out_of_the_folder(
    agent: AgentClient, place: str, evil: tuple[Entry, ...], step: Step
) -> None:
    assert failure(agent.put(GuestFiles(place), archive(*evil)))[0] is step
    assert root(agent, "ls /mnt").split().count("out") == 0
    assert agent.ask(Kind.PING).kind is Kind.PONG


def test_a_link_on_the_way_is_never_followed(agent: AgentClient, place: str) -> None:
    root(agent, f"mkdir -p {place}/real; ln -s real {place}/link; ln -s /etc/passwd {place}/file")
    for path in (f"{place}/link/x", f"{place}/link", f"{place}/file"):
        assert (
            failure(agent.put(GuestFiles(path, replace=path.endswith("x")), archive(entry("x", b"x"))))[1]
            == 40
        )
        assert failure(agent.get(GuestFiles(path))[1])[1] == 40
    assert root(agent, f"ls {place}/real") == ""


@pytest.mark.parametrize("path", ["relative", "", "/mnt/../etc", "/proc/self/root/etc/x", "/" + "x" * 5000])
def test_a_path_that_is_none_is_refused(agent: AgentClient, path: str) -> None:
    for answer in (agent.put(GuestFiles(path), archive(entry("x"))), agent.get(GuestFiles(path))[1]):
        assert failure(answer)[0] in (Step.OPEN, Step.WRITE)


def test_more_than_was_granted_is_refused_before_it_is_written(agent: AgentClient, place: str) -> None:
    big = archive(entry("one", bytes(600)), entry("two", bytes(600)))
    assert failure(agent.put(GuestFiles(place, at_most_bytes=1000), big)) == (Step.TOO_MUCH, 27)
    assert root(agent, f"ls {place}") == "one\n"
    assert failure(agent.put(GuestFiles(f"{place}2", at_most_entries=1), big))[0] is Step.TOO_MUCH
    assert failure(agent.get(GuestFiles(place, at_most_bytes=500))[1])[0] is Step.TOO_MUCH
    root(agent, f"truncate -s 1T {place}/sparse")
    assert failure(agent.get(GuestFiles(place, at_most_bytes=1 << 20))[1])[0] is Step.TOO_MUCH
    huge = entry("x")
    huge.size = 1 << 50
    header = huge.tobuf(tarfile.PAX_FORMAT)
    assert failure(agent.put(GuestFiles(f"{place}3"), header))[0] is Step.TOO_MUCH


@pytest.mark.parametrize("cut", [1, 511, 512, 700, 1024, 1536])
def test_an_archive_that_ends_too_early_is_a_failure(agent: AgentClient, place: str, cut: int) -> None:
    assert failure(agent.put(GuestFiles(place), archive(entry("one", bytes(600)))[:cut])) == (
        Step.ARCHIVE,
        32,
    )


def test_garbage_is_a_failure(agent: AgentClient, place: str) -> None:
    assert failure(agent.put(GuestFiles(place), b"\xa5" * 300_000))[0] is Step.ARCHIVE
    assert agent.ask(Kind.PING).kind is Kind.PONG


def test_what_is_no_file_does_not_come_out(agent: AgentClient, place: str) -> None:
    root(
        agent,
        f"mkdir -p {place}/mounted; cd {place}; mkfifo pipe; mknod device c 1 3; echo x >file"
        "; chmod 4755 file; mount -t tmpfs none mounted; echo secret >mounted/in",
    )
    seen = members(agent.get(GuestFiles(place))[0])
    assert sorted(seen) == [".", "./file", "./mounted"]
    assert seen["./file"].mode == 0o755


def test_files_that_change_while_they_are_read_keep_the_archive_whole(agent: AgentClient, place: str) -> None:
    root(agent, f"mkdir {place}; head -c 3000000 /dev/urandom >{place}/f")
    script = f"cd {place}; i=0; while :; do : >f; head -c 3000000 /dev/zero >>f; mkdir -p d; rmdir d; done"
    writer = agent.start(GuestCommand(("sh", "-c", script), PATH, user=(0, 0), privileged=True))
    agent.wait_for(writer, Kind.STARTED)
    for _ in range(20):
        packed, done = agent.get(GuestFiles(place))
        assert isinstance(done, GuestDone)
        assert {"."} <= set(members(packed)) <= {".", "./f", "./d"}
        assert sum(member.size for member in members(packed).values()) == done.bytes
    agent.send(Kind.SIGNAL, writer, agent_codec.number(9))
    agent.finish(writer)


def test_a_folder_that_turns_into_a_link_meanwhile_leads_nowhere(agent: AgentClient, place: str) -> None:
    root(agent, f"mkdir -p {place}/t/d {place}/outside; chmod 777 {place} {place}/t {place}/t/d")
    script = f"cd {place}/t; while :; do mv d e; ln -s ../outside d; rm d; mv e d; done"
    swapper = agent.start(GuestCommand(("sh", "-c", script), PATH))
    agent.wait_for(swapper, Kind.STARTED)
    for turn in range(60):
        agent.put(GuestFiles(f"{place}/t", replace=True), archive(entry(f"d/{turn}", b"x")))
    agent.send(Kind.SIGNAL, swapper, agent_codec.number(9))
    agent.finish(swapper)
    assert root(agent, f"ls {place}/outside") == ""


def test_deep_folders_are_read_to_the_bottom_or_refused(agent: AgentClient, place: str) -> None:
    deep = "d/" * 300
    assert agent.put(GuestFiles(place), archive(entry(f"{deep}f", b"x"))) == GuestDone(1, 1)
    assert agent.get(GuestFiles(place))[1] == GuestDone(1, 302)
    root(agent, f"cd {place}; for i in $(seq 25); do mkdir {'n' * 200}; cd -P {'n' * 200}; done")
    assert failure(agent.get(GuestFiles(place))[1]) == (Step.READ, 36)


def test_transfers_run_beside_programs_and_each_other(agent: AgentClient, place: str) -> None:
    data = os.urandom(3_000_000)
    for number in range(3):
        agent.put(GuestFiles(f"{place}/{number}"), archive(entry("f", data)))
    streams = [agent.new_stream() for _ in range(3)]
    for number, stream in enumerate(streams):
        request = agent_codec.files(GuestFiles(f"{place}/{number}"))
        agent.connection.sendall(agent_codec.encode_message(Kind.GET, stream, request))
    assert agent.run(GuestCommand(("echo", "x"), PATH)).stdout == b"x\n"
    for stream in streams:
        assert content(agent.collect(stream)[0], "./f") == data


# --- mounts


@pytest.fixture
def mount(agent: AgentClient) -> Callable[[GuestMount], GuestDone | GuestFailed]:
    return lambda spec: done_or_failed(agent.ask(Kind.MOUNT, agent_codec.mount(spec)))


Mounting = Callable[[GuestMount], GuestDone | GuestFailed]


def test_memory_is_mounted_with_its_size(agent: AgentClient, mount: Mounting, place: str) -> None:
    assert isinstance(mount(GuestMount(f"{place}/a/b", file_system="tmpfs", size_bytes=1 << 20)), GuestDone)
    line = root(agent, f"grep ' {place}/a/b ' /proc/mounts")
    assert {"nosuid", "nodev", "size=1024k", "mode=755"} <= set(line.split()[3].split(","))


def test_folders_and_files_are_bound_with_their_flags(
    agent: AgentClient, mount: Mounting, place: str
) -> None:
    root(agent, f"mkdir -p {place}/from/sub; echo x >{place}/from/file; mount -t tmpfs none {place}/from/sub")
    flags = MountFlag.BIND | MountFlag.READ_ONLY | MountFlag.NO_EXEC
    assert isinstance(mount(GuestMount(f"{place}/to", f"{place}/from", flags=flags)), GuestDone)
    assert isinstance(mount(GuestMount(f"{place}/a/file", f"{place}/from/file", flags=flags)), GuestDone)
    for target in (f"{place}/to", f"{place}/a/file"):
        options = set(root(agent, f"grep ' {target} ' /proc/mounts").split()[3].split(","))
        assert {"ro", "noexec"} <= options
    assert root(agent, f"cat {place}/a/file") == "x\n"
    assert root(agent, f"grep -c ' {place}/to/sub ' /proc/mounts || true") == "0\n"


# Other names of what is hidden are looked for in all of the root's file system: the host's may have millions.
_SMALL_ROOT = """
mount -t tmpfs none /mnt; cd /mnt; mkdir usr proc run mnt old
for one in usr proc; do mount --rbind /$one $one; done
for one in bin sbin lib lib64; do ln -s usr/$one $one; done
pivot_root . old; umount -l old; cd /
"""


def test_what_is_hidden_is_covered_and_what_cannot_be_says_so() -> None:
    with private_agent(_SMALL_ROOT) as agent:
        _hide_and_look(agent, "/mnt/place")


def _hide_and_look(agent: AgentClient, place: str) -> None:
    def hide(*names: str) -> GuestDone | GuestFailed:
        return done_or_failed(agent.ask(Kind.HIDE, agent_codec.hide(GuestHide(names))))

    memory = agent_codec.mount(GuestMount(place, file_system="tmpfs"))
    assert isinstance(done_or_failed(agent.ask(Kind.MOUNT, memory)), GuestDone)
    root(agent, f"cd {place}; mkdir folder; echo x > file; echo y > folder/file; ln -s file link")
    root(agent, f"cd {place}; ln -s /proc/self/mounts of-each; echo z > one; ln one two")
    assert isinstance(hide(f"{place}/link", f"{place}/folder", f"{place}/none/at/all"), GuestDone)
    seen = root(agent, f"cd {place}; cat file; ls folder; stat -c %a file folder")
    assert seen == "0\n111\n"
    assert failure(hide("relative")) == (Step.HIDE, 22)
    assert failure(hide(f"{place}/of-each")) == (Step.HIDE, 95), "each process has its own"
    assert failure(hide(f"{place}/one")) == (Step.HIDE, 31), "its other name is not on the root's file system"


def test_what_cannot_be_mounted_says_why(agent: AgentClient, mount: Mounting, place: str) -> None:
    root(agent, f"mkdir {place}; ln -s /etc {place}/link")
    bind = MountFlag.BIND
    for spec, step, errno in (
        (GuestMount(f"{place}/link/x", "/usr", flags=bind), Step.MOUNT_POINT, 40),
        (GuestMount(f"{place}/link", "/usr", flags=bind), Step.MOUNT_POINT, 40),
        (GuestMount(f"{place}/x", f"{place}/link", flags=bind), Step.OPEN, 40),
        (GuestMount(f"{place}/x", "/no/such", flags=bind), Step.OPEN, 2),
        (GuestMount(f"{place}/x", "/dev/no-such", "erofs"), Step.MOUNT, 2),
        (GuestMount(f"{place}/x", "none", "proc"), Step.MOUNT, 19),
        (GuestMount("relative", file_system="tmpfs"), Step.MOUNT_POINT, 22),
    ):
        assert failure(mount(spec)) == (step, errno), spec
