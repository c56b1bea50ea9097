"""Which QEMU, which accelerator, which machine type a virtual machine gets on this host."""

from __future__ import annotations

import os

from backends.errors import BackendUnavailable, PolicyRefused, Problem
from backends.frozen import frozen
from backends.linux.boot_cache import cached
from backends.qemu.accelerator import Verdict, find_qemu, machine_type, try_accelerator
from backends.qemu.machine import MachineKind

__all__ = ["QemuProgram", "accelerator_verdict", "choose_accelerator", "choose_kind", "observe_qemu"]

FIX = "mxc-ops prep host --backend microvm --yes"


@frozen
class QemuProgram:
    """The program, and what tells two builds of it apart."""

    path: str
    build: str


def observe_qemu() -> QemuProgram:
    """Raises `BackendUnavailable` without QEMU for x86_64."""
    path = find_qemu()
    if path is None:
        raise BackendUnavailable(Problem("qemu_missing", "", "QEMU for x86_64 is not installed", fix=FIX))
    status = os.stat(path)
    return QemuProgram(path, f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}")


def accelerator_verdict(qemu: QemuProgram, accelerator: str) -> Verdict:
    """Whether it carries a guest: tried out once per boot of the host and build of QEMU (5 s if it hangs)."""

    def find_out() -> str:
        verdict = try_accelerator(qemu.path, accelerator, machine=_machine_type(qemu))
        return f"{int(verdict.works)} {verdict.took_ms} {verdict.why}"

    works, took_ms, why = cached(f"{accelerator}-{qemu.build}", find_out).split(" ", 2)
    return Verdict(accelerator, works == "1", why, int(took_ms))


def choose_accelerator(qemu: QemuProgram, asked: str, pointer: str) -> str:
    """KVM where it works, else TCG; what is asked for is taken at its word.

    Parameters
    ----------
    asked: ``kvm``, ``tcg`` or "".
    pointer: where it is asked for.

    Raises `BackendUnavailable` when the one that was asked for, or every one, carries no guest.
    """
    candidates = (asked,) if asked else _candidates()
    reasons: list[str] = []
    for name in candidates:
        verdict = accelerator_verdict(qemu, name)
        if verdict.works:
            return name
        reasons.append(f"{name}: {verdict.why}")
    problem = Problem(
        "accelerator_does_not_work",
        pointer if asked else "",
        f"no virtual machine can be carried here: {'; '.join(reasons)}",
        fix="leave the accelerator out, or: mxc-ops doctor --backend microvm" if asked else FIX,
    )
    raise BackendUnavailable(problem)


def choose_kind(qemu: QemuProgram, asked: str, pointer: str) -> MachineKind:
    """The machine type: microvm where this QEMU has it.

    Raises `PolicyRefused` for one that is asked for and not there.
    """
    has_microvm = _machine_type(qemu) == "microvm"
    if asked == "microvm" and not has_microvm:
        message = f"{qemu.path} has no machine type microvm"
        raise PolicyRefused(Problem("machine_not_available", pointer, message, expected="q35"))
    if asked:
        return MachineKind(asked)
    return MachineKind.MICROVM if has_microvm else MachineKind.Q35


def _machine_type(qemu: QemuProgram) -> str:
    return cached(f"machine-{qemu.build}", lambda: machine_type(qemu.path))


def _candidates() -> tuple[str, ...]:
    return ("kvm", "tcg") if os.access("/dev/kvm", os.R_OK | os.W_OK) else ("tcg",)
