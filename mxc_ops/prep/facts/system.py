"""What kind of host it is, and whether root's rights can be had."""

from __future__ import annotations

import shlex

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.facts.common import WordFact


class OsRelease(FactBase[dict[str, str]]):
    """os-release(5) as a dictionary; empty where there is none."""

    @override
    def command(self) -> str:
        return "cat /etc/os-release /usr/lib/os-release 2>/dev/null || true"

    @staticmethod
    @override
    def default() -> dict[str, str]:
        return {}

    @override
    def process(self, output: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in output:
            name, equals, value = line.partition("=")
            if equals and name not in found and not name.startswith("#"):
                found[name] = "".join(shlex.split(value))
        return found


class Elevation(WordFact):
    """How root's rights can be had without a password: ``root`` (we are), ``sudo``, ``doas`` or ``none``."""

    @override
    def command(self) -> str:
        return (
            "if test $(id -u) = 0; then echo root; elif sudo -n true 2>/dev/null; then echo sudo;"
            " elif doas -n true 2>/dev/null; then echo doas; else echo none; fi"
        )

    @staticmethod
    @override
    def default() -> str:
        return "none"


class Machine(WordFact):
    """The processor's kind, as ``uname -m`` names it."""

    @override
    def command(self) -> str:
        return "uname -m"


class ServiceManager(WordFact):
    """Who starts services here: ``systemd``, ``openrc`` or ``none``; installed is not enough, it must run."""

    @override
    def command(self) -> str:
        return (
            "if test -d /run/systemd/system; then echo systemd;"
            " elif test -e /run/openrc/softlevel; then echo openrc; else echo none; fi"
        )

    @staticmethod
    @override
    def default() -> str:
        return "none"


class RestartRequired(FactBase[str]):
    """Why the host must be restarted: packages that asked for it; "" when it need not be."""

    @override
    def command(self) -> str:
        return (
            "test ! -e /run/reboot-required || { echo restart; cat /run/reboot-required.pkgs 2>/dev/null; }"
        )

    @staticmethod
    @override
    def default() -> str:
        return ""

    @override
    def process(self, output: list[str]) -> str:
        return f"asked for by {', '.join(sorted(set(output[1:])))}" if len(output) > 1 else "asked for"
