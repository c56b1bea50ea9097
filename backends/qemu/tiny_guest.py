"""A kernel of a few hundred bytes that proves that an accelerator carries a whole boot. Pure.

QEMU's firmware hands over in 32-bit protected mode, as to every kernel with a PVH entry (Xen: pvh.pandoc).
The guest then does what each 64-bit kernel must: it enters long mode with paging, works through an alias of
its memory, sleeps until the local APIC's timer wakes it, and computes for some 30 million instructions, which
an accelerator that merely interprets them cannot do in time. Its answer is the status that QEMU exits with.

In memory, from `BASE` on: code, descriptors, four page tables, a word to compute in, the stack.
"""

from __future__ import annotations

import struct

__all__ = ["ANSWER", "ROUNDS", "kernel"]

ROUNDS = 4_000_001
ANSWER = 107
"""QEMU's status when all went well: twice (the result's top 7 bits + the interrupts seen) + 1, in 8 bits."""

BASE = 0x10_0000
_LONG_MODE, _ON_TIMER = 0x100, 0x200  # offsets of code
_GDT, _GDT_POINTER, _IDT_POINTER, _IDT = 0x1000, 0x1020, 0x1030, 0x1100
_TABLES, _FILE_SIZE, _MEMORY_SIZE = 0x2000, 0x6000, 0x8000
_TIMER_VECTOR = 0x20
_PAGE = 0x1000

_PROTECTED_MODE = bytes.fromhex(
    "fa"  # cli
    "0f0115 20101000"  # lgdt [0x101020]
    "b8 20000000 0f22e0"  # mov eax, 0x20; mov cr4, eax: physical address extension
    "b8 00201000 0f22d8"  # mov eax, 0x102000; mov cr3, eax: the page tables
    "b9 800000c0 0f32"  # mov ecx, 0xc0000080; rdmsr: EFER
    "0d 00010000 0f30"  # or eax, 0x100; wrmsr: long mode
    "0f20c0 0d 00000080 0f22c0"  # or cr0, 0x80000000: paging
    "ea 00011000 0800"  # ljmp 0x08:0x100100
)
_LONG_MODE_CODE = bytes.fromhex(
    "b8 10000000 8ed0"  # mov ss, 0x10
    "48bc 0080100000 80ffff"  # mov rsp, 0xffff800000108000: the stack, through the alias
    "0f011c25 30101000"  # lidt [0x101030]
    "b0ff e621 e6a1"  # out 0x21, 0xff; out 0xa1, 0xff: no old-style interrupts
    "bf 0000e0fe"  # mov edi, 0xfee00000: the local APIC
    "c787 f0000000 ff010000"  # mov dword [rdi + 0xf0], 0x1ff: enabled
    "c787 e0030000 0b000000"  # mov dword [rdi + 0x3e0], 0xb: divide by 1
    "c787 20030000 20000000"  # mov dword [rdi + 0x320], 0x20: timer, once, vector 0x20
    "c787 80030000 a0860100"  # mov dword [rdi + 0x380], 100000: starts it
    "31db"  # xor ebx, ebx
    "fb f4 fa"  # sleep: sti; hlt; cli
    "85db 74f9"  # test ebx, ebx; jz sleep
    "b9 01093d00 31c0"  # mov ecx, ROUNDS; xor eax, eax
    "48be 0060100000 80ffff"  # mov rsi, 0xffff800000106000: a word, through the alias
    "48ba 2d7f954c2df45158"  # mov rdx, 6364136223846793005 (Knuth's MMIX generator)
    "480fafc2 4801c8"  # round: imul rax, rdx; add rax, rcx
    "488906 488b0425 00601000"  # mov [rsi], rax; mov rax, [0x106000]
    "e2ec"  # loop round
    "48c1e839 01d8"  # shr rax, 57; add eax, ebx
    "e6f4 f4 ebfd"  # out 0xf4, al: the end; hlt for ever
)
_ON_TIMER_CODE = bytes.fromhex(
    "ffc3"  # inc ebx
    "bf b000e0fe c707 00000000"  # mov dword [0xfee000b0], 0: end of interrupt
    "48cf"  # iretq
)


def kernel() -> bytes:
    """The guest as an ELF file that ``qemu-system-x86_64 -kernel`` starts by its PVH note."""
    image = _image()
    note = struct.pack("<3I4sQ", 4, 8, 18, b"Xen", BASE)  # XEN_ELFNOTE_PHYS32_ENTRY
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little-endian
    executable, x86_64 = 2, 62
    head = identity + struct.pack("<2HI3QI6H", executable, x86_64, 1, BASE, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load, all_rights = 1, 7
    segments = struct.pack(
        "<2I6Q", load, all_rights, _PAGE, BASE, BASE, len(image), _MEMORY_SIZE, _PAGE
    ) + struct.pack("<2I6Q", 4, 4, 64 + 2 * 56, 0, 0, len(note), len(note), 4)
    return (head + segments + note).ljust(_PAGE, b"\0") + image


def _image() -> bytes:
    image = bytearray(_FILE_SIZE)

    def put(offset: int, content: bytes) -> None:
        image[offset : offset + len(content)] = content

    put(0, _PROTECTED_MODE)
    put(_LONG_MODE, _LONG_MODE_CODE)
    put(_ON_TIMER, _ON_TIMER_CODE)
    put(_GDT, struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))  # none, 64-bit code, data
    put(_GDT_POINTER, struct.pack("<HI", 3 * 8 - 1, BASE + _GDT))
    put(_IDT_POINTER, struct.pack("<HQ", (_TIMER_VECTOR + 1) * 16 - 1, BASE + _IDT))
    put(_IDT + _TIMER_VECTOR * 16, _gate(BASE + _ON_TIMER))
    put(_TABLES, b"".join(_tables()))
    return bytes(image)


def _gate(handler: int) -> bytes:
    """An interrupt gate (Intel SDM 3A, 6.14.1)."""
    return struct.pack("<4H2I", handler & 0xFFFF, 0x08, 0x8E00, handler >> 16, 0, 0)


def _tables() -> list[bytes]:
    """Four levels (Intel SDM 3A, 4.5): memory at 0 and again at 0xffff800000000000, and the local APIC."""
    present, large, uncached = 0x03, 0x80, 0x18
    pointers, memory, devices = (BASE + _TABLES + place * _PAGE for place in (1, 2, 3))
    entries = (
        {0: pointers | present, 256: pointers | present},
        {0: memory | present, 3: devices | present},
        {0: present | large},
        {0x1F7: 0xFEE0_0000 | present | large | uncached},
    )
    return [struct.pack("<512Q", *(table.get(place, 0) for place in range(512))) for table in entries]
