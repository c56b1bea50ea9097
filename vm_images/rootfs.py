"""The root file system: Debian by mmdebstrap without what a guest has no use for, as one read-only disk.

Everything in it is root's and without set-id bits: a guest has one user besides, and packing then takes no
rights. All times are one fixed moment, so that the same packages give the same bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backends.errors import BackendUnavailable, Problem
from vm_images.apt import Apt, Package
from vm_images.recipe import Format, OwnFile
from vm_images.tools import PREP_FIX, find_tool, run_tool
from vm_images.tree import finish

__all__ = ["EPOCH", "assemble", "bootstrap", "pack", "remove_tree"]

EPOCH = 946684800
"""2000-01-01 in seconds: the time of every file. A zip archive, which guests make, knows none before 1980."""
_BOOTSTRAP_S = 1800
_PACK_S = 600
_LEFT_OUT = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"),
    *("usr/share/bug", "usr/share/doc-base", "usr/share/linda"),
    *("var/cache", "var/log", "var/lib/apt", "var/lib/dpkg/info", "etc/apt", "boot", "dev"),
    *("etc/resolv.conf", "etc/machine-id", "var/lib/dbus/machine-id", "etc/.pwd.lock"),
    *("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/shadow", "etc/gshadow"),
    *("var/lib/dpkg/status-old", "var/lib/dpkg/lock", "var/lib/dpkg/lock-frontend"),
    *("var/lib/dpkg/available", "var/lib/dpkg/triggers", "var/lib/dpkg/diversions-old"),
)
# Without site (-S): it would run code in .pth files of packages, which an index gave, perhaps as root.
_COMPILE = (
    'chroot "$1" env -i PATH=/usr/bin:/bin PYTHONHASHSEED=0 /usr/bin/python3 -S -m compileall -qq -f'
    " --invalidation-mode unchecked-hash /usr/lib/python3 {version_folders} || true"
)


def bootstrap(
    apt: Apt,
    packages: Sequence[str],
    archive: Path,
    scratch: Path,
    *,
    python: str = "",
    extra: Path | None = None,
) -> tuple[Package, ...]:
    """Install the essential packages and these into `archive`, a tar file; returns what was installed.

    Parameters
    ----------
    scratch: an empty directory for what is on the way.
    python: the version of the guest's Python, as ``3.11``, whose modules are then compiled; "" without one.
    extra: a directory of Python packages to be put where the guest's Python looks for such.

    Raises `BackendUnavailable` where a plain user may not do it, `PrepFailed` when it fails.
    """
    mode = _mode()
    with _reachable(scratch, mode) as place:
        for file in (apt.sources, apt.configuration):
            shutil.copy(file, place)
        options = ["--quiet", "--format=tar", f"--mode={mode}", "--variant=essential"]
        options += [f"--include={','.join(packages)}"] if packages else []
        options += [
            f"--dpkgopt=path-exclude=/{left}/*" for left in _LEFT_OUT if left.startswith("usr/share/")
        ]
        options += [f"--aptopt={place / apt.configuration.name}", *_hooks(python, extra, place)]
        run_tool(
            [find_tool("mmdebstrap"), *options, apt.codename, archive, place / apt.sources.name],
            deadline_s=_BOOTSTRAP_S,
            environment={"SOURCE_DATE_EPOCH": str(EPOCH), "TMPDIR": str(place)},
            fix="look whether this works: apt-get update",
            retryable=True,
        )
    with tarfile.open(archive) as content:
        status = content.extractfile("./var/lib/dpkg/status")
        assert status is not None  # a regular file of every Debian system
        return _installed(status.read().decode("utf-8", "replace"))


@contextmanager
def _reachable(scratch: Path, mode: str) -> Generator[Path]:
    """A place for mmdebstrap. In a user namespace it is somebody else, whom many a home is closed to."""
    if mode == "root":
        yield scratch
        return
    with tempfile.TemporaryDirectory(prefix="mxc-ops-image-") as folder:
        place = Path(folder)
        place.chmod(0o755)
        yield place


def _hooks(python: str, extra: Path | None, place: Path) -> list[str]:
    if not python:
        return []
    folders = [f"/usr/lib/python{python}"]
    hooks: list[str] = []
    if extra:
        shutil.copytree(extra, place / extra.name)
        folders.append(f"/usr/local/lib/python{python}/dist-packages")
        hooks.append(f"--customize-hook=copy-in {place / extra.name} /usr/local/lib/python{python}")
    return [*hooks, f"--customize-hook={_COMPILE.format(version_folders=' '.join(folders))}"]


def _mode() -> str:
    """As root by chroot; as a user in a user namespace, where the host gives the user ids for one."""
    user = os.geteuid()
    if user == 0:
        return "root"
    if shutil.which("newuidmap") is None:
        message = "newuidmap is not installed, which installing packages without root's rights takes"
        fix = "apt-get install --yes uidmap, or build as root"
        raise BackendUnavailable(Problem("no_newuidmap", "", message, fix=fix))
    name = _account(user)
    for file in ("/etc/subuid", "/etc/subgid"):
        if not any(line.split(":")[0] in (name, str(user)) for line in _lines(file)):
            message = f"{file} gives {name} no ids, which installing packages without root's rights takes"
            fix = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}, or build as root"
            raise BackendUnavailable(Problem("no_subordinate_ids", "", message, fix=fix))
    return "unshare"


def _account(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []


def _installed(status: str) -> tuple[Package, ...]:
    found: list[Package] = []
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            found.append(Package(fields["Package"], fields["Version"]))
    return tuple(sorted(found, key=lambda package: package.name))


def assemble(archive: Path, tree: Path, files: Sequence[OwnFile]) -> None:
    """Unpack the installed system without what is left out, and put our own files on top.

    Parameters
    ----------
    archive: a tar file as `bootstrap` makes it.
    tree: the directory to make.
    files: absolute paths in the guest; they win over what is installed.
    """
    tree.mkdir()
    modes: dict[Path, int] = {tree: 0o755}
    with tarfile.open(archive) as content:
        for member in content:
            name = member.name.removeprefix("./").strip("/")
            if name in ("", ".") or any(name == out or name.startswith(f"{out}/") for out in _LEFT_OUT):
                continue
            _unpack(content, member, tree / name, modes)
    modes |= finish(tree, files)
    for folder in sorted(modes, reverse=True):
        folder.chmod(modes[folder])


def _unpack(content: tarfile.TarFile, member: tarfile.TarInfo, place: Path, modes: dict[Path, int]) -> None:
    """Devices and set-id bits stay out: a guest's kernel makes the ones, nobody there may use the others."""
    if member.isdir():
        place.mkdir(exist_ok=True)
        modes[place] = member.mode & 0o1777
    elif member.issym():
        place.symlink_to(member.linkname)
    elif member.islnk():
        place.hardlink_to(
            place.parents[len(Path(member.name.removeprefix("./")).parts) - 1] / member.linkname
        )
    elif member.isreg():
        source = content.extractfile(member)
        assert source is not None
        with place.open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            os.fchmod(target.fileno(), member.mode & 0o777)


def pack(tree: Path, kind: Format, target: Path, key: str) -> None:
    """Make one file of the tree; the file system's identity comes from the image's key."""
    identity = f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:32]}"
    if kind is Format.EROFS:
        options = ["--quiet", f"-T{EPOCH}", f"-U{identity}", "--all-root", "-x-1"]
        # It tells each file, quiet or not.
        run_tool(
            [find_tool("mkfs.erofs"), *options, target, tree],
            deadline_s=_PACK_S,
            output=Path(os.devnull),
            fix=PREP_FIX,
        )
    else:
        options = ["-noappend", "-quiet", "-no-progress", "-all-root", "-no-xattrs", "-comp", "zstd"]
        options += ["-mkfs-time", str(EPOCH), "-all-time", str(EPOCH)]
        run_tool([find_tool("mksquashfs"), tree, target, *options], deadline_s=_PACK_S, fix=PREP_FIX)


def remove_tree(tree: Path) -> None:
    """Remove a directory, also where it took away our own right to."""
    for folder, names, _ in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o700 != 0o700:
                path.chmod(0o700)
    shutil.rmtree(tree, ignore_errors=True)
