"""The launcher's reader of specs: right ones are taken, wrong ones refused, and none of them hurts it."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest

from backends.frozen import replace
from backends.inside import protocol
from backends.inside.codec import encode
from backends.inside.protocol import (
    ContainerIds,
    IdMap,
    InsideSpec,
    LandlockPath,
    LandlockRules,
    OutsideSpec,
    StageEntry,
    StageMount,
    StageRoot,
    UserNamespace,
)

OUTSIDE, INSIDE = 1, 2
HEADER = struct.Struct("<IIII")
RECORD = struct.Struct("<II")
FULL_OUTSIDE = OutsideSpec(
    parent_pid=7, control=5, argv=("/usr/bin/bwrap", "--args", "9"), cgroups=(3, 4), stage="/run/stage",
    mounts=(StageMount(6, 1, 2, 0o040000, True), StageMount(7, 1, 3, 0o100000, False, IdMap(0, 0, 9, 9))),
    identity=(70000, 70000), keep=(8, 9),
    users=UserNamespace(
        (ContainerIds(0, 100000, 100001), ContainerIds(1000, 1001, 1002)), ("/usr/bin/uid", "/usr/bin/gid")
    ),
    root=StageRoot(
        11, 1 << 40, ContainerIds(0, 70001, 70002), ContainerIds(1000, 70003, 70004), ("/x", "/usr/\udcff"),
        (StageEntry("root/etc/x", 0o100444, "content\n"), StageEntry("root/l", 0o120777, "/to")),
    ),
)  # fmt: skip
FULL_INSIDE = InsideSpec(
    control=5, argv=("sh", "-c", "true"), env=(("A", "b"), ("C", "")), cwd="/tmp", stderr=6, tty=True,
    owners=(10, 11), hold=(7,), rlimits=((7, 10, 20),), seccomp=bytes(8) * 4,
    masks=((8, "/denied"), (9, "/also/denied")), guards=("/denied", "/fixed"),
    give=(12, 13), user=(1000, 1000),
    landlock=LandlockRules(0xFFFF, 0, 3, (LandlockPath("/", 13), LandlockPath("/tmp", 2, optional=True))),
)  # fmt: skip


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The launcher's own spec.c under the address and undefined-behaviour sanitisers."""
    program = tmp_path_factory.mktemp("spec") / "driver"
    inside = checkout / "backends/inside"
    sources = [checkout / "tests/unit/spec_driver.c", inside / "spec.c"]
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
    subprocess.run(
        [*command, "-fno-sanitize-recover=all", f"-I{inside}", "-o", program, *sources], check=True
    )
    return program


def verdicts(driver: Path, specs: list[tuple[int, bytes]]) -> list[int]:
    """The driver's errno for each (mode, spec); fails when it crashes or a sanitiser speaks."""
    stream = b"".join(struct.pack("<II", mode, len(spec)) + spec for mode, spec in specs)
    done = subprocess.run([driver], input=stream, capture_output=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, b"")
    return [int(line) for line in done.stdout.split()]


def records_of(encoded: bytes) -> list[tuple[int, bytes]]:
    records: list[tuple[int, bytes]] = []
    offset = HEADER.size
    while offset < len(encoded):
        tag, length = RECORD.unpack_from(encoded, offset)
        records.append((tag, encoded[offset + RECORD.size : offset + RECORD.size + length]))
        offset += RECORD.size + length
    return records


