"""Real machines for tests: LXC containers with sshd on a bridge of their own. Needs root.

::

    with Fleet([Machine("web-1"), Machine("web-2", sudo=NO_SUDO)], package_source(["bubblewrap"])) as fleet:
        subprocess.run(fleet.command(["mxc-ops", "prep", "host", "--inventory", ...]))

The network is 192.0.2.0/24, which is nobody's (RFC 5737). What the machines write is kept in memory and gone
with them, however the test ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.fleet.image import INIT, PACKAGES_INSIDE, USER, debian_root
from tests.fleet.namespaces import BRIDGE, Namespaces

__all__ = ["FREE_SUDO", "NOBODY", "NO_SUDO", "PASSWORD_SUDO", "Fleet", "Machine", "missing"]

FREE_SUDO, PASSWORD_SUDO, NO_SUDO = "free", "password", "none"
NOBODY = "192.0.2.250"
"""An address of the fleet's network that no machine has."""
_PROGRAMS = ("debootstrap", "apt-ftparchive", "lxc-start", "nsenter", "unshare", "ip", "ssh-keygen", "ssh")
_PACKAGES = "debootstrap apt-utils lxc iproute2 openssh-client"
_SUDOERS = {
    FREE_SUDO: f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    PASSWORD_SUDO: f"{USER} ALL=(ALL) ALL\n",
    NO_SUDO: "",
}
# hwaddr: neighbours keep the address in mind when a machine is renewed.
# proc:rw: sysctl(8) must work as on a host; what bears on more than one network namespace is this kernel's.
_CONFIG = """
lxc.uts.name = {name}
lxc.rootfs.path = overlay:{root}:{state}/{name}/delta
lxc.init.cmd = {init}
lxc.net.0.type = veth
lxc.net.0.link = {bridge}
lxc.net.0.flags = up
lxc.net.0.name = eth0
lxc.net.0.hwaddr = {ethernet}
lxc.net.0.ipv4.address = {address}/24
lxc.apparmor.profile = unconfined
lxc.autodev = 1
lxc.tty.max = 0
lxc.pty.max = 1024
lxc.cap.drop = sys_module sys_time sys_rawio mac_admin mac_override
lxc.mount.auto = proc:rw sys:mixed
lxc.mount.entry = {packages} {packages_inside} none bind,ro 0 0
lxc.cgroup.dir = {cgroup}/{name}
"""
_HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
_START_S = 30


@dataclass(frozen=True)
class Machine:
    """One machine.

    Parameters
    ----------
    name: also its host name.
    sudo: what the user may do: `FREE_SUDO`, `PASSWORD_SUDO` (see `Fleet.sudo_password`) or `NO_SUDO`.
    read_only: absolute paths of existing directories that cannot be written to.
    """

    name: str
    sudo: str = FREE_SUDO
    read_only: tuple[str, ...] = ()


