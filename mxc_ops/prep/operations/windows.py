"""Windows hosts, ``@mxcwin/NAME``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pyinfra.api.exceptions import OperationError

from mxc_ops.prep.decision import Query
from mxc_ops.prep.operations.common import Access, Commands, access, answers, follow, operation
from mxc_ops.prep.receipts import WINDOWS_DIRECTORY, Receipt, Unreadable, decode
from mxc_ops.prep.shells.powershell import SHELL

_PLAIN = Access(SHELL, controller="pyinfra")


def _follow(name: str, item: str, **arguments: Any) -> Iterator[Any]:
    """As `follow`; under plain pyinfra, too, in PowerShell."""
    if access.get() is not None:
        yield from follow(name, item, **arguments)
        return
    before = access.set(_PLAIN)
    try:
        if item:
            access.set(replace(_PLAIN, receipts=_recorded(item)))
        commands = list(follow(name, item, **arguments))
    finally:
        access.reset(before)
    yield from commands


def _recorded(item: str) -> dict[str, Receipt]:
    """What is recorded of an item on the host. Raises `OperationError` when that cannot be understood."""
    (texts,) = answers((Query("windows.Receipts"),))
    try:
        return {item: decode(texts[item])} if item in texts else {}
    except Unreadable as error:
        path = f"{WINDOWS_DIRECTORY}\\{item}.json"
        raise OperationError(f"{path} cannot be understood: {error}; look at it, then: rm {path}") from error


@operation
def edition(
    build: str, editions: Sequence[str] = (), machines: Sequence[str] = (), item: str = ""
) -> Commands:
    """Refuse a host whose Windows is older than a build, of another edition or for another machine.

    Parameters
    ----------
    editions: beginnings of Windows' own names, such as ``Professional``; none: any.
    machines: as ``uname -m``; none: any.
    """
    yield from _follow("windows.edition", item, build=build, editions=list(editions), machines=list(machines))


@operation
def feature(feature: str, item: str = "") -> Commands:
    """Have an optional feature of Windows enabled, at the latest after the next restart."""
    yield from _follow("windows.feature", item, feature=feature)


@operation
def hypervisor(feature: str, item: str = "") -> Commands:
    """Refuse a host on which no hypervisor runs, unless the optional feature brings one at the next start."""
    yield from _follow("windows.hypervisor", item, feature=feature)


@operation
def wsl(version: str, item: str = "") -> Commands:
    """Have the Windows Subsystem for Linux, at least of a version."""
    yield from _follow("windows.wsl", item, version=version)


@operation
def drive_entries(sids: Sequence[str], mask: str, item: str = "") -> Commands:
    """Have an entry of exactly these rights (in hexadecimal) for each trustee on the system drive's root."""
    yield from _follow("windows.drive_entries", item, sids=list(sids), mask=mask)


@operation
def null_device(sddl: str, item: str = "") -> Commands:
    """Have a security descriptor on the null device, until the next start."""
    yield from _follow("windows.null_device", item, sddl=sddl)


@operation
def boot_task(task: str, script: str, sddl: str, item: str = "") -> Commands:
    """Have a script of ours run at every start: ``null-device`` sets that device's descriptor."""
    yield from _follow("windows.boot_task", item, task=task, script=script, sddl=sddl)


@operation
def executor(path: str, package: str, integrity: str, item: str = "") -> Commands:
    """Have MXC's own executor in a directory, from its npm package, whose sum is checked."""
    yield from _follow("windows.executor", item, path=path, package=package, integrity=integrity)
