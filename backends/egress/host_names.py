"""The host's own files about names: hosts(5) and resolv.conf(5), read again when they change."""

from __future__ import annotations

import os
from ipaddress import ip_address

from backends.egress.names import canonical

__all__ = ["HostsFile", "Nameservers", "parse_hosts", "parse_nameservers"]

_LONGEST = 1 << 20
_MOST_NAMESERVERS = 3  # resolv.conf(5): MAXNS

_Stamp = tuple[int, int, int]


class _Watched:
    """A file's text: a new one only after the file has changed, and an empty one where there is no file.

    A file that cannot be read at the moment has not changed: its lines are not forgotten for that.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: _Stamp | None = None

    def changed(self) -> str | None:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                state = os.fstat(file.fileno())
                stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
                if stamp == self._stamp:
                    return None
                text = file.read(_LONGEST)
        except FileNotFoundError:
            self._stamp = None
            return ""
        except OSError:
            return None
        self._stamp = stamp
        return text


class HostsFile:
    """`addresses(name)`: what hosts(5) has for a canonical name; empty: nothing."""

    def __init__(self, path: str = "/etc/hosts") -> None:
        self._file = _Watched(path)
        self._known: dict[str, tuple[str, ...]] = {}

    def addresses(self, name: str) -> tuple[str, ...]:
        text = self._file.changed()
        if text is not None:
            self._known = parse_hosts(text)
        return self._known.get(name, ())


class Nameservers:
    """`addresses()`: whom to ask; the given ones, or those of resolv.conf(5) where none are given."""

    def __init__(self, given: tuple[str, ...], path: str = "/etc/resolv.conf") -> None:
        self._known = given
        self._file = None if given else _Watched(path)

    def addresses(self) -> tuple[str, ...]:
        text = None if self._file is None else self._file.changed()
        if text is not None:
            self._known = parse_nameservers(text)
        return self._known


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Canonical name → addresses, in the file's order."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if names and _is_address(address):
            for name in {each for each in map(canonical, names) if each is not None}:
                found[name] = (*found.get(name, ()), address)
    return found


def parse_nameservers(text: str) -> tuple[str, ...]:
    """The addresses after ``nameserver``; without any it is this host (resolv.conf(5))."""
    lines = [line.split() for line in text.splitlines()]
    found = [words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1]
    return tuple([address for address in found if _is_address(address)][:_MOST_NAMESERVERS]) or ("127.0.0.1",)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
