"""Images that are installed, and what they can be built from."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

STAMP = "stamp.json"
_DISTRIBUTIONS = ("Debian", "Ubuntu")
_ALIASES = ("oldstable", "stable", "testing", "unstable", "sid")
_SCHEMES = ("http", "https", "file")


class Installed(FactBase[dict[str, Any]]):
    """What there is of an image: ``{"there", "stamp", "remains", "users"}``.

    `stamp` is the text of its stamp, "" without one; `remains` are directories of an interrupted change;
    `users` are processes that have it mounted, as ``NAME (PID)``, a few of them.
    """

    @override
    def command(self, path: str) -> str:
        name = quote(path)
        # By the end of the path: where a filesystem is mounted above it, the beginning is not told.
        end = "/" + "/".join(path.split("/")[-2:]) + "/"
        return (
            f"if test -e {name}; then echo there; fi;"
            f" if test -r {name}/{STAMP}; then echo \"stamp $(tr -d '\\n' < {name}/{STAMP})\"; fi;"
            f' for rest in {name}.new {name}.old; do if test -e "$rest"; then echo "remains $rest"; fi; done;'
            f" grep -lsF {quote(end)} /proc/[0-9]*/mountinfo | head -n 3 | while read -r found; do"
            ' process=${found%/mountinfo}; echo "user $(cat "$process/comm") (${process#/proc/})"; done'
        )

    @staticmethod
    @override
    def default() -> dict[str, Any]:
        return {"there": False, "stamp": "", "remains": [], "users": []}

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        told = [line.partition(" ")[::2] for line in output]
        return {
            "there": "there" in output,
            "stamp": next((text for name, text in told if name == "stamp"), ""),
            "remains": [text for name, text in told if name == "remains"],
            "users": [text for name, text in told if name == "user"],
        }


class Mirror(FactBase[dict[str, str] | None]):
    """Where this host's own apt has its distribution from: ``{"mirror", "suite", "keyring"}``.

    None where there is no apt, no such entry that debootstrap could use, or something at the path `unless`. A
    mirror that wants a password is told without it, as ``https://@HOST/…``; `keyring` is "" when apt names no
    file for it.
    """

    @override
    def command(self, unless: str) -> str:
        fields = "$(SITE)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)"
        # Without its index, and without a cache of it, apt reads its sources in no time, and writes nothing.
        apt = (
            "apt-get -o Dir::State::lists=/nonexistent/ -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
        )
        return (
            f"if ! test -e {quote(unless)} && command -v apt-get >/dev/null; then"
            " sed -n 's/^VERSION_CODENAME=/release /p' /etc/os-release;"
            f" {apt} --no-release-info indextargets --format 'target {fields}' 'Created-By: Packages'"
            " | sed 's#://[^/|]*@#://@#';"
            " cd /var/lib/apt/lists && grep -sHm1 '^Origin: ' *Release | sed 's/^/origin /';"
            " grep -rsHi signed-by /etc/apt/sources.list* | sed 's/^/signed /'; fi; true"
        )

    @staticmethod
    @override
    def default() -> dict[str, str] | None:
        return None

    @override
    def process(self, output: list[str]) -> dict[str, str] | None:
        told = [line.partition(" ")[::2] for line in output]
        release = next((text.strip("\"'") for name, text in told if name == "release"), "")
        origins = [text for name, text in told if name == "origin"]
        targets = [tuple(text.split("|")) for name, text in told if name == "target"]
        ours = [
            (_origin(mirror, suite, origins), mirror, suite, entry)
            for mirror, suite, component, entry in targets
            if component == "main" and mirror.partition(":")[0] in _SCHEMES and suite in (release, *_ALIASES)
        ]
        # An entry whose origin is not known yet, as no index was loaded, may be the distribution's too.
        ours = sorted(
            (found for found in ours if found[0] in (*_DISTRIBUTIONS, "")), key=lambda found: not found[0]
        )
        if not ours:
            return None
        _, mirror, suite, entry = ours[0]
        signed = [text for name, text in told if name == "signed"]
        return {"mirror": mirror, "suite": suite, "keyring": _keyring(signed, entry.rpartition(":")[0])}


def _origin(mirror: str, suite: str, origins: Sequence[str]) -> str:
    """Who says to have made a distribution: apt names the files of its index by their address."""
    name = f"{mirror.partition('://')[2].lstrip('@')}/dists/{suite}/".replace("/", "_")
    return next((line.partition("Origin: ")[2] for line in origins if line.startswith(name)), "")


def _keyring(signed: Sequence[str], file: str) -> str:
    """The one file of keys that a list of sources names; "" when it names several, or none for gpgv."""
    words = [word for line in signed if line.startswith(f"{file}:") for word in _values(line)]
    named = {word for word in words if word.startswith("/")}
    return named.pop() if len(named) == 1 and all(name.endswith(".gpg") for name in named) else ""


def _values(line: str) -> list[str]:
    """What stands after ``Signed-By:``, or in ``[signed-by=…]`` (sources.list(5))."""
    text = line.lower().partition("signed-by")[0]
    value = line[len(text) + len("signed-by") :].lstrip(":= ")
    return value.partition("]")[0].replace(",", " ").split()


class Stored(FactBase[dict[str, Any]]):
    """What a name of the store of virtual machines' images leads to: ``{"key", "used", "distribution"}``.

    `key` is "" for nothing; `used`: something holds the image's lock; `distribution` is os-release's ID.
    """

    @override
    def command(self, store: str, image: str) -> str:
        link = quote(f"{store}/names/{image}")
        folder = f'{quote(store)}/"$key"'
        return (
            f"key=$(readlink {link} 2>/dev/null | sed 's#^[.][.]/##');"
            f' if test -n "$key" && test -f {folder}/image.json; then echo "key $key";'
            f" ( exec 9<{folder} && flock -n 9 ) 2>/dev/null || echo used; fi;"
            " sed -n 's/^ID=/distribution /p' /etc/os-release 2>/dev/null | tr -d '\"'; true"
        )

    @staticmethod
    @override
    def default() -> dict[str, Any]:
        return {"key": "", "used": False, "distribution": ""}

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        told = {name: text for name, _, text in (line.partition(" ") for line in output)}
        return {
            "key": told.get("key", ""),
            "used": "used" in told,
            "distribution": told.get("distribution", ""),
        }
