"""What fleets are made of, built once for each machine: a Debian with sshd, and packages to install.

Both are kept in directories named by a hash of what they are made of, so a changed list makes a new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.e2e.fresh_machine import mirror

__all__ = ["INIT", "PACKAGES_INSIDE", "USER", "cached", "debian_root", "package_source"]

_CACHE = Path("/var/cache/mxc-ops-tests")
PACKAGES_INSIDE = "/srv/packages"
USER = "ops"
INIT = "/usr/sbin/fleet-init"
_SUITE = "bookworm"
# tini reaps what killed commands leave behind, python3-apt is for the Ansible that benchmarks compare with.
_INCLUDED = (
    *("openssh-server", "sudo", "python3", "python3-apt", "ca-certificates", "tini"),
    *("iproute2", "kmod", "procps"),
)
_FINISH = f"""
set -eu
useradd --create-home --shell /bin/bash {USER}
printf 'AuthorizedKeysFile /etc/ssh/authorized_keys\\n' > /etc/ssh/sshd_config.d/fleet.conf
printf 'force-unsafe-io\\n' > /etc/dpkg/dpkg.cfg.d/fleet
printf 'deb [trusted=yes] file:{PACKAGES_INSIDE} ./\\n' > /etc/apt/sources.list
mkdir -p {PACKAGES_INSIDE} /run/sshd
# LXC hides a part of /proc, and then the kernel lets no user namespace mount a /proc of its own.
cat > {INIT} <<'END'
#!/bin/sh
umount /proc/sys/kernel/random/boot_id 2>/dev/null
exec tini -g -- /usr/sbin/sshd -D -e
END
chmod 755 {INIT}
rm -f /etc/ssh/ssh_host_*
rm -rf /var/lib/apt/lists
apt-get clean
"""


def debian_root() -> Path:
    """A minimal Debian with sshd, sudo and the user `USER`, whose only package source is `PACKAGES_INSIDE`.

    It has no SSH host keys and trusts no key: each machine of a fleet gets its own.
    """

    def make(root: Path) -> None:
        included = ",".join(_INCLUDED)
        _run("debootstrap", "--variant=minbase", f"--include={included}", _SUITE, str(root), mirror())
        _run("chroot", str(root), "sh", "-c", _FINISH)

    return cached("root", (_SUITE, *_INCLUDED, _FINISH), make)


def package_source(packages: Iterable[str]) -> Path:
    """A flat apt source with the packages and all that they need on top of `debian_root`."""
    root = debian_root()
    names = sorted(set(packages))

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="mxc-fleet-apt-") as scratch:
            # Lists of our own: this machine's may be old or missing, and are not ours to refresh.
            apt = _apt_options(root, Path(scratch), folder)
            _run("apt-get", *apt, "update")
            _run("apt-get", *apt, "-y", "--no-install-recommends", "--download-only", "install", *names)
        shutil.rmtree(folder / "partial")
        index = subprocess.run(
            ["apt-ftparchive", "packages", "."], cwd=folder, check=True, capture_output=True, text=True
        )
        (folder / "Packages").write_text(index.stdout)

    return cached("packages", (root.name, *names), make)


def _apt_options(root: Path, scratch: Path, archives: Path) -> list[str]:
    (scratch / "lists/partial").mkdir(parents=True)
    (archives / "partial").mkdir(parents=True)
    options = {
        "Dir::State::status": root / "var/lib/dpkg/status",
        "Dir::State::extended_states": scratch / "extended_states",
        "Dir::State::Lists": scratch / "lists",
        "Dir::Cache::archives": archives,
        "APT::Keep-Downloaded-Packages": "true",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
    }
    return ["-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def cached(kind: str, parts: Sequence[str], make: Callable[[Path], None]) -> Path:
    """The directory for these parts; made under another name first, so that a failure leaves none."""
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    found = _CACHE / f"{kind}-{key}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            half = _CACHE / f"{kind}-{key}.half"
            if half.exists():
                shutil.rmtree(half)
            half.mkdir()
            make(half)
            half.chmod(0o755)
            half.rename(found)
    return found


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: {(done.stderr or done.stdout).strip()[-2000:]}")
