"""Specs and messages, seen from Python."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from pathlib import Path

import pytest

from backends.inside import codec, protocol
from backends.inside.protocol import EndedMessage, Failed, InsideSpec, OutsideSpec, Started, Step

MESSAGE = struct.Struct("<IiiIQQQ")


def constants(source: str, prefix: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(rf"\b{prefix}(\w+) = (\d+)", source)}


def test_both_sides_agree_on_every_number(checkout: Path) -> None:
    wire = (checkout / "backends/inside/wire.h").read_text()
    assert constants(wire, "STEP_") == {step.name: step.value for step in Step}
    for prefix in ("TAG_", "KIND_", "MODE_"):
        ours = {
            name[1 + len(prefix) :]: value
            for name, value in vars(codec).items()
            if name.startswith(f"_{prefix}")
        }
        assert constants(wire, prefix) == ours
    exits = {name[5:]: value for name, value in vars(protocol).items() if name.startswith("EXIT_")}
    assert constants(wire, "EXIT_") == exits
    assert f"{protocol.MAGIC:#X}u".replace("0X", "0x") in wire
    assert protocol.MAX_SPEC_BYTES == 8 << 20
    assert "(8u << 20)" in wire


def test_a_spec_travels_in_a_sealed_memfd_that_programs_do_not_inherit() -> None:
    encoded = codec.encode(InsideSpec(control=3, argv=("true",)))
    fd = codec.spec_memfd(encoded)
    try:
        assert os.read(fd, 1 << 20) == encoded
        assert not os.get_inheritable(fd)
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        wanted = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        assert seals & wanted == wanted
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "spec",
    [
        InsideSpec(control=3, argv=("a\0b",)),
        InsideSpec(control=3, argv=("a",), env=(("A", "b\0c"),)),
        InsideSpec(control=3, argv=("a",), cwd="/\0"),
        OutsideSpec(parent_pid=1, control=3, argv=(b"a\0",)),
    ],
)
def test_a_string_with_nul_is_refused(spec: InsideSpec | OutsideSpec) -> None:
    with pytest.raises(ValueError, match="NUL"):
        codec.encode(spec)


def test_a_spec_that_the_launcher_would_not_take_is_refused_here() -> None:
    with pytest.raises(ValueError, match="at most 8388608"):
        codec.encode(InsideSpec(control=3, argv=("x" * (8 << 20),)))


def test_messages_are_decoded_to_what_they_mean() -> None:
    assert codec.decode_message(MESSAGE.pack(1, 0, 0, 7, 0, 0, 0)) == Started(7)
    assert codec.decode_message(MESSAGE.pack(2, 43, 2, 1, 0, 0, 0)) == Failed(Step.EXEC, 2, 1)
    assert codec.decode_message(MESSAGE.pack(3, 9, 0, 0, 10, 20, 30)) == EndedMessage(9, 10, 20, 30)


@pytest.mark.parametrize(
    "data",
    [b"", bytes(39), bytes(41), MESSAGE.pack(9, 0, 0, 0, 0, 0, 0), MESSAGE.pack(2, 999, 0, 0, 0, 0, 0)],
)
def test_anything_else_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError):
        codec.decode_message(data)
