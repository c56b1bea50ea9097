"""Our doctor for another host: its sources as one archive, the commands there, the answer. No pyinfra.

The doctor needs nothing there but Python: on its way the sources import no package of others'.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any

from backends.needs import Health, Probe

__all__ = [
    "ARCHIVE",
    "DEADLINE_S",
    "INTERPRETERS",
    "OLD",
    "UNPACK",
    "Place",
    "Sources",
    "examination",
    "failure",
    "place",
    "preparation",
    "probes",
    "python_missing",
    "removal",
    "sources",
]

DEADLINE_S = 900
"""Seconds after which the doctor is killed there."""
ARCHIVE = "sources.tar.gz"
_PACKAGES = ("backends", "mxc_ops", "vm_images")
_TOP = Path(__file__).resolve().parents[2]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FOLDER = "/tmp/mxc-ops-doctor."  # noqa: S108 - made by mktemp(1), for us alone
_KILL_AFTER_S = 10
_KILLED = 124  # what timeout(1) exits with
# Distributions whose python3 is older have a newer one beside it, under its version.
INTERPRETERS = "python3 python3.14 python3.13 python3.12 python3.11"
OLD = "sys.version_info < (3, 11)"
_INSTALL = {
    "debian": "apt-get install -y python3",
    "fedora": "dnf install -y python3.12",
    "alpine": "apk add python3",
    "arch": "pacman -S --noconfirm python",
    "suse": "zypper --non-interactive install python311",
}
# The sum is that of the very bytes that are unpacked: the archive lies where whoever we log in as may write.
UNPACK = """
import hashlib, io, sys, tarfile
with open(sys.argv[1], "rb") as file:
    packed = file.read()
if hashlib.sha256(packed).hexdigest() != sys.argv[2]:
    sys.exit("what arrived is not what was sent")
tarfile.open(fileobj=io.BytesIO(packed)).extractall(sys.argv[3])
"""


@dataclass(frozen=True)
class Sources:
    """`packed`: a gzipped tar; `digest`: its SHA-256 in hex."""

    packed: bytes
    digest: str


@dataclass(frozen=True)
class Place:
    """What was found and made there.

    Parameters
    ----------
    folder: of the user's that we log in as, and nobody else's.
    python: path of an interpreter that is new enough, "" without one.
    version: what ``python3 -V`` says, "" without one.
    """

    folder: str
    python: str
    version: str = ""


@cache
def sources() -> Sources:
    """Our own sources; always the same bytes for the same sources."""
    archive = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=archive, mode="wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
    ):
        for package in _PACKAGES:
            for path in sorted((_TOP / package).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    entry = tarfile.TarInfo(str(path.relative_to(_TOP)))
                    content = path.read_bytes()
                    entry.size, entry.mode = len(content), 0o644
                    tar.addfile(entry, io.BytesIO(content))
    packed = archive.getvalue()
    return Sources(packed, sha256(packed).hexdigest())


def preparation() -> str:
    """A command that makes a place for the sources and looks for Python; see `place`."""
    return (
        f"export PATH={_PATH}; umask 077; folder=$(mktemp -d {_FOLDER}XXXXXXXXXX) || exit 1;"
        ' echo "folder=$folder"; echo "version=$(python3 -V 2>&1)";'
        f" for python in {INTERPRETERS}; do"
        f' "$python" -I -c "import sys; sys.exit({OLD})" 2>/dev/null || continue;'
        ' echo "python=$(command -v "$python")"; break; done'
    )


def place(lines: Sequence[str]) -> Place | None:
    """What the preparation found; None when it answered something else."""
    told = dict(line.split("=", 1) for line in lines if re.match("(folder|python|version)=", line))
    folder = told.get("folder", "")
    if not re.fullmatch(re.escape(_FOLDER) + "[A-Za-z0-9]{10}", folder):
        return None
    version = told.get("version", "")
    return Place(folder, told.get("python", ""), version if version.startswith("Python ") else "")


def examination(where: Place, digest: str, backends: Sequence[str], features: Sequence[str]) -> str:
    """A command that runs the doctor from the archive in `where.folder`; what it prints see `probes`.

    Whatever happens, the command removes what was brought and made, also when nobody listens any more.

    Parameters
    ----------
    digest: of the archive.
    backends: none: all that mxc-ops can run sandboxes in.
    features: those without which the host is not ready.
    """
    python, folder = quote(where.python), quote(where.folder)
    asked = quote(json.dumps({"backends": list(backends), "features": list(features)}))
    return "\n".join(
        [
            f"export PATH={_PATH} LC_ALL=C.UTF-8; umask 022; cd /; own=",
            f'trap \'rm -rf {folder} "$own"\' EXIT; trap "exit 1" HUP INT TERM',
            f"own=$(mktemp -d {_FOLDER}XXXXXXXXXX) || exit 1",
            # Sandboxes are also tried as a user without rights, who imports from there.
            'chmod 755 "$own" || exit 1',
            f'{python} -I -c {quote(UNPACK)} {folder}/{ARCHIVE} {digest} "$own" || exit 1',
            f'PYTHONPATH="$own" timeout -k {_KILL_AFTER_S} {DEADLINE_S}'
            f" {python} -P -s -B -m mxc_ops.prep.answering {asked} </dev/null",
            f"status=$?; test $status != {_KILLED} || echo 'killed after {DEADLINE_S} s' >&2; exit $status",
        ]
    )


def removal(where: Place) -> str:
    """A command that removes what `preparation` made."""
    return f"rm -rf {quote(where.folder)}"


def probes(lines: Sequence[str]) -> list[Probe] | None:
    """The probes in what the doctor printed; None when there are none."""
    start = max((number for number, line in enumerate(lines) if line == "{"), default=len(lines))
    try:
        told = json.loads("\n".join(lines[start:]))["probes"]
        return [_probe(probe) for probe in told] or None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _probe(told: Mapping[str, Any]) -> Probe:
    texts = {name: str(text) for name, text in told.items() if name != "health"}
    return Probe(**texts, health=Health(told["health"]))


def failure(said: str) -> Probe:
    """The doctor did not answer, and what was heard instead."""
    return Probe(
        "host.doctor",
        Health.FAILED,
        f"the doctor gave no answer: {said or 'it ended, or was killed, without a word'}",
        "nothing is known of this host without it; once what it says is mended, ask again",
        "mxc-ops doctor",
    )


def python_missing(where: Place, family: str) -> Probe:
    """There is no Python that the doctor runs on.

    Parameters
    ----------
    family: of the distribution, "" when unknown.
    """
    seen = f"python3 is {where.version}" if where.version else "there is no python3"
    fix = _INSTALL.get(family, "")
    if not fix:
        seen += "; install Python 3.11 or later, so that python3 is found in /usr/bin or /usr/local/bin"
    elif family == "debian" and where.version:
        seen += "; Debian and Ubuntu have python3.11 in some releases, and a newer python3 in later ones"
        fix = "apt-get install -y python3.11"
    why = "the doctor, and mxc-ops itself, run on Python 3.11 or later"
    return Probe("host.python", Health.FAILED, seen, why, fix, "root")
