"""Which hosts: a pyinfra inventory file or names, narrowed by ``--limit`` and ``--exclude``."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyinfra annotates inventories incompletely.

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pyinfra.api import connectors as pyinfra_connectors
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_state

from mxc_ops.prep.messages import Request

__all__ = ["InventoryUnusable", "choose", "load"]

# An inventory may say otherwise. pyinfra's own default trusts whoever answers first, and loses connections to
# an sshd that is asked for many at once (sshd_config(5), MaxStartups).
DEFAULTS: dict[str, Any] = {"ssh_strict_host_key_checking": "yes", "ssh_connect_retries": 5}


# pyinfra looks through all installed packages for its connectors, twice for each host of an inventory.
pyinfra_connectors.__dict__["entry_points"] = cache(entry_points)


class InventoryUnusable(Exception):
    """The inventory cannot be read, or nothing is left of it; the message says which.

    `usage`: the command line names what is not there.
    """

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


def load(request: Request) -> Inventory:
    """The inventory of a request. Raises `InventoryUnusable`."""
    secret = {"ssh_password": request.ssh_password} if request.ssh_password else {}
    if not request.inventory:
        inventory = Inventory((list(request.hosts), dict[str, Any]()), override_data=secret)
    else:
        inventory = _from_file(request.inventory, secret)
    inventory.data = {**DEFAULTS, **inventory.data}
    return inventory


def _from_file(name: str, override: dict[str, Any]) -> Inventory:
    from pyinfra_cli.inventory import make_inventory_from_files  # pyright: ignore[reportMissingTypeStubs]

    if not Path(name).is_file():
        raise InventoryUnusable(f"{name} is not a file", usage=True)
    try:
        with ctx_state.use(State()):  # pyinfra notes there which file it executes
            inventory: Inventory = make_inventory_from_files(name, override)
    except (Exception, SystemExit) as error:
        # The file is a program of the user's: anything can go wrong in it.
        cause = getattr(error, "exception", None) or error.__cause__ or error
        raise InventoryUnusable(f"{name}: {type(cause).__name__}: {cause}") from error
    if not len(inventory):
        raise InventoryUnusable(f"{name} names no hosts")
    return inventory


def choose(inventory: Inventory, limit: Sequence[str], exclude: Sequence[str]) -> list[Host]:
    """The hosts of the limits (all without one) that are not excluded, in the inventory's order.

    Raises `InventoryUnusable` for a name that is neither a group nor matches a host, or when none are left.
    """
    hosts = list(inventory)
    for name in [*limit, *exclude]:
        if not any(_matches(host, name) for host in hosts):
            groups = ", ".join(sorted(str(group) for group in inventory.groups))
            unknown = f"no host or group is called {name!r}; groups: {groups or 'none'}"
            raise InventoryUnusable(unknown, usage=True)
    chosen = [
        host
        for host in hosts
        if (not limit or any(_matches(host, name) for name in limit))
        and not any(_matches(host, name) for name in exclude)
    ]
    if not chosen:
        raise InventoryUnusable("no host is left", usage=True)
    return chosen


def _matches(host: Host, name: str) -> bool:
    return name in host.groups or fnmatchcase(host.name, name)
