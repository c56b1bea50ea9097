"""Whether an accelerator really carries virtual machines, found out by booting a tiny guest under a deadline.

An openable /dev/kvm proves nothing: the KVM below may refuse a virtual CPU, or merely interpret the guest.
A verdict holds until the next boot of the host and for one QEMU program, so callers may keep it that long.
"""

from __future__ import annotations

import math
import os
import signal

from backends.frozen import frozen
from backends.linux.trial import attempt
from backends.qemu import tiny_guest

__all__ = [
    "ACCELERATORS",
    "DEADLINE_S",
    "PROGRAMS",
    "Verdict",
    "command",
    "find_qemu",
    "judge",
    "machine_type",
    "try_accelerator",
]

ACCELERATORS = ("kvm", "tcg")
PROGRAMS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
"""Names of QEMU for x86_64: a path as the Red Hat family has it, which keeps it off the search path."""

DEADLINE_S = 5.0
_LISTED_S = 10.0
_SHOWN_LETTERS = 300
# QEMU is ended by `timeout` should we be killed ourselves; a guest's memory is not worth a core file.
_BOUNDED = 'ulimit -c 0; exec timeout -s KILL "$@"'


@frozen
class Verdict:
    """`why` is "" when it works; `took_ms` is from the start of QEMU to its end, the guest's answer."""

    accelerator: str
    works: bool
    why: str
    took_ms: int


def find_qemu() -> str | None:
    """The path of QEMU for x86_64, without links: it looks for its firmware from there. None without one."""
    import shutil

    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    return None if found is None else os.path.realpath(found)


def machine_type(qemu: str) -> str:
    """The machine type to try with: RHEL's QEMU has no microvm."""
    listed = attempt([qemu, "-machine", "help"], deadline_s=_LISTED_S).text
    names = {line.split()[0] for line in listed.splitlines() if line.strip()}
    return "microvm" if "microvm" in names else "q35"


def command(qemu: str, accelerator: str, guest: str, machine: str) -> list[str]:
    """The command line that boots the tiny guest. Pure.

    Parameters
    ----------
    guest: path of the file made by `tiny_guest.kernel`.
    machine: ``microvm``, ``q35`` or ``pc``.
    """
    return [
        *(qemu, "-M", machine, "-accel", accelerator, "-cpu", "max", "-m", "32", "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-kernel", guest),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
    ]


def try_accelerator(qemu: str, accelerator: str, *, machine: str, deadline_s: float = DEADLINE_S) -> Verdict:
    """Boot the tiny guest; nothing of it is left when this returns, however it returns.

    Parameters
    ----------
    qemu: absolute path of the program.
    accelerator: one of `ACCELERATORS`.
    machine: one that this QEMU has, see `machine_type`.
    deadline_s: seconds after which the guest counts as stuck.
    """
    guest = os.memfd_create("mxc-ops-tiny-guest")
    try:
        os.pwrite(guest, tiny_guest.kernel(), 0)
        limit = str(math.ceil(deadline_s) + 1)
        boot = command(qemu, accelerator, f"/proc/self/fd/{guest}", machine)
        argv = ["/bin/sh", "-c", _BOUNDED, "sh", limit, *boot]
        outcome = attempt(argv, deadline_s=deadline_s, keep=(guest,))
    finally:
        os.close(guest)
    return judge(accelerator, outcome.status, outcome.text, took_ms=outcome.took_ms, deadline_s=deadline_s)


def judge(accelerator: str, status: int | None, said: str, *, took_ms: int, deadline_s: float) -> Verdict:
    """What an attempt says about an accelerator. Pure.

    Parameters
    ----------
    status: QEMU's exit status, minus the signal that ended it, or None when it had to be ended.
    said: what QEMU wrote to standard error.
    """
    if status == tiny_guest.ANSWER:
        return Verdict(accelerator, True, "", took_ms)
    complaint = _complaint(said)
    if status is None:
        why = f"the guest gave no answer within {deadline_s:g} s"
    elif status < 0:
        why = f"QEMU was ended by {signal.Signals(-status).name}"
    elif status == 0:
        why = "the guest died: its virtual CPU was reset"
    elif complaint:
        why = f"QEMU ended with {status}"
    else:
        why = f"the guest answered {status} instead of {tiny_guest.ANSWER}"
    return Verdict(accelerator, False, f"{why}: {complaint}" if complaint else why, took_ms)


def _complaint(said: str) -> str:
    """The first line that is more than a warning, without the program's name."""
    lines = [line.partition(": ")[2] or line for line in said.splitlines() if ": warning: " not in line]
    return lines[0].strip()[:_SHOWN_LETTERS] if lines else ""
