"""The agent's decoders: what the host writes is taken, anything else refused, and nothing hurts them."""

from __future__ import annotations

import io
import random
import re
import struct
import subprocess
import tarfile
from enum import IntEnum
from functools import cache
from pathlib import Path

import pytest

from backends.inside import agent_codec, agent_protocol
from backends.inside.agent_protocol import (
    Channel,
    EndedFlag,
    Flag,
    Frame,
    GuestCommand,
    GuestContainer,
    GuestFiles,
    GuestHide,
    GuestIdentity,
    GuestMount,
    Kind,
    MountFlag,
    Step,
    Tag,
)

FRAMES, ARCHIVE, SIZES = 1000, 1001, 1002
RECORD = struct.Struct("<II")
COMMAND = GuestCommand(
    ("sh", "-c", "true"), (("A", "b"), ("C", "")), rlimits=((7, 10, 20),), tty=(24, 80), no_input=True,
    timeout=(1, 2, 15), zygote="print(1)", seccomp=bytes(32), cgroup=(("pids.max", "5"),), privileged=True,
)  # fmt: skip
FILES = GuestFiles("/work", owner=(1, 2), at_most_bytes=9, replace=True)
MOUNT = GuestMount("/data", "/dev/vdb", "erofs", MountFlag.READ_ONLY, 5)
CONTAINER = GuestContainer(
    "/dev/vda", "box", "ext4", "/dev/vdb", 7, MountFlag.READ_ONLY, own_network=True,
    cgroup=(("pids.max", "5"), ("memory.max", "6")),
)  # fmt: skip
IDENTITY = GuestIdentity(1, bytes(64), "a" * 32, bytes(6), "guest")
REQUESTS = {
    Kind.EXEC: agent_codec.command(COMMAND),
    Kind.PUT: agent_codec.files(FILES),
    Kind.GET: agent_codec.files(FILES),
    Kind.MOUNT: agent_codec.mount(MOUNT),
    Kind.HIDE: agent_codec.hide(GuestHide(("/a", "/b c"))),
    Kind.CONTAINER: agent_codec.container(CONTAINER),
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The agent's own decoders under the address and undefined-behaviour sanitisers."""
    program = tmp_path_factory.mktemp("agent") / "driver"
    inside = checkout / "backends/inside"
    sources = [inside / name for name in ("agent_frames.c", "agent_request.c", "agent_tar.c")]
    command = [
        "gcc",
        "-std=gnu11",
        "-g",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsanitize=address,undefined",
    ]
    command += ["-fno-sanitize-recover=all", f"-I{inside}", "-o", str(program)]
    subprocess.run([*command, checkout / "tests/unit/agent_driver.c", *sources], check=True)
    return program


def answers(driver: Path, portions: list[tuple[int, bytes]]) -> list[list[int]]:
    """The numbers the driver prints for each (mode, bytes); fails when it crashes or a sanitiser speaks."""
    stream = b"".join(struct.pack("<II", mode, len(portion)) + portion for mode, portion in portions)
    done = subprocess.run([driver], input=stream, capture_output=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, b"")
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


def records_of(message: bytes) -> list[tuple[int, bytes]]:
    records: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(message):
        tag, length = RECORD.unpack_from(message, offset)
        records.append((tag, message[offset + RECORD.size : offset + RECORD.size + length]))
        offset += RECORD.size + length
    return records


def assemble(records: list[tuple[int, bytes]]) -> bytes:
    return b"".join(RECORD.pack(tag, len(payload)) + payload for tag, payload in records)


# --- one truth in two languages


def constants(header: str, prefix: str) -> dict[str, int]:
    found = re.findall(rf"\bAGENT_{prefix}(\w+) = (\d+)", header)
    return {name: int(value) for name, value in found}


def members(kind: type[IntEnum]) -> dict[str, int]:
    return {member.name: member.value for member in kind}


def test_both_sides_agree_on_every_number(checkout: Path) -> None:
    header = (checkout / "backends/inside/agent_wire.h").read_text()
    [kinds] = re.findall(r"enum agent_kind \{(.*?)\};", header, re.DOTALL)
    assert constants(kinds, "") == members(Kind)
    assert constants(header, "TAG_") == members(Tag)
    assert constants(header, "STEP_") == members(Step)
    for prefix, flags in (("FLAG_", Flag), ("MOUNT_", MountFlag), ("ENDED_", EndedFlag)):
        ours = {member.name: member.value for member in flags}
        found = constants(header, prefix)
        assert {name: value for name, value in found.items() if name in ours} == ours
    [channels] = re.findall(r"enum agent_channel \{(.*?)\};", header, re.DOTALL)
    assert constants(channels, "") == members(Channel)
    assert f"#define AGENT_MAGIC {agent_protocol.MAGIC:#010X}u".replace("0X", "0x") in header
    assert f"#define AGENT_VERSION {agent_protocol.VERSION}u" in header


def test_both_sides_agree_on_every_bound(checkout: Path) -> None:
    header = (checkout / "backends/inside/agent_wire.h").read_text()
    names = ("MAX_PAYLOAD", "WINDOW", "MAX_STREAMS", "RANDOM_BYTES")
    found = constants(header, "")
    assert {name: found[name] for name in names} == {name: getattr(agent_protocol, name) for name in names}
    assert "AGENT_MAX_MESSAGE = 8 << 20" in header
    assert agent_protocol.MAX_MESSAGE == 8 << 20
    boot = (checkout / "backends/inside/agent_boot.c").read_text()
    assert f'#define PORT_NAME "{agent_protocol.PORT_NAME}"' in boot


def test_both_sides_agree_on_every_structure(driver: Path) -> None:
    shapes = (
        "HEADER",
        "_RECORD",
        "_HELLO",
        "_WELCOME",
        "_IDENTITY",
        "_USER",
        "_RLIMIT",
        "_TIMEOUT",
        "_AT_MOST",
    )
    shapes += ("_SIZE", "_ENDED", "_FAILED", "_DONE", "_REPORTED")
    ours = [getattr(agent_codec, name).size for name in shapes]
    assert answers(driver, [(SIZES, b"")]) == [ours]


def test_the_zygote_knows_the_same_numbers(checkout: Path) -> None:
    from backends.inside import zygote

    for tag in (Tag.ARG, Tag.ENV, Tag.CWD, Tag.USER, Tag.RLIMIT, Tag.UMASK, Tag.TTY, Tag.ZYGOTE, Tag.SECCOMP):
        assert getattr(zygote, f"_{tag.name}") == tag
    assert vars(zygote)["_PRIVILEGED"] == Tag.PRIVILEGED
    steps = (Step.PIPES, Step.TERMINAL, Step.IDENTITY, Step.RLIMIT, Step.CWD, Step.SECCOMP, Step.ZYGOTE)
    for step in steps:
        assert getattr(zygote, f"_STEP_{step.name}") == step


# --- frames


def test_what_the_host_sends_is_taken(driver: Path) -> None:
    stream = b"".join(
        map(
            agent_codec.encode_frame,
            (
                Frame(Kind.HELLO, 0, agent_codec.hello()),
                Frame(Kind.PING, 1),
                Frame(Kind.IDENTITY, 2, agent_codec.identity(IDENTITY)),
                Frame(Kind.INPUT, 3, bytes(65536)),
                Frame(Kind.INPUT_END, 3),
                Frame(Kind.CREDIT, 3, agent_codec.number(9), Channel.STDERR),
                Frame(Kind.RESIZE, 3, agent_codec.resize(1, 2)),
                Frame(Kind.SIGNAL, 0, agent_codec.number(9), Flag.EVERY),
                Frame(Kind.REPORT, 4),
                Frame(Kind.SYNC, 5),
                Frame(Kind.POWER_OFF, 6),
            ),
        )
    )
    long = agent_codec.encode_message(Kind.EXEC, 7, bytes(200_000))
    assert answers(driver, [(FRAMES, stream), (FRAMES, long), (FRAMES, stream[:-1])]) == [
        [0, 11],
        [0, 4],
        [0, 10],
    ]


def test_a_frame_that_may_not_come_is_refused_by_its_header(driver: Path) -> None:
    wrong = [
        struct.pack("<IHHI", *head)
        for head in (
            (65537, Kind.INPUT, 0, 1),  # too long
            (0xFFFFFFFF, Kind.INPUT, 0, 1),
            (0, 0, 0, 0),  # kinds that there are not
            (0, 16, 0, 0),
            (0, Kind.WELCOME, 0, 0),  # the agent's own
            (7, Kind.HELLO, 0, 0),  # cut short
            (3, Kind.CREDIT, 1, 1),
            (5, Kind.SIGNAL, 0, 1),
            (1, Kind.INPUT_END, 0, 1),
            (0, Kind.PING, 1, 0),  # a flag that it does not have
            (4, Kind.CREDIT, 4, 1),
            (0, Kind.EXEC, 2, 1),
            (0, Kind.EXEC, 0, 0),  # a request without a number
            (0, Kind.INPUT, 0, 0),
        )
    ]
    assert answers(driver, [(FRAMES, head) for head in wrong]) == [[-1, 0]] * len(wrong)


# --- requests


def test_what_python_writes_is_taken(driver: Path) -> None:
    portions = [(int(kind), message) for kind, message in REQUESTS.items()]
    assert answers(driver, portions) == [[0]] * len(portions)


def test_every_record_is_checked(driver: Path) -> None:
    command, mount = records_of(REQUESTS[Kind.EXEC]), records_of(REQUESTS[Kind.MOUNT])
    container = records_of(REQUESTS[Kind.CONTAINER])
    wrong = [
        (Kind.EXEC, REQUESTS[Kind.MOUNT]),  # another request's
        (Kind.MOUNT, REQUESTS[Kind.PUT]),
        (Kind.HIDE, REQUESTS[Kind.MOUNT]),
        (Kind.HIDE, b""),
        (Kind.EXEC, assemble([*command, (99, b"")])),
        (Kind.EXEC, assemble([*command, (0, b"")])),
        (Kind.EXEC, assemble([*command, (Tag.CWD, b"/\0")])),  # a second one
        (Kind.EXEC, assemble([*command, (Tag.ARG, b"unterminated")])),
        (Kind.EXEC, assemble([*command, (Tag.ARG, b"nul\0inside\0")])),
        (Kind.EXEC, assemble([*command, (Tag.ARG, b"")])),
        (Kind.EXEC, assemble([*command, (Tag.ENV, b"NO_VALUE\0")])),
        (Kind.EXEC, assemble([*command, (Tag.CGROUP, b"no value\0")])),
        (Kind.EXEC, assemble([*command, *[(Tag.RLIMIT, bytes(20))] * 16])),
        (Kind.EXEC, assemble([(Tag.SECCOMP, bytes(7)), *(r for r in command if r[0] != Tag.SECCOMP)])),
        (Kind.EXEC, assemble([(Tag.SECCOMP, bytes(8 * 4097)), *(r for r in command if r[0] != Tag.SECCOMP)])),
        (Kind.MOUNT, assemble([*mount, (Tag.SIZE, bytes(8))])),
        (Kind.MOUNT, REQUESTS[Kind.CONTAINER]),
        (Kind.CONTAINER, REQUESTS[Kind.MOUNT]),
        (Kind.CONTAINER, assemble([*container, (Tag.UPPER, b"/dev/vdc\0")])),
        (Kind.CONTAINER, assemble([*container, (Tag.CGROUP, b"no value\0")])),
        (Kind.CONTAINER, assemble([*container, (Tag.OWN_NETWORK, b"")])),
        (Kind.CONTAINER, assemble([*container, (Tag.ARG, b"sh\0")])),
    ]
    for kind, needed in (
        (Kind.EXEC, (Tag.ARG, Tag.CWD, Tag.USER, Tag.UMASK)),
        (Kind.GET, (Tag.PATH, Tag.AT_MOST)),
        (Kind.MOUNT, (Tag.PATH, Tag.MOUNT_FLAGS)),
        (Kind.CONTAINER, (Tag.HOSTNAME, Tag.MOUNT_FLAGS)),
    ):
        records = records_of(REQUESTS[kind])
        wrong += [(kind, assemble([r for r in records if r[0] != tag])) for tag in needed]
    verdicts = answers(driver, [(int(kind), message) for kind, message in wrong])
    assert [spec for spec, verdict in zip(wrong, verdicts, strict=True) if verdict == [0]] == []


def test_every_truncation_is_refused_or_whole(driver: Path) -> None:
    for kind, message in REQUESTS.items():
        cut = [(int(kind), message[:length]) for length in range(len(message))]
        assert answers(driver, cut).count([0]) < len(records_of(message))


# --- archives


@cache
def archive(form: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        for name, kind, size in (
            (".", tarfile.DIRTYPE, 0),
            ("./a", tarfile.DIRTYPE, 0),
            ("./a/" + "x" * 150, tarfile.REGTYPE, 700),
            ("a/é", tarfile.REGTYPE, 0),
            ("a/link", tarfile.SYMTYPE, 0),
            ("a/hard", tarfile.LNKTYPE, 0),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.mtime = kind, size, 1700000000
            entry.linkname = (
                "./a/" + "x" * 150 if kind == tarfile.LNKTYPE else "/else" * (kind == tarfile.SYMTYPE)
            )
            if form == tarfile.PAX_FORMAT:
                entry.pax_headers = {"mtime": "1700000000.123456789", "comment": "nothing"}
            tar.addfile(entry, io.BytesIO(bytes(size)))
    return packed.getvalue()


def test_archives_are_read_and_written_alike(driver: Path) -> None:
    assert answers(driver, [(ARCHIVE, archive(tarfile.PAX_FORMAT))]) == [[0, 6]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out", tarfile.REGTYPE),
        ("a/../../out", tarfile.REGTYPE),
        ("/etc/passwd", tarfile.REGTYPE),
        ("device", tarfile.CHRTYPE),
        ("device", tarfile.BLKTYPE),
        ("pipe", tarfile.FIFOTYPE),
        ("sparse", tarfile.GNUTYPE_SPARSE),
    ],
)
def test_what_leads_out_and_what_is_no_file_is_refused(driver: Path, name: str, kind: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    assert answers(driver, [(ARCHIVE, entry.tobuf(tarfile.USTAR_FORMAT))]) == [[-1, 0]]


# --- fuzzing


def test_mutated_input_does_no_harm(driver: Path, soak: bool) -> None:
    chance = random.Random(20261128)
    portions = [mutated(chance) for _ in range(60_000 if soak else 6_000)]
    verdicts = answers(driver, portions)
    assert len(verdicts) == len(portions)
    accepted = sum(verdict[0] == 0 for verdict in verdicts)
    assert 0 < accepted < len(verdicts)


def mutated(chance: random.Random) -> tuple[int, bytes]:
    turn = chance.randrange(3)
    if turn == 0:
        frames = agent_codec.encode_message(Kind.EXEC, 7, bytes(chance.choice((0, 9, 70_000))))
        frames += agent_codec.encode_frame(Frame(Kind.IDENTITY, 2, agent_codec.identity(IDENTITY)))
        return FRAMES, flipped(chance, frames, len(frames) if chance.random() < 0.5 else 16)
    if turn == 1:
        packed = archive(tarfile.PAX_FORMAT)
        start = 512 * chance.randrange(len(packed) // 512)
        return ARCHIVE, resealed(packed[:start] + flipped(chance, packed[start:], 512))
    kind = chance.choice(list(REQUESTS))
    records = records_of(REQUESTS[kind])
    place = chance.randrange(len(records))
    tag, payload = records[place]
    change = chance.randrange(5)
    if change == 0:
        records.insert(place, records[place])
    elif change == 1:
        del records[place]
    elif change == 2:
        records[place] = (chance.randrange(55), payload)
    elif change == 3:
        records[place] = (tag, chance.randbytes(chance.choice((0, 1, 4, 8, 20, len(payload)))))
    else:
        records[place] = (tag, flipped(chance, payload, len(payload)))
    message = assemble(records)
    return int(kind), flipped(chance, message, len(message)) if chance.random() < 0.4 else message


def flipped(chance: random.Random, data: bytes, within: int) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(changed), chance.randint(1, 4))):
        place = chance.randrange(min(len(changed), within))
        changed[place] = chance.choice((0, 1, 0x39, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(changed)


def resealed(packed: bytes) -> bytes:
    """With right checksums in what looks like a header, so that the fields behind them are looked at."""
    blocks = [bytearray(packed[at : at + 512]) for at in range(0, len(packed), 512)]
    for block in blocks:
        if block.startswith(b"ustar", 257):
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)
