"""One reachable host: what it is, how root's rights are had there, what is recorded."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyinfra annotates hosts incompletely.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host

from mxc_ops.prep import receipts
from mxc_ops.prep.choices import PREFIX, Choices, choices_from
from mxc_ops.prep.decision import Query
from mxc_ops.prep.engine.connection import connect
from mxc_ops.prep.items import LINUX, WINDOWS, HostFacts, distribution_codename, distribution_family
from mxc_ops.prep.messages import Request
from mxc_ops.prep.operations.common import Access, access, answers
from mxc_ops.prep.receipts import Receipt
from mxc_ops.prep.undoing import trouble

__all__ = ["Session", "ask_all", "choices_for", "open_session", "read_receipts_again"]

_WINDOWS_HOSTS = "@mxcwin/"
_LINUX_SURVEY = (
    Query("system.OsRelease"),
    Query("system.Elevation"),
    Query("system.Machine"),
    Query("system.ServiceManager"),
    Query("system.RestartRequired"),
    Query("receipts.Receipts"),
)
_WINDOWS_SURVEY = (Query("windows.Host"), Query("windows.Receipts"))


@dataclass
class Session:
    """`unreadable`: what is wrong with a receipt, by item; `restart`: why the host must be restarted."""

    host: Host
    facts: HostFacts
    access: Access
    restart: str = ""
    unreadable: dict[str, str] = field(default_factory=dict[str, str])


def open_session(host: Host, request: Request) -> Session:
    """Connect, and read what everything else depends on. Raises as `connect`, and `HostFailure`."""
    connect(host)
    windows = host.name.startswith(_WINDOWS_HOSTS)
    session = _open_windows(host, request) if windows else _open_linux(host, request)
    access.set(session.access)
    return session


def _open_linux(host: Host, request: Request) -> Session:
    access.set(Access())
    release, elevation, machine, manager, restart, texts = answers(_LINUX_SURVEY)
    if elevation == "none" and request.sudo_password and _sudo_takes(host, request.sudo_password):
        elevation = "sudo-password"
    facts = HostFacts(
        host.name,
        release.get("PRETTY_NAME", ""),
        distribution_family(release),
        elevation,
        machine,
        manager,
        LINUX,
        distribution_codename(release),
    )
    known, unreadable = _decoded(texts)
    rights = Access(
        elevation=elevation, password=request.sudo_password, controller=request.controller, receipts=known
    )
    return Session(host, facts, rights, restart, unreadable)


def _sudo_takes(host: Host, password: str) -> bool:
    worked, _ = host.run_shell_command(StringCommand("sudo -S -k -p '' true"), _stdin=[password], _timeout=30)
    return bool(worked)


def _open_windows(host: Host, request: Request) -> Session:
    from mxc_ops.prep.shells.powershell import SHELL

    access.set(Access(shell=SHELL))
    found, texts = answers(_WINDOWS_SURVEY)
    elevation = "administrator" if found["administrator"] else "none"
    name = f"{found['caption']} build {found['build']}"
    facts = HostFacts(host.name, name, "", elevation, found["machine"], "none", WINDOWS)
    known, unreadable = _decoded(texts)
    rights = Access(SHELL, elevation, controller=request.controller, receipts=known)
    restart = "asked for by " + ", ".join(found["restartPending"]) if found["restartPending"] else ""
    return Session(host, facts, rights, restart, unreadable)


def read_receipts_again(session: Session) -> None:
    """To be done once the host is held: until then, another preparation may have changed them.

    Raises `HostFailure` when the host does not tell.
    """
    kind = "windows.Receipts" if session.facts.system == WINDOWS else "receipts.Receipts"
    (texts,) = answers([Query(kind)])
    known, session.unreadable = _decoded(texts)
    session.access.receipts.clear()
    session.access.receipts.update(known)


def _decoded(texts: dict[str, str]) -> tuple[dict[str, Receipt], dict[str, str]]:
    known: dict[str, Receipt] = {}
    unreadable: dict[str, str] = {}
    for item, text in texts.items():
        try:
            receipt = receipts.decode(text)
        except receipts.Unreadable as error:
            unreadable[item] = str(error)
            continue
        wrong = trouble(item, receipt)
        if wrong:
            unreadable[item] = wrong
        else:
            known[item] = receipt
    return known, unreadable


def choices_for(host: Host, request: Request, default: Sequence[str]) -> Choices:
    """What is wanted on a host: the command line first, then the inventory's data, then the default.

    Raises `PrepFailed` for data that cannot be meant.
    """
    data: dict[str, Any] = host.data.dict()
    given = {name.removeprefix(PREFIX): value for name, value in data.items() if name.startswith(PREFIX)}
    told = choices_from({name: value for name, value in given.items() if value is not None})
    return Choices(
        tuple(request.backends) or told.backends or tuple(default),
        tuple(request.features) or told.features,
        request.launcher or told.launcher,
        told.images,
        told.bridges,
        told.users,
    )


def ask_all(questions: Sequence[tuple[str, Sequence[Query]]]) -> dict[str, list[Any]]:
    """Answers to the queries of many items, by item; each query is put once, all in one command."""
    numbers: dict[str, int] = {}
    distinct: list[Query] = []
    asked: list[tuple[str, list[int]]] = []
    for item, queries in questions:
        places: list[int] = []
        for query in queries:
            place = numbers.setdefault(f"{query.fact} {query.arguments}", len(distinct))
            if place == len(distinct):
                distinct.append(query)
            places.append(place)
        asked.append((item, places))
    told = answers(distinct)
    return {item: [told[place] for place in places] for item, places in asked}
