"""This host in a mount namespace of its own, without what prep makes, and a Debian to be entered by chroot.

::

    with PrivateHost() as host:
        host.prep("host", "--yes")        # changes /etc, /usr, /var and /run as this namespace sees them
        host.differences()                # what is not as it was

What is written lies in memory and goes with the holder of the namespace, which ends with its standard input:
however the test ends, the host is as before. Packages come from a directory, so no network is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any

from tests.conftest import CHECKOUT
from tests.fleet.image import PACKAGES_INSIDE, debian_root, package_source
from tests.prep.hiding import HIDE

__all__ = ["OF_NO_ACCOUNT", "PACKAGES", "PrivateHost", "Reported", "listing", "missing"]

PACKAGES = ("bubblewrap", "gcc", "libc6-dev", "musl-tools")
OF_NO_ACCOUNT = (
    *("/var/log/apt/*", "/var/log/dpkg.log", "/var/log/alternatives.log", "/var/log/mxc-ops*"),
    *("/var/cache/apt/*", "/var/cache/ldconfig/aux-cache"),
    *(
        "/var/lib/apt/lists/*",
        "/var/lib/apt/extended_states",
        "/var/lib/dpkg/status",
        "/var/lib/dpkg/status-old",
    ),
)
"""What is left of an installation that was taken back: logs, caches of apt and ldconfig, and the database of
packages, which are compared one by one instead."""

_PROGRAMS = ("apt-ftparchive", "debootstrap", "dpkg", "nsenter", "unshare")
_TREES = ("etc", "usr", "var")
_DEADLINE_S = 120
_SETUP = rf"""
set -eu
{HIDE}
top=$1 packages=$2 debian=$3
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir "$top/etc.upper" "$top/usr.upper" "$top/var.upper"
hide /etc "$top/etc.upper" mxc-ops
hide /usr "$top/usr.upper" local/lib/mxc-ops
hide /var "$top/var.upper" lib/mxc-ops log/mxc-ops
for tree in etc usr var; do
    mkdir "$top/$tree.work"
    over="upperdir=$top/$tree.upper,workdir=$top/$tree.work"
    mount -t overlay -o "lowerdir=/$tree,$over" overlay "/$tree"
done
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /etc/apt/sources.list.d
mount -t tmpfs tmpfs /var/lib/apt/lists
mkdir -p /run/packages
mount --bind "$packages" /run/packages
echo 'deb [trusted=yes] file:/run/packages ./' > /etc/apt/sources.list
rm -f /var/lib/man-db/auto-update
for name in 20packagekit 50appstream 70debconf; do rm -f "/etc/apt/apt.conf.d/$name"; done
sed -i '/ man-db/d' /var/lib/dpkg/triggers/File
dpkg --purge --force-depends bubblewrap musl-tools >/dev/null 2>&1
rm -f /etc/sysctl.d/zz-mxc-ops-* /etc/apparmor.d/mxc-ops-*
for name in reboot shutdown; do printf '#!/bin/sh\necho "$0" >> /run/restarted\n' > "/usr/sbin/$name"; done
mkdir "$top/debian" "$top/debian.upper" "$top/debian.work"
over="upperdir=$top/debian.upper,workdir=$top/debian.work"
mount -t overlay -o "lowerdir=$debian,$over" overlay "$top/debian"
mkdir -p "$top/debian$4"
mount --bind "$packages" "$top/debian$4"
echo ready
exec cat
"""
# /proc/sys/kernel becomes a copy, in which switches can stand that this kernel does not have. A parser of
# AppArmor's that only takes note stands for the real one, which needs a kernel with AppArmor.
_OTHER_KERNEL = r"""
mkdir /run/kernel
for name in /proc/sys/kernel/*; do
    if test -f "$name"; then cat "$name" > "/run/kernel/${name##*/}" 2>/dev/null || true; fi
done
echo 0 > /run/kernel/unprivileged_userns_clone
echo 1 > /run/kernel/apparmor_restrict_unprivileged_userns
echo 7 > /run/namespaces
mount --bind /run/kernel /proc/sys/kernel
mount --bind /run/namespaces /proc/sys/user/max_user_namespaces
printf '#!/bin/sh\nfor last; do :; done; test -e "$last" && echo "$*" >> /run/apparmor.log\n' \
    > /usr/sbin/apparmor_parser
chmod 755 /usr/sbin/apparmor_parser
"""


def missing() -> str:
    """Why this host cannot be made private, with the command that mends it; "" when it can."""
    if os.geteuid() != 0:
        return "needs root: to give this host mounts of its own"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [program for program in _PROGRAMS if not shutil.which(program, path=path)]
    return f"{', '.join(absent)} missing: apt-get install debootstrap apt-utils" if absent else ""


class Reported:
    """What a command with ``--json`` ended with: its exit code, its lines, the report of one host."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.stdout, done.stderr
        self.exit_code = done.returncode
        self.events: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        self.report = self.events[-1]
        self.host: dict[str, Any] = self.report["hosts"][0]
        self.items: dict[str, dict[str, Any]] = {item["identifier"]: item for item in self.host["items"]}

    @property
    def states(self) -> dict[str, str]:
        return {name: item["state"] for name, item in self.items.items()}

    def __repr__(self) -> str:
        return json.dumps(self.report, indent=1)


