"""Where Debian packages come from: the host's own apt configuration, read when an image is built. Pure.

apt tells its sources whichever way they are written (apt-get(8), ``indextargets``), but not their keys, which
are read from where apt says that each source stands (sources.list(5)).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from backends.frozen import frozen

__all__ = ["QUESTION", "Source", "parse_sources", "source_lines"]

QUESTION = (
    "indextargets",
    "--format",
    "$(SITE)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SOURCESENTRY)",
    "Created-By: Packages",
)
_ORIGIN = "Debian"
_SUFFIXES = ("", "-updates", "-security", "/updates")
_PASSED_ON = ("trusted", "check-valid-until", "check-date", "allow-insecure", "allow-weak")


@frozen
class Source:
    """One distribution of a mirror. `options` are apt's for it; an embedded key is in `key`."""

    site: str
    release: str
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    key: str = ""


def parse_sources(told: str, codename: str, read: Callable[[str], str]) -> tuple[Source, ...]:
    """The sources of the host's own Debian release, with its updates and security fixes.

    Parameters
    ----------
    told: apt's answer to `QUESTION`.
    codename: the host's release, e.g. ``bookworm``; backports and other releases are left out.
    read: gives the text of one of apt's files; "" when it cannot be read.
    """
    found: dict[tuple[str, str], list[str]] = {}
    entries: dict[tuple[str, str], str] = {}
    for line in told.splitlines():
        site, release, component, origin, entry = line.split("|")
        # Without an index apt does not know the origin yet; it writes the variable itself.
        ours = origin in (_ORIGIN, "") or origin.startswith("$(")
        if ours and release in {codename + suffix for suffix in _SUFFIXES}:
            found.setdefault((site, release), []).append(component)
            entries[site, release] = entry
    sources: list[Source] = []
    for (site, release), components in found.items():
        file, _, number = entries[site, release].rpartition(":")
        options = _options(file, read(file), int(number) if number.isdecimal() else 0)
        key = options.pop("signed-by", "")
        if key and not key.lstrip().startswith("-----BEGIN"):
            options["signed-by"] = ",".join(re.split(r"[\s,]+", key.strip()))
            key = ""
        sources.append(
            Source(site, release, tuple(dict.fromkeys(components)), tuple(sorted(options.items())), key)
        )
    return tuple(sources)


def source_lines(sources: Iterable[Source], key_files: Mapping[str, str]) -> str:
    """The text of a sources.list.

    Parameters
    ----------
    key_files: where the embedded keys were written, by the key.
    """
    lines: list[str] = []
    for source in sources:
        options = dict(source.options)
        if source.key:
            options["signed-by"] = key_files[source.key]
        text = " ".join(f"{name}={value}" for name, value in sorted(options.items()))
        words = ["deb", f"[{text}]" if text else "", source.site, source.release, *source.components]
        lines.append(" ".join(word for word in words if word))
    return "".join(f"{line}\n" for line in lines)


def _options(file: str, text: str, number: int) -> dict[str, str]:
    if file.endswith(".sources"):
        return _deb822_options(text, number)
    lines = text.splitlines()
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    bracket = re.match(r"\s*deb\s+\[([^]]*)\]", line)
    words = bracket.group(1).split() if bracket else []
    return _kept({name.lower(): value for name, _, value in (word.partition("=") for word in words)})


def _deb822_options(text: str, number: int) -> dict[str, str]:
    stanzas = [part for part in re.split(r"\n\s*\n", _without_comments(text.splitlines())) if part.strip()]
    if not 0 < number <= len(stanzas):
        return {}
    fields: dict[str, str] = {}
    name = ""
    for line in stanzas[number - 1].splitlines():
        if line[:1].isspace():
            rest = line.strip()
            fields[name] = f"{fields.get(name, '')}\n{'' if rest == '.' else rest}"
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return _kept({name: value.strip() for name, value in fields.items()})


def _without_comments(lines: Sequence[str]) -> str:
    return "\n".join(line for line in lines if not line.startswith("#"))


def _kept(options: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name in ("signed-by", *_PASSED_ON) and value}