def assemble(mode: int, records: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(RECORD.pack(tag, len(payload)) + payload for tag, payload in records)
    return HEADER.pack(protocol.MAGIC, protocol.VERSION, mode, HEADER.size + len(body)) + body


def test_what_python_writes_is_taken(driver: Path) -> None:
    specs = [(OUTSIDE, encode(FULL_OUTSIDE)), (INSIDE, encode(FULL_INSIDE))]
    specs.append((INSIDE, encode(InsideSpec(control=3, argv=("x" * 1_000_000,) * 5))))
    assert FULL_OUTSIDE.root is not None
    specs.append((OUTSIDE, encode(replace(FULL_OUTSIDE, root=replace(FULL_OUTSIDE.root, entries=())))))
    assert verdicts(driver, specs) == [0, 0, 0, 0]


def test_every_record_is_checked(driver: Path) -> None:
    inside, outside = records_of(encode(FULL_INSIDE)), records_of(encode(FULL_OUTSIDE))
    wrong = [
        (OUTSIDE, encode(FULL_INSIDE)),  # the other mode
        (INSIDE, assemble(INSIDE, [*inside, (99, b"")])),  # an unknown tag
        (INSIDE, assemble(INSIDE, [*inside, (0, b"")])),
        (INSIDE, assemble(INSIDE, [*inside, (3, b"\3\0\0\0")])),  # the other mode's tag
        (INSIDE, assemble(INSIDE, [*inside, (2, b"\3\0\0\0")])),  # a second control socket
        (INSIDE, assemble(INSIDE, [*inside, (16, b"\xff\xff\xff\xff")])),  # a negative descriptor
        (INSIDE, assemble(INSIDE, [*inside, (16, b"\3\0\0")])),
        (INSIDE, assemble(INSIDE, [*inside, (8, b"unterminated")])),
        (INSIDE, assemble(INSIDE, [*inside, (8, b"nul\0inside\0")])),
        (INSIDE, assemble(INSIDE, [*inside, (8, b"")])),
        (INSIDE, assemble(INSIDE, [*inside, (9, b"NO_VALUE\0")])),
        (INSIDE, assemble(INSIDE, [*inside, (23, bytes(12))])),  # a Landlock rule without a path
        (INSIDE, assemble(INSIDE, [(24, bytes(7))] + [r for r in inside if r[0] != 24])),
        (INSIDE, assemble(INSIDE, [(24, bytes(8 * 4097))] + [r for r in inside if r[0] != 24])),
        (INSIDE, assemble(INSIDE, [r for r in inside if r[0] != 22])),  # Landlock paths without rules
        (INSIDE, assemble(INSIDE, [*inside, *[(16, b"\7\0\0\0")] * 100])),  # too many
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] != 4])),  # mounts without a stage
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] not in (4, 5)])),  # a root without one
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] != 10])),  # what is made and hidden nowhere
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] not in (10, 11, 12)])),
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] not in (10, 13)])),
        (OUTSIDE, assemble(OUTSIDE, [*outside, *[r for r in outside if r[0] == 10]])),  # a second root
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] != 12])),  # entries without content
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] != 11])),  # content of nothing
        (OUTSIDE, assemble(OUTSIDE, [*outside, (12, b"one more\0")])),
        (OUTSIDE, assemble(OUTSIDE, [*outside, (11, b"\0\0\0\0"), (12, b"\0")])),  # an entry without a path
        (OUTSIDE, assemble(OUTSIDE, [*outside, (11, b"\0\0\0\0a"), (12, b"\0")])),
        (OUTSIDE, assemble(OUTSIDE, [*outside, (13, b"")])),
        (OUTSIDE, assemble(OUTSIDE, [r if r[0] != 10 else (10, r[1][:-1]) for r in outside])),
        (OUTSIDE, assemble(OUTSIDE, [r if r[0] != 10 else (10, b"\xff" * len(r[1])) for r in outside])),
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] != 14])),  # who maps nobody
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] != 15])),  # whom nobody maps
        (OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] != 15] + [(15, b"/one\0")])),
        (OUTSIDE, assemble(OUTSIDE, [*outside, (15, b"/third\0")])),
        (OUTSIDE, assemble(OUTSIDE, [*outside, *[(14, bytes(16))] * 3])),  # too many
        (OUTSIDE, assemble(OUTSIDE, [*outside, (14, bytes(12))])),
        (INSIDE, assemble(INSIDE, [*inside, (14, bytes(16))])),
        (OUTSIDE, assemble(OUTSIDE, [*outside, (29, bytes(8))])),  # a user inside, outside
        (INSIDE, assemble(INSIDE, [*inside, (29, bytes(8))])),  # a second user
        (INSIDE, assemble(INSIDE, [r for r in inside if r[0] != 29] + [(29, bytes(4))])),
        (INSIDE, assemble(INSIDE, [*inside, (13, b"/etc/x\0")])),
        (INSIDE, assemble(INSIDE, [*inside, (28, b"\xff\xff\xff\xff")])),
    ]
    wrong += [(INSIDE, assemble(INSIDE, [r for r in inside if r[0] != tag])) for tag in (2, 8, 19, 20)]
    wrong += [(OUTSIDE, assemble(OUTSIDE, [r for r in outside if r[0] != tag])) for tag in (1, 2, 8)]
    answers = verdicts(driver, wrong)
    assert len(answers) == len(wrong)
    assert [spec for spec, answer in zip(wrong, answers, strict=True) if answer == 0] == []


def test_every_truncation_is_refused(driver: Path) -> None:
    for mode, spec in ((OUTSIDE, encode(FULL_OUTSIDE)), (INSIDE, encode(FULL_INSIDE))):
        cut = [spec[:length] for length in range(len(spec))]
        mended = [
            HEADER.pack(protocol.MAGIC, protocol.VERSION, mode, len(part)) + part[16:] for part in cut[16:]
        ]
        assert 0 not in verdicts(driver, [(mode, part) for part in cut])
        whole_records = verdicts(driver, [(mode, part) for part in mended]).count(0)
        assert whole_records < len(records_of(spec))


def test_mutated_specs_do_no_harm(driver: Path, soak: bool) -> None:
    chance = random.Random(20240607)
    specs = [mutated(chance) for _ in range(20_000 if soak else 2_000)]
    answers = verdicts(driver, specs)
    assert len(answers) == len(specs)
    assert 0 < answers.count(0) < len(answers)


def mutated(chance: random.Random) -> tuple[int, bytes]:
    mode = chance.choice((OUTSIDE, INSIDE))
    records = records_of(encode(FULL_OUTSIDE if mode == OUTSIDE else FULL_INSIDE))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(records))
        tag, payload = records[place]
        change = chance.randrange(5)
        if change == 0:
            records.insert(chance.randrange(len(records)), records[place])
        elif change == 1 and len(records) > 1:
            del records[place]
        elif change == 2:
            records[place] = (chance.randrange(30), payload)
        elif change == 3:
            records[place] = (tag, chance.randbytes(chance.choice((0, 1, 4, 8, 12, len(payload)))))
        else:
            records[place] = (tag, flipped(chance, payload))
    spec = assemble(mode, records)
    return mode, flipped(chance, spec) if chance.random() < 0.4 else spec


def flipped(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(changed), chance.randint(1, 4))):
        changed[chance.randrange(len(changed))] = chance.choice(
            (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
        )
    return bytes(changed)
