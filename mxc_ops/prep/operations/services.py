"""Services."""

from __future__ import annotations

from collections.abc import Sequence

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def running(
    service: str, manager: str, otherwise: Sequence[str] = (), daemonize: str = "", item: str = ""
) -> Commands:
    """Have a service running, and started with the host.

    Parameters
    ----------
    manager: systemd, openrc or none: who starts services here.
    otherwise: services that do instead, where one of them is in use already.
    daemonize: the program's option to go to the background, where there is no service manager.
    """
    arguments = {"service": service, "manager": manager, "otherwise": list(otherwise), "daemonize": daemonize}
    yield from follow("services.running", item, **arguments)
