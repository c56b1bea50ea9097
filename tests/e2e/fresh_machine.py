"""A Debian that has nothing but python3, entered as if it were a machine: own mounts and pids, pivot_root.

Not a chroot: the kernel refuses user namespaces there (user_namespaces(7)). How this machine reaches its
package sources (apt, pip, certificates) is bind-mounted read-only, as found at run time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_ENTER = r"""
set -eu
root=$1; shift
mount --bind "$root" "$root"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
for path in $BORROWED; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root${path%/*}"; touch "$root$path"; fi
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done
mkdir -p "$root/.before"
cd "$root"
pivot_root . .before
umount -l /.before
unset BORROWED
cd /
exec "$@"
"""
_BORROWED = (
    *("/etc/apt/apt.conf.d", "/etc/apt/auth.conf.d", "/etc/apt/sources.list.d", "/etc/apt/trusted.gpg.d"),
    *("/etc/hosts", "/etc/pip.conf", "/etc/resolv.conf", "/usr/local/share/ca-certificates"),
)


def mirror() -> str:
    """The first archive that this machine's apt is configured with."""
    shown = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.split()[0]


def build(root: Path) -> None:
    """A minimal system with python3 and without apt's index, as an image has it."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=python3", "bookworm", str(root), mirror()],
        check=True,
        capture_output=True,
        timeout=900,
    )
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():  # a proxy of this machine may have a certificate of its own
        (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle, root / "etc/ssl/certs")


def run(root: Path, command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command in the machine, as root; everything it started ends with it."""
    borrowed = " ".join(path for path in dict.fromkeys([*_BORROWED, *_pip_places()]) if Path(path).exists())
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return subprocess.run(
        [*enter, "sh", "-c", _ENTER, "enter", str(root), *command],
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BORROWED": borrowed},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
        check=False,
    )


def _pip_places() -> Iterator[str]:
    """The user's pip configuration, and the directories that any configuration of pip's names."""
    home = Path.home()
    for path in (home / ".config/pip", home / ".pip"):
        if path.exists():
            yield str(path)
    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    settings = shown.stdout + "\n".join(
        value for name, value in os.environ.items() if name.startswith("PIP_")
    )
    for path in re.findall(r"(?<![\w:/])(?:file://)?(/[^\s'\"/][^\s'\"]*)", settings):
        # An index may refer to files beside it, so all of its tree is borrowed, such as /opt/packages.
        tree = Path(*Path(path).parts[:3])
        if tree.is_dir() and len(tree.parts) == 3 and tree.parts[1] not in ("etc", "usr", "var"):
            yield str(tree)
