"""The host's apt, asked with a private state: what would be installed, and single packages fetched.

Nothing of the host's own package state is read or changed; its sources, proxies and credentials are used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from backends.errors import BackendUnavailable, PrepFailed, Problem
from backends.frozen import frozen
from backends.virtual_machine import System
from vm_images.apt_sources import QUESTION, parse_sources, source_lines
from vm_images.tools import find_tool, run_tool

__all__ = ["MOVED", "Apt", "Package", "host_system", "moved"]

MOVED = "archive_moved"

_UPDATE_S = 300
_QUESTION_S = 120
_FETCH_S = 900
_RETRY = "look whether this works: apt-get update"
_BRING = "build the image on a Debian host, then: mxc-ops image export NAME FILE; mxc-ops image import FILE"
_VERSIONED = re.compile(r"linux-image-\d\S*")
_INSTALLS = re.compile(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", re.MULTILINE)


@frozen
class Package:
    """A Debian package in one version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"


class Apt:
    """apt with lists, cache and status of its own below `folder`, which must be empty.

    Raises `BackendUnavailable` where the host has no apt, or no Debian sources of its own release.
    """

    def __init__(self, folder: Path) -> None:
        self.system = host_system()
        self.codename = self.system.releases[0] if self.system.releases else ""
        self.sources = folder / "sources.list"
        self.configuration = folder / "acquire.conf"
        self._folder = folder
        self._get = find_tool("apt-get")
        self._cache = find_tool("apt-cache")
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        for file in (self.sources, self.configuration):
            # They may hold passwords, of files that only root can read; what a user reads, everybody may.
            file.touch(0o644 if os.geteuid() else 0o600)
        self.sources.write_text(self._source_text())
        self.configuration.write_bytes(self._how_to_acquire())

    def update(self) -> None:
        """Fetch the lists. Raises `PrepFailed`, to be tried again, when the mirror does not answer."""
        self._ask(self._get, "-q", "-o", "Acquire::Languages=none", "update", deadline_s=_UPDATE_S)

    def resolve(self, names: Sequence[str]) -> tuple[Package, ...]:
        """The essential packages and these, with all that they depend on, in exact versions; sorted.

        Raises `PrepFailed` when there is no such package, or they contradict each other.
        """
        said = self._ask(
            self._get,
            *("-s", "-q", "install", "?essential", *names),
            fix="look for the right name: apt-cache search NAME",
        )
        found = {name.partition(":")[0]: version for name, version in _INSTALLS.findall(said)}
        return tuple(Package(name, found[name]) for name in sorted(found))

    def kernel(self, name: str) -> Package:
        """The package with the kernel itself: `name`, or what it depends on in exactly one version."""
        fields = self._show(name)
        for part in fields.get("Depends", "").split(","):
            dependency = re.fullmatch(r"\s*(\S+)(?: \(= (\S+)\))?\s*", part)
            if dependency and _VERSIONED.fullmatch(dependency[1]) and not _VERSIONED.fullmatch(name):
                return Package(dependency[1], dependency[2] or self._show(dependency[1])["Version"])
        return Package(name, fields["Version"])

    def candidate(self, name: str) -> Package:
        """A package in the version that would be installed."""
        return Package(name, self._show(name)["Version"])

    def fetch(self, package: Package, folder: Path) -> Path:
        """Download a package into an empty folder; apt checks it against the signed lists."""
        folder.mkdir()
        self._ask(self._get, "-q", "download", str(package), deadline_s=_FETCH_S, cwd=folder)
        return next(folder.glob("*.deb"))

    def _show(self, name: str) -> dict[str, str]:
        fix = f"look for the right name: apt-cache search {name}"
        text = self._ask(self._cache, "show", "--no-all-versions", name, fix=fix)
        return dict(re.findall(r"^([A-Za-z-]+): (.*)$", text.partition("\n\n")[0], re.MULTILINE))

    def _ask(
        self,
        program: str,
        *words: str,
        deadline_s: float = _QUESTION_S,
        cwd: Path | None = None,
        fix: str = _RETRY,
    ) -> str:
        argv = [program, *self._options(), *words]
        said = run_tool(argv, deadline_s=deadline_s, cwd=cwd, fix=fix, retryable=deadline_s != _QUESTION_S)
        return said.decode("utf-8", "replace")

    def _options(self) -> list[str]:
        places = {
            "Dir::State::lists": self._folder / "lists",
            "Dir::State::status": self._folder / "status",
            "Dir::Cache": self._folder / "cache",
            # Images of containers switch these off, and apt would read all its lists for each question.
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            # Else apt counts itself among the essential packages, in a cache that it only reads again, too.
            "pkgCacheGen::ForceEssential": ",",
            "Dir::Etc::sourcelist": self.sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Install-Recommends": "false",
            "APT::Update::Post-Invoke-Success::": "true",
            "Debug::NoLocking": "true",
            "APT::Update::Error-Mode": "any",
        }
        return [word for name, value in places.items() for word in ("-o", f"{name}={value}")]

    def _source_text(self) -> str:
        told = run_tool([self._get, *QUESTION], deadline_s=_QUESTION_S).decode("utf-8", "replace")
        sources = parse_sources(told, self.codename, _text)
        if not sources:
            message = f"this host's apt names no Debian sources of its release ({self.codename or 'unknown'})"
            raise BackendUnavailable(Problem("no_sources", "", message, fix=_BRING))
        keys: dict[str, str] = {}
        for key in {source.key for source in sources if source.key}:
            keys[key] = str(self._folder / f"key-{len(keys)}.asc")
            Path(keys[key]).write_text(key + "\n")
        return source_lines(sources, keys)

    def _how_to_acquire(self) -> bytes:
        """How the host fetches: proxies, checks, credentials. For an apt that reads nothing else."""
        said = run_tool([find_tool("apt-config"), "dump", "Acquire"], deadline_s=_QUESTION_S)
        return said + (
            b'Dir::Etc::netrc "/etc/apt/auth.conf";\nDir::Etc::netrcparts "/etc/apt/auth.conf.d";\n'
        )


def host_system() -> System:
    """This host's own, which is what its packages make. Raises `BackendUnavailable` when it is no Debian."""
    release = dict(re.findall(r"^(\w+)=[\"']?([^\"'\n]*)", _text("/etc/os-release"), re.MULTILINE))
    if release.get("ID") != "debian":
        message = f"images are made of Debian's packages, and this host is {release.get('NAME') or 'unknown'}"
        raise BackendUnavailable(Problem("no_debian", "", message, fix=_BRING))
    codename, number = release.get("VERSION_CODENAME", ""), release.get("VERSION_ID", "")
    return System("debian", tuple(name for name in (codename, number) if codename and name))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def moved(expected: Sequence[Package], installed: Sequence[Package]) -> PrepFailed:
    """The error for an archive that changed between the question and the installation."""
    differing = sorted(map(str, set(installed) ^ set(expected)))[:10]
    message = f"the archive changed while the image was built: {', '.join(differing)}"
    return PrepFailed(Problem(MOVED, "", message, fix="try again"), retryable=True)
