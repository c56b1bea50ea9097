"""Namespaces that end with their owner: network, mounts and processes of a fleet. Needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["BRIDGE", "Namespaces"]

BRIDGE = "mxcfleet0"
_GONE_S = 30
_HOLD = f"""
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs "$1"
# LXC looks for the bridge in sysfs, which shows the network that it was mounted in.
mkdir "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
ip link set lo up
ip link add {BRIDGE} type bridge
ip address add 192.0.2.1/24 dev {BRIDGE}
ip link set {BRIDGE} up
echo ready
exec cat
"""


class Namespaces:
    """A network with a bridge, mounts and processes apart from this machine's.

    They are held by a process that ends with its standard input, whose other end is ours: however we end,
    everything in them ends, and with it what was written below `state`, which is in memory.

    Parameters
    ----------
    state: an existing directory; a file system of its own is mounted on it inside.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        own = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(
            [*own, "sh", "-c", _HOLD, "hold", str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"no namespaces: {self._holder.communicate()[1].strip()}")

    @property
    def state(self) -> Path:
        """The directory inside, as it can be reached from outside."""
        return Path(f"/proc/{self._holder.pid}/root{self._state}")

    def in_network(self, argv: Sequence[str | Path]) -> list[str]:
        """A command, put so that it runs in the network and in nothing else of this."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--", *map(str, argv)]

    def within(self, argv: Sequence[str | Path]) -> list[str]:
        """A command, put so that it runs inside altogether."""
        door = f"/proc/{self._holder.pid}/ns"
        # The process that we know of has made the PID namespace and is not in it.
        doors = (f"--net={door}/net", f"--mount={door}/mnt", f"--pid={door}/pid_for_children")
        return ["nsenter", *doors, "--", *map(str, argv)]

    def close(self) -> None:
        """End everything that is inside."""
        self._holder.communicate(timeout=_GONE_S)
