"""A small assembler for classic BPF, as seccomp filters use it (linux/filter.h, seccomp(2)).

Instructions are 8 bytes: operation, two relative jumps, a 32-bit value. Jumps go forward only,
conditional ones by at most 255, so code that is jumped to stands close by.
"""

from __future__ import annotations

import struct

_LOAD_WORD = 0x20
_AND = 0x54
_JUMP = 0x05
_JUMP_EQUAL = 0x15
_JUMP_AT_LEAST = 0x35
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06

_MAX_CONDITIONAL_JUMP = 255
MAX_INSTRUCTIONS = 4096


class Assembler:
    """Collects instructions; labels are strings, a jump to None falls through."""

    def __init__(self) -> None:
        self._code: list[tuple[int, str | None, str | None, int]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        if name in self._labels:
            raise ValueError(f"label {name} is set twice")
        self._labels[name] = len(self._code)

    def load(self, offset: int) -> None:
        """Load the 32-bit word at `offset` of the data the filter is given."""
        self._code.append((_LOAD_WORD, None, None, offset))

    def mask(self, value: int) -> None:
        self._code.append((_AND, None, None, value))

    def if_equal(self, value: int, then: str | None, otherwise: str | None = None) -> None:
        self._code.append((_JUMP_EQUAL, then, otherwise, value))

    def if_at_least(self, value: int, then: str | None, otherwise: str | None = None) -> None:
        self._code.append((_JUMP_AT_LEAST, then, otherwise, value))

    def if_any_bit(self, value: int, then: str | None, otherwise: str | None = None) -> None:
        self._code.append((_JUMP_ANY_BIT, then, otherwise, value))

    def jump(self, to: str) -> None:
        self._code.append((_JUMP, to, None, 0))

    def give(self, value: int) -> None:
        """End with this result."""
        self._code.append((_RETURN, None, None, value))

    def assemble(self) -> bytes:
        """The program, native byte order. Raises ValueError for jumps that classic BPF cannot express."""
        if len(self._code) > MAX_INSTRUCTIONS:
            raise ValueError(f"{len(self._code)} instructions; the kernel takes {MAX_INSTRUCTIONS}")
        pack = struct.Struct("=HBBI").pack
        program: list[bytes] = []
        for here, (operation, then, otherwise, value) in enumerate(self._code):
            if operation == _JUMP:
                program.append(pack(operation, 0, 0, self._distance(here, then)))
                continue
            near, far = self._distance(here, then), self._distance(here, otherwise)
            if near > _MAX_CONDITIONAL_JUMP or far > _MAX_CONDITIONAL_JUMP:
                raise ValueError(f"instruction {here} jumps too far")
            program.append(pack(operation, near, far, value))
        return b"".join(program)

    def _distance(self, here: int, label: str | None) -> int:
        if label is None:
            return 0
        distance = self._labels[label] - here - 1
        if distance < 0:
            raise ValueError(f"{label} lies behind its jump")
        return distance
