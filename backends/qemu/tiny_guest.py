"""A kernel of a few hundred bytes that proves that an accelerator carries a whole boot. Pure.

QEMU's firmware hands over in 32-bit protected mode, as to every kernel with a PVH entry (Xen: pvh.pandoc).
The guest then does what each 64-bit kernel must: it enters long mode with paging, works through an alias of
its memory, sleeps until the local APIC's timer wakes it, and computes for some 30 million instructions, which
an accelerator that merely interprets them cannot do in time. Its answer is the status that QEMU exits with.

In memory, from `BASE` on: code and descriptors, four page tables, a word to compute in, the stack.
"""

from __future__ import annotations

import struct

__all__ = ["ANSWER", "ROUNDS", "kernel"]

ROUNDS = 4_000_001
ANSWER = 107
"""QEMU's status when all went well: twice (the result's top 7 bits + the interrupts seen) + 1, in 8 bits."""

BASE = 0x10_0000
_LONG_MODE, _ON_TIMER, _GDT, _GDT_POINTER, _IDT_POINTER, _GATE = 0x100, 0x200, 0x240, 0x260, 0x270, 0x280
_FILE_OFFSET, _IMAGE_SIZE, _MEMORY_SIZE = 0x100, 0x290, 0x8000
_TIMER_VECTOR = 0x20

_PROTECTED_MODE = bytes.fromhex(
    "fa"  # cli
    "0f0115 60021000"  # lgdt [0x100260]
    # Page tables (Intel SDM 3A, 4.5), zeroed by the loader: memory at 0 and again at 0xffff800000000000.
    "c705 00101000 03201000"  # mov dword [0x101000], 0x102003: level 4, at 0
    "c705 00181000 03201000"  # mov dword [0x101800], 0x102003: level 4, the alias
    "c705 00201000 03301000"  # mov dword [0x102000], 0x103003: level 3, the first GiB
    "c705 18201000 03401000"  # mov dword [0x102018], 0x104003: level 3, the fourth GiB
    "c705 00301000 83000000"  # mov dword [0x103000], 0x83: 2 MiB of memory
    "c705 b84f1000 9b00e0fe"  # mov dword [0x104fb8], 0xfee0009b: 2 MiB with the local APIC, not cached
    "b8 20000000 0f22e0"  # mov eax, 0x20; mov cr4, eax: physical address extension
    "b8 00101000 0f22d8"  # mov eax, 0x101000; mov cr3, eax
    "b9 800000c0 0f32"  # mov ecx, 0xc0000080; rdmsr: EFER
    "0d 00010000 0f30"  # or eax, 0x100; wrmsr: long mode
    "0f20c0 0d 00000080 0f22c0"  # or cr0, 0x80000000: paging
    "ea 00011000 0800"  # ljmp 0x08:0x100100
)
_LONG_MODE_CODE = bytes.fromhex(
    "b8 10000000 8ed0"  # mov ss, 0x10
    "48bc 0080100000 80ffff"  # mov rsp, 0xffff800000108000: the stack, through the alias
    "0f011c25 70021000"  # lidt [0x100270]
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
    load, all_rights, annotation, readable = 1, 7, 4, 4
    sizes = (len(image), _MEMORY_SIZE)
    segments = struct.pack("<2I6Q", load, all_rights, _FILE_OFFSET, BASE, BASE, *sizes, _FILE_OFFSET)
    place = len(head) + 2 * len(segments)
    segments += struct.pack("<2I6Q", annotation, readable, place, 0, 0, len(note), len(note), 4)
    return (head + segments + note).ljust(_FILE_OFFSET, b"\0") + image


def _image() -> bytes:
    image = bytearray(_IMAGE_SIZE)
    first_gate = BASE + _GATE - _TIMER_VECTOR * 16  # those below the timer's are never used
    for offset, content in (
        (0, _PROTECTED_MODE),
        (_LONG_MODE, _LONG_MODE_CODE),
        (_ON_TIMER, _ON_TIMER_CODE),
        (_GDT, struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)),  # none, 64-bit code, data
        (_GDT_POINTER, struct.pack("<HI", 3 * 8 - 1, BASE + _GDT)),
        (_IDT_POINTER, struct.pack("<HQ", (_TIMER_VECTOR + 1) * 16 - 1, first_gate)),
        (_GATE, _interrupt_gate(BASE + _ON_TIMER)),
    ):
        image[offset : offset + len(content)] = content
    return bytes(image)


def _interrupt_gate(handler: int) -> bytes:
    """Intel SDM 3A, 6.14.1."""
    return struct.pack("<4H2I", handler & 0xFFFF, 0x08, 0x8E00, handler >> 16, 0, 0)
