"""Device nodes, and whether what is behind them works."""

from __future__ import annotations

import base64
from shlex import quote

from pyinfra.api.facts import FactBase
from typing_extensions import override

from backends.qemu import tiny_guest
from backends.qemu.accelerator import DEADLINE_S, PROGRAMS, command
from mxc_ops.prep.facts.common import WordFact
from mxc_ops.prep.rules.devices import KVM, WORKS

_KINDS = {"c": "character device", "b": "block device", "d": "directory", "-": "file", "l": "symbolic link"}


class Node(FactBase[dict[str, str] | None]):
    """``{"kind", "mode", "group", "gid"}`` of a path, None where there is nothing; links are not followed."""

    @override
    def command(self, path: str) -> str:
        return f"stat -c '%A %a %g %G' {quote(path)} 2>/dev/null || true"

    @staticmethod
    @override
    def default() -> dict[str, str] | None:
        return None

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        rights, mode, gid, group = output[0].split()
        return {"kind": _KINDS.get(rights[0], "special file"), "mode": mode, "group": group, "gid": gid}


class Verdict(WordFact):
    """``works``, or why the device is of no use, found by booting a tiny guest with it.

    "" where that cannot be told: without QEMU, without the right to open the device, and for other devices
    than /dev/kvm.
    """

    @override
    def command(self, path: str) -> str:
        if path != KVM:
            return "true"
        # The guest needs a file: QEMU reads it more than once. It is gone again when this ends.
        programs = " || ".join(f"command -v {name}" for name in PROGRAMS)
        guest = base64.b64encode(tiny_guest.kernel()).decode()
        boot = " ".join(command('"$qemu"', "kvm", '"$guest"', '"$machine"'))
        return (
            f"test -r {KVM} && test -w {KVM} && qemu=$({programs}) && guest=$(mktemp) || exit 0;"
            f" printf %s {guest} | base64 -d > $guest;"
            ' if "$qemu" -machine help | grep -q "^microvm "; then machine=microvm; else machine=q35; fi;'
            f" ulimit -c 0; status=0; timeout -s KILL {DEADLINE_S:.0f} {boot} >/dev/null 2>&1 || status=$?;"
            f" rm -f $guest; test $status = {tiny_guest.ANSWER} && echo {WORKS}"
            ' || echo "no guest boots with it: QEMU ended with $status"'
        )


class Udev(FactBase[bool]):
    """Whether udev makes the device nodes here, so that a rule of its lasts."""

    @override
    def command(self) -> str:
        return "command -v udevadm || ls /sbin/udevadm /bin/udevadm 2>/dev/null || true"

    @staticmethod
    @override
    def default() -> bool:
        return False

    @override
    def process(self, output: list[str]) -> bool:
        return bool(output)