class PrivateHost:
    """Entered, it stands until it is left.

    Attributes
    ----------
    debian: a minimal Debian inside, for ``@chroot``.
    program: path of ``mxc-ops``, inside too.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mxc-host-"))
        self.debian = self._folder / "debian"
        self.program = str(Path(sys.executable).with_name("mxc-ops"))
        self._packages, self._image = package_source(PACKAGES), debian_root()
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> PrivateHost:
        setup = ["sh", "-c", _SETUP, "setup", self._folder, self._packages, self._image, PACKAGES_INSIDE]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", *map(str, setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"no namespace: {self._holder.communicate()[1].strip()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._holder is not None
        self._holder.communicate(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def inside(self, argv: Sequence[str | Path]) -> list[str]:
        """A command, put so that it runs inside."""
        assert self._holder is not None
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *map(str, argv)]

    def seen(self, path: str | Path) -> Path:
        """A path inside, as it can be reached from here; links in it must not be absolute."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def sh(self, script: str) -> str:
        """What a shell script prints inside; it must succeed."""
        done = subprocess.run(
            self.inside(["sh", "-euc", script]), capture_output=True, text=True, timeout=_DEADLINE_S
        )
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout

    def empty(self, path: str, mode: str = "755") -> None:
        """Let a directory be empty inside, but for this checkout, where it is below it."""
        checkout = quote(str(CHECKOUT))
        again = f"mkdir -p {checkout}; mount --bind /run/checkout {checkout}"
        self.sh(
            f"mkdir -p /run/checkout; mount --bind {checkout} /run/checkout;"
            f" mount -t tmpfs -o mode={mode} tmpfs {path};"
            f" {again if CHECKOUT.is_relative_to(path) else ''}\numount /run/checkout"
        )

    def change_kernel(self) -> None:
        """Let each kernel setting that bears on namespaces be as it must not be; no sandbox runs then."""
        self.sh(_OTHER_KERNEL)

    def run(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``mxc-ops ARGUMENTS`` inside, on pipes."""
        return subprocess.run(
            self.inside([self.program, *arguments]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            env={**os.environ, **(env or {})},
        )

    def prep(self, *arguments: str | Path) -> Reported:
        """``mxc-ops prep ARGUMENTS --json`` inside."""
        return Reported(self.run("prep", *arguments, "--json"))

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """``mxc-ops prep ARGUMENTS --json`` inside, started."""
        return subprocess.Popen(
            self.inside([self.program, "prep", *arguments, "--json"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def receipts(self) -> dict[str, dict[str, Any]]:
        """The receipts inside, by item; each must parse."""
        folder = self.seen("/var/lib/mxc-ops/receipts")
        return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}

    def inventory(self, name: str, text: str) -> Path:
        """An inventory file with this text, which must not name hosts that are not of this class."""
        path = self._folder / name
        self.seen(path).write_text(text)
        return path

    def packages(self) -> str:
        """Every installed package with its version."""
        return self.sh("dpkg-query -W -f='${binary:Package} ${Version} ${db:Status-Status}\\n'")

    def differences(self) -> dict[str, tuple[object, object]]:
        """How what was written inside differs from this host: path → (here, inside).

        What is `OF_NO_ACCOUNT` is left out.
        """
        found: dict[str, tuple[object, object]] = {}
        for tree in _TREES:
            upper = self.seen(self._folder / f"{tree}.upper")
            for path in [upper, *upper.rglob("*")]:
                place = Path("/", tree, path.relative_to(upper))
                for each in [place, *_lost_or_found(place, self.seen(place))]:
                    states = _state(each), _state(self.seen(each))
                    if states[0] != states[1] and not _of_no_account(str(each)):
                        found[str(each)] = states
        return found


def _lost_or_found(here: Path, there: Path) -> Iterator[Path]:
    """What only one of two directories has."""
    if here.is_dir() and there.is_dir():
        names = {path.name for path in here.iterdir()} ^ {path.name for path in there.iterdir()}
        yield from (here / name for name in names)


def listing(root: Path) -> dict[str, object]:
    """Every path below with type, mode, owner, size and SHA-256, or what a link points to.

    What is `OF_NO_ACCOUNT` is left out.
    """
    found = {str(path.relative_to(root)): path for path in sorted(root.rglob("*"))}
    return {name: _state(path) for name, path in found.items() if not _of_no_account(f"/{name}")}


def _of_no_account(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in OF_NO_ACCOUNT)


def _state(path: Path) -> object:
    """What a path is; None where there is nothing."""
    try:
        found = path.lstat()
    except OSError:
        return None
    common = (stat.filemode(found.st_mode), found.st_uid, found.st_gid)
    if stat.S_ISLNK(found.st_mode):
        return (*common, str(path.readlink()))
    if stat.S_ISREG(found.st_mode):
        return (*common, found.st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    return (*common, found.st_rdev)
