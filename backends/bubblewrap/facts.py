"""What a bubblewrap plan depends on, read from the host; nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from backends.errors import BackendUnavailable, Problem
from backends.frozen import frozen
from backends.linux.cgroups import NO_CGROUPS, CgroupFacts
from backends.linux.uid_range import UidRange

if TYPE_CHECKING:
    from backends.network.facts import NetworkFacts

FIX = "mxc-ops prep host --backend bubblewrap --yes"

# bwrap options without which a sandbox would be weaker than promised (Debian 12's 0.8.0 has them all).
NEEDED_OPTIONS = (
    "--args",
    "--as-pid-1",
    "--bind-fd",
    "--cap-drop",
    "--disable-userns",
    "--perms",
    "--remount-ro",
    "--ro-bind-fd",
    "--size",
)

PROGRAM_DIRECTORIES = (
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/sbin",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/libx32",
    "/usr/sbin",
    "/usr/share",
)

# Parts of the host's /etc that hold no secrets and that programs need to start or to verify certificates.
ETC_PARTS = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
)

OWN_DIRECTORIES = ("/dev", "/etc", "/proc", "/run", "/tmp", "/usr", "/var")  # noqa: S108 - the sandbox's
# Relative, so that bubblewrap, which builds the tree elsewhere, can make a grant's mount point through them.
OWN_LINKS: Mapping[str, str] = {"/var/run": "../run", "/var/tmp": "../tmp"}  # noqa: S108


@frozen
class BaselineEntry:
    """A part of the host that every sandbox sees: bound read-only, or, with `target`, recreated as a link."""

    path: str
    target: str = ""


@frozen
class Helper:
    """The bwrap program: where it is, its version text, and which of `NEEDED_OPTIONS` it lacks."""

    path: str
    version: str
    missing_options: tuple[str, ...]
    setuid: bool


@frozen
class BubblewrapFacts:
    """Everything a plan is made from besides the request and the filesystem view.

    `caller` is the (uid, gid) that we run as; `uid_range` is None on hosts that prep has not seen, and unused
    unless the caller is root. `seccomp` maps profile names to the hash of their filter. `network` is there
    where the request has one.
    """

    helper: Helper
    launcher: str
    launcher_key: str
    landlock_abi: int
    caller: tuple[int, int]
    baseline: tuple[BaselineEntry, ...]
    uid_range: UidRange | None = None
    cgroups: CgroupFacts = NO_CGROUPS
    seccomp: Mapping[str, str] | None = None
    network: NetworkFacts | None = None

    @property
    def baseline_trees(self) -> tuple[str, ...]:
        """Host directories that every sandbox can read."""
        return tuple(entry.path for entry in self.baseline if not entry.target)

    @property
    def own_paths(self) -> tuple[str, ...]:
        """What every sandbox has of its own: no policy can put a link there."""
        return (*(entry.path for entry in self.baseline if entry.target), *OWN_DIRECTORIES, *OWN_LINKS)


def find_helper(search_path: str | None = None) -> Helper:
    """Find bwrap on the search path and read which options it has.

    The options and the version are literals in the program: reading them costs 0.1 ms, running it costs 3.
    Raises `BackendUnavailable` when there is none.
    """
    directories = (search_path or os.environ.get("PATH") or os.defpath).split(":")
    for directory in (*directories, "/usr/bin"):
        candidate = f"{directory}/bwrap"
        if directory.startswith("/") and os.access(candidate, os.X_OK):
            return _examine(candidate)
    raise BackendUnavailable(Problem("bwrap_missing", "bwrap", "bubblewrap is not installed", fix=FIX))


_examined: dict[tuple[str, int, int], Helper] = {}


def _examine(path: str) -> Helper:
    status = os.stat(path)
    key = (path, status.st_ino, status.st_mtime_ns)
    if key not in _examined:
        text = _read(path)
        if text.startswith(b"\x7fELF"):
            version = _version_literal(text)
        else:
            text, version = _ask(path)
        missing = tuple(option for option in NEEDED_OPTIONS if option.encode() not in text)
        _examined[key] = Helper(path, version, missing, bool(status.st_mode & 0o4000))
    return _examined[key]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _version_literal(program: bytes) -> str:
    at = program.find(b"bubblewrap ")
    while at >= 0:
        word = program[at + 11 : program.find(b"\0", at)]
        if word[:1].isdigit():
            return word.decode("ascii", "replace").strip()
        at = program.find(b"bubblewrap ", at + 1)
    return "unknown"


def _ask(path: str) -> tuple[bytes, str]:
    """Run a wrapper script's ``--help`` and ``--version``."""
    import subprocess

    help_text = subprocess.run([path, "--help"], capture_output=True, check=False, timeout=5, env={})
    version = subprocess.run([path, "--version"], capture_output=True, check=False, timeout=5, env={})
    return help_text.stdout + help_text.stderr, version.stdout.decode("utf-8", "replace").split()[-1]


def check_helper(helper: Helper) -> None:
    """Raises `BackendUnavailable` for a bwrap that cannot hold what we promise."""
    if helper.missing_options:
        raise BackendUnavailable(
            Problem(
                "bwrap_too_old",
                helper.path,
                f"bwrap {helper.version} lacks {', '.join(helper.missing_options)}",
                expected="bubblewrap ≥ 0.8 with --bind-fd (Debian 12's, or ≥ 0.10 elsewhere)",
                fix=FIX,
            )
        )
    if helper.setuid:
        raise BackendUnavailable(
            Problem(
                "bwrap_setuid",
                helper.path,
                "bwrap is setuid root, which forbids user namespaces of our own",
                fix=f"chmod u-s {helper.path}",
            )
        )


def observe_baseline() -> tuple[BaselineEntry, ...]:
    """The program directories and harmless parts of /etc that exist here, shallow to deep."""
    found: list[BaselineEntry] = []
    for path in (*PROGRAM_DIRECTORIES, *ETC_PARTS):
        try:
            target = os.readlink(path)
        except FileNotFoundError:
            continue
        except OSError:  # EINVAL: not a link
            found.append(BaselineEntry(path))
        else:
            found.append(BaselineEntry(path, target))
    return tuple(found)