def missing() -> str:
    """Why there can be no fleet here, with the command that mends it; "" when there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root: to start containers with a network of their own"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [program for program in _PROGRAMS if not shutil.which(program, path=path)]
    return f"{', '.join(absent)} missing: apt-get install {_PACKAGES}" if absent else ""


class Fleet:
    """Running machines, in the order given; addresses count up from 192.0.2.11.

    Parameters
    ----------
    packages: a directory of `image.package_source`, what the machines can install.

    Attributes
    ----------
    key, known_hosts: files for ssh(1): the user's private key and every machine's host key.
    sudo_password: of the user, where sudo asks for one.
    """

    def __init__(self, machines: Sequence[Machine], packages: Path) -> None:
        self.machines: Mapping[str, Machine] = {machine.name: machine for machine in machines}
        self.sudo_password = secrets.token_urlsafe(12)
        self._packages = packages
        self._root = debian_root()
        self._folder = Path(tempfile.mkdtemp(prefix="mxc-fleet-"))
        self._state = self._folder / "state"
        self.key = self._folder / "key"
        self.known_hosts = self._folder / "known_hosts"
        self._namespaces: Namespaces | None = None

    def __enter__(self) -> Fleet:
        try:
            self._state.mkdir()
            self._namespaces = Namespaces(self._state)
            _ssh_key(self.key)
            for name in self.machines:
                _ssh_key(self._host_key(name))
                self._furnish(name)
            self.known_hosts.write_text("".join(self._known_host(name) for name in self.machines))
            self._start(list(self.machines))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all machines and remove every trace. Repeating it does nothing."""
        if self._namespaces:
            try:
                self._each("lxc-stop", self.machines, "-k")
            finally:
                self._namespaces.close()
                self._namespaces = None
                _remove_cgroups(self._folder.name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def address(self, name: str) -> str:
        return f"192.0.2.{self._number(name)}"

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """A command, put so that it reaches the machines; otherwise it runs as it would."""
        return self._inner.in_network(argv)

    def inside(self, name: str, script: str, *, stdin: str = "", timeout_s: float = 60) -> str:
        """What a shell script prints that root runs in a machine, without SSH.

        Raises `RuntimeError` when it fails.
        """
        argv = ["lxc-attach", *self._lxc(name), "--clear-env", "--", "sh", "-euc", script]
        return self._run(argv, stdin, timeout_s)

    def ssh(self, name: str) -> list[str]:
        """The options and the destination for ssh(1), to be followed by the remote command."""
        options = (f"UserKnownHostsFile={self.known_hosts}", "StrictHostKeyChecking=yes", "BatchMode=yes")
        return [
            *("ssh", "-F", "none", "-i", str(self.key)),
            *(word for option in options for word in ("-o", option)),
            f"{USER}@{self.address(name)}",
        ]

    def renew(self, *names: str) -> None:
        """Put machines back to how they were at first, with the SSH host keys that they had then."""
        self._each("lxc-stop", names, "-k")
        for name in names:
            self._run(["rm", "-rf", str(self._state / name)])
            self._furnish(name)
        self._start(names)

    def change_host_key(self, name: str) -> None:
        """Give a machine another SSH host key than the one in `known_hosts`."""
        self.inside(name, f"cd /root; ssh-keygen -q -t ed25519 -N '' -f other; mv -f other /{_HOST_KEY}")

    def _number(self, name: str) -> int:
        return 11 + list(self.machines).index(name)

    @property
    def _inner(self) -> Namespaces:
        assert self._namespaces is not None, "the fleet is not running"
        return self._namespaces

    def _lxc(self, name: str) -> list[str]:
        log = self._state / name / "log"
        return ["-P", str(self._state), "-n", name, "-l", "ERROR", "-o", str(log)]

    def _run(self, argv: Sequence[str], stdin: str = "", timeout_s: float = 60) -> str:
        done = subprocess.run(
            self._inner.within(argv), input=stdin, capture_output=True, text=True, timeout=timeout_s
        )
        if done.returncode:
            raise RuntimeError(f"{argv[0]}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _each(self, program: str, names: Iterable[str], *options: str) -> list[str]:
        """Run one of LXC's programs for many machines at once; those that it failed for."""
        # No pipes: the container's monitor would keep them open.
        started = {
            name: subprocess.Popen(
                self._inner.within([program, *self._lxc(name), *options]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for name in names
        }
        return [name for name, child in started.items() if child.wait(timeout=_START_S)]

    def _furnish(self, name: str) -> None:
        """Write what LXC must know of a machine, and what the machine has of its own."""
        machine = self.machines[name]
        home = self._inner.state / name
        files = {
            "etc/hostname": f"{name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n{self.address(name)} {name}\n",
            "etc/sudoers.d/ops": _SUDOERS[machine.sudo],
            "etc/ssh/authorized_keys": self.key.with_suffix(".pub").read_text(),
            _HOST_KEY: self._host_key(name).read_text(),
        }
        for path, text in files.items():
            target = home / "delta" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        (home / "delta" / _HOST_KEY).chmod(0o600)
        (home / "config").write_text(self._config(machine))

    def _config(self, machine: Machine) -> str:
        config = _CONFIG.format(
            name=machine.name,
            init=INIT,
            root=self._root,
            state=self._state,
            bridge=BRIDGE,
            address=self.address(machine.name),
            ethernet=f"02:00:00:00:00:{self._number(machine.name):02x}",
            packages=self._packages,
            packages_inside=PACKAGES_INSIDE[1:],
            cgroup=self._folder.name,
        )
        for path in machine.read_only:
            config += f"lxc.mount.entry = {self._root}{path} {path[1:]} none bind,ro 0 0\n"
        return config

    def _host_key(self, name: str) -> Path:
        return self._folder / f"host-{name}"

    def _known_host(self, name: str) -> str:
        return f"{name},{self.address(name)} {self._host_key(name).with_suffix('.pub').read_text()}"

    def _start(self, names: Sequence[str]) -> None:
        for name in self._each("lxc-start", names, "-d"):
            raise RuntimeError(f"{name} did not start: {(self._inner.state / name / 'log').read_text()}")
        for name in names:
            if self.machines[name].sudo == PASSWORD_SUDO:
                self.inside(name, "chpasswd", stdin=f"{USER}:{self.sudo_password}\n")
        self._await_sshd({self.address(name) for name in names})

    def _await_sshd(self, addresses: set[str]) -> None:
        give_up = time.monotonic() + _START_S
        scan = self.command(["ssh-keyscan", "-T", "2", "-t", "ed25519", *sorted(addresses)])
        answered: set[str] = set()
        while answered != addresses:
            if time.monotonic() > give_up:
                raise RuntimeError(f"no sshd answers at {', '.join(sorted(addresses - answered))}")
            shown = subprocess.run(scan, capture_output=True, text=True, check=False).stdout
            answered = {line.partition(" ")[0] for line in shown.splitlines()}


def _ssh_key(path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _remove_cgroups(name: str) -> None:
    """What LXC has made in each hierarchy; a group can be removed once its last process is gone."""
    give_up = time.monotonic() + _START_S
    hierarchies = Path("/sys/fs/cgroup")
    for top in [*hierarchies.glob(name), *hierarchies.glob(f"*/{name}")]:
        for folder, _, _ in os.walk(top, topdown=False):
            while not _removed(Path(folder)) and time.monotonic() < give_up:
                time.sleep(0.01)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
