"""A host of the test's own: libvirt's daemons run in namespaces, nothing of them is seen outside or stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from backends.needs import Need
from backends.vm.needs import NEEDS
from mxc_ops.prep.decision import Decision
from mxc_ops.prep.rules import rule
from mxc_ops.prep.undoing import Verdict, judge, reversal, reverse_queries
from tests.prep.hiding import HIDE
from tests.prep.lxc_host import Host

__all__ = ["PYTHON", "VmHost", "argument_of", "missing", "vm_host"]

PYTHON = "/usr/bin/python3"
# Debian's package makes this user, without whom the daemon ends. Of the settings those go that need what a
# container may not have.
_SET_UP = rf"""
set -e
{HIDE}
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs "$1"
for place in /etc /var/lib /var/log /var/cache; do
    layer="$1$place"
    mkdir -p "$layer/upper" "$layer/work"
    hide $place "$layer/upper" mxc-ops
    mount -t overlay -o "lowerdir=$place,upperdir=$layer/upper,workdir=$layer/work" overlay "$place"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
rm -rf /var/lib/libvirt /etc/libvirt
grep -q ^libvirt-qemu: /etc/passwd || echo 'libvirt-qemu:x:64055:64055::/:/bin/false' >> /etc/passwd
grep -q ^libvirt-qemu: /etc/group || echo 'libvirt-qemu:x:64055:' >> /etc/group
mkdir /etc/libvirt
cat > /etc/libvirt/qemu.conf <<'END'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
END
ip link set lo up
echo ready
cat
"""
_LIBVIRT = "import libvirt; c = libvirt.open('qemu:///system'); "
_LISTED = (
    "print([(t.name(), t.UUIDString(), t.isActive(), t.autostart())"
    " for t in c.listAllNetworks() + c.listAllStoragePools()])"
)


def missing() -> str:
    """Why no such host can be made, with the command that mends it; "" when it can."""
    if os.geteuid() != 0:
        return "needs root: to make namespaces and to run libvirt's daemons"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [
        name
        for name in ("libvirtd", "virtlogd", "dnsmasq", "qemu-system-x86_64")
        if not shutil.which(name, path=path)
    ]
    if not absent and subprocess.run([PYTHON, "-I", "-c", "import libvirt"], capture_output=True).returncode:
        absent = ["its Python module"]
    packages = "libvirt-daemon python3-libvirt dnsmasq-base qemu-system-x86"
    install = f"apt-get install --no-install-recommends {packages}"
    return f"needs libvirt ({', '.join(absent)} missing): {install}" if absent else ""


def argument_of(identifier: str) -> tuple[str, dict[str, Any]]:
    """The operation of one of the needs, and its arguments, as for a host without a service manager."""
    need: Need = next(need for need in NEEDS if need.identifier == identifier)
    if identifier.startswith("vm.service."):
        return "services.running", {**need.data, "manager": "none"}
    return f"libvirt.{identifier.removeprefix('vm.')}", dict(need.data)


class VmHost(Host):
    """`process` has made the namespaces. When it ends, so do all processes inside."""

    def __init__(self, process: int) -> None:
        super().__init__(process)
        inside = f"--pid=/proc/{process}/ns/pid_for_children"
        self._enter = ["nsenter", "-t", str(process), "-n", "-m", inside, "--"]

    def libvirt(self, code: str) -> str:
        """What Python code prints; ``c`` is the connection."""
        done = subprocess.run(
            [*self._enter, PYTHON, "-I", "-c", _LIBVIRT + code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def listed(self) -> str:
        """The networks and pools, and in which state they are."""
        return self.libvirt(_LISTED)

    def state(self) -> str:
        """What of networks, pools and directories a change here could have touched.

        Folders of libvirt's own are made by it when it needs them, and stay.
        """
        libvirts = "/etc/libvirt /var/lib/libvirt /sys/class/net"
        self.leave_nothing_empty()
        files = f"find {libvirts} ! -type d; find /var/lib/mxc-ops 2>/dev/null || true"
        return self.listed() + self.run(f"{{ {files}; }} | sort")

    def undo_plan(self) -> Decision:
        """How the recorded change would be taken back."""
        receipt = self.receipt()
        assert receipt is not None
        return reversal(receipt, self.ask(reverse_queries(receipt)))

    def verify(self) -> Verdict:
        """What verify says about the recorded change."""
        receipt = self.receipt()
        assert receipt is not None
        kind = rule(receipt.operation)
        wanted = kind.decide(*self.ask(kind.queries(**receipt.arguments)), **receipt.arguments)
        return judge(receipt, wanted, self.undo_plan())[0]

    def probes(self) -> dict[str, tuple[str, str, str]]:
        """What the functional probes say: identifier → (health, seen, fix)."""
        code = (
            "import json; from backends.vm.libvirt_probe import probe;"
            " print(json.dumps({p.identifier: (p.health.value, p.seen, p.fix) for p in probe()}))"
        )
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [*self._enter, "env", f"PYTHONPATH={root}", PYTHON, "-P", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        return {name: tuple(told) for name, told in json.loads(done.stdout).items()}


@contextmanager
def vm_host(folder: Path) -> Generator[VmHost]:
    """A host with libvirt installed and not running.

    Parameters
    ----------
    folder: an empty one, for what the host writes.
    """
    namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    holder = subprocess.Popen(
        ["unshare", *namespaces, "sh", "-c", _SET_UP, "sh", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        yield VmHost(holder.pid)
    finally:
        with suppress(BrokenPipeError):
            holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()
