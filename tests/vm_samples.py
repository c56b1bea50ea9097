"""Made-up facts about a host that runs virtual machines: what plans are made from in tests."""

from __future__ import annotations

from backends.bubblewrap.facts import BaselineEntry, Helper
from backends.frozen import replace
from backends.linux.cgroups import NO_CGROUPS, CgroupFacts
from backends.linux.uid_range import UidRange
from backends.qemu.choice import QemuProgram
from backends.qemu.host_values import HostValues
from backends.qemu.machine import MachineKind
from backends.virtual_machine import Image
from backends.vm.facts import VmFacts

IMAGE = Image(
    name="python",
    key="4b" * 32,
    content="c0" * 32,
    kernel="/store/4b/vmlinux",
    initrd="/store/4b/initrd",
    rootfs="/store/4b/rootfs.erofs",
    rootfs_format="erofs",
    command_line="panic=-1 quiet console=hvc0",
    memory_mib=256,
    zygote="python",
    warm_up="python3 -c pass",
)
TINY = replace(IMAGE, name="tiny", key="71" * 32, rootfs="", rootfs_format="", zygote="", warm_up="")
QEMU = QemuProgram("/usr/bin/qemu-system-x86_64", "118bb20-18b2e9cc-21204f")
HOST = HostValues(tsc_khz=2_600_000, cpu="0123456789abcdef")

USER_FACTS = VmFacts(
    qemu=QEMU,
    host=HOST,
    accelerator="tcg",
    kind=MachineKind.MICROVM,
    helper=Helper("/usr/bin/bwrap", "0.8.0", (), False),
    launcher="/usr/local/lib/mxc-ops/helpers/0123/launcher",
    launcher_key="0123",
    places=(BaselineEntry("/lib", "usr/lib"), BaselineEntry("/usr/lib"), BaselineEntry("/usr/share/qemu")),
    caller=(1001, 1001),
    groups=(27, 1001),
    uid_range=None,
    cgroups=NO_CGROUPS,
    seccomp={"default": "sha256:d", "strict": "sha256:s", "debug": "sha256:g"},
)
ROOT_FACTS = replace(
    USER_FACTS,
    caller=(0, 0),
    groups=(),
    uid_range=UidRange(1_900_000_000, 4096),
    cgroups=CgroupFacts("v1", {"memory": "/cg/memory", "pids": "/cg/pids", "cpu": "/cg/cpu"}),
)
