"""Services, as whoever starts them here knows them."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from mxc_ops.prep.rules.services import processes

_SYSTEMD = """\
unit="$name.service"
echo "state $(systemctl show -p LoadState --value "$unit") $(systemctl show -p ActiveState --value "$unit")"
echo "kept $(systemctl show -p UnitFileState --value "$unit")"
for trigger in $(systemctl show -p TriggeredBy --value "$unit"); do
echo "trigger $trigger $(systemctl is-active "$trigger")"
done"""
_OPENRC = """\
if test -e "/etc/init.d/$name"; then
rc-service "$name" status >/dev/null && active=active || active=inactive
echo "state loaded $active"
for link in /etc/runlevels/*/"$name"; do if test -e "$link"; then echo "kept enabled"; fi; done
fi"""


def _without_manager(name: str) -> str:
    return (
        f"if test -n \"$({processes(name)})\"; then echo 'state loaded active';"
        f" elif command -v {quote(name)} >/dev/null; then echo 'state loaded inactive'; fi"
    )


class States(FactBase[dict[str, dict[str, Any]]]):
    """Name → ``{"active", "kept", "triggers"}`` of those of the given services that are installed.

    ``kept``: how it is started after a restart: ``enabled``, ``disabled``, ``masked`` … as systemctl(1) names
    them, "" where nothing does. ``triggers``: sockets and the like that start it on demand → whether they are
    active.
    """

    @override
    def command(self, names: Sequence[str], manager: str) -> str:
        """`manager`: systemd, openrc or none."""
        match manager:
            case "systemd" | "openrc":
                listed = " ".join(quote(name) for name in names)
                look = _SYSTEMD if manager == "systemd" else _OPENRC
                return f'for name in {listed}; do\necho "name $name"\n{look}\ndone'
            case _:
                return "\n".join(f"echo {quote(f'name {name}')}\n{_without_manager(name)}" for name in names)

    @staticmethod
    @override
    def default() -> dict[str, dict[str, Any]]:
        return {}

    @override
    def process(self, output: list[str]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        name = ""
        for line in output:
            match line.split():
                case ["name", name]:
                    pass
                case ["state", loaded, active] if loaded != "not-found":
                    found[name] = {"active": active == "active", "kept": "", "triggers": {}}
                case ["kept", kept] if name in found:
                    found[name]["kept"] = kept
                case ["trigger", trigger, active] if name in found:
                    found[name]["triggers"][trigger] = active == "active"
                case _:
                    pass
        return found
