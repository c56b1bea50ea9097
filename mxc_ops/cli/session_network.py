"""`mxc-ops session network` and `events`: what a kept sandbox reaches, and what was decided about it."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from mxc_ops.cli.output import complete, print_document, print_table
from mxc_ops.cli.text import printable

__all__ = ["configure"]


def configure(commands: Any) -> None:
    network = commands.add_parser(
        "network", help="what a sandbox reaches: shown, closed, or opened up to a ceiling"
    )
    network.usage = "mxc-ops session network ID [--allow SPEC] [--deny SPEC] [--revoke SPEC] …"
    network.add_argument("id", metavar="ID", help="an id, its beginning, or a name")
    for flag, what in (
        (
            "--allow",
            "a destination to open, within mxcOps.network.ceiling: HOST-OR-CIDR[:PORT[-PORT]][/PROTOCOL]",
        ),
        ("--deny", "a destination to close, whatever else allows it"),
        ("--revoke", "an allowed destination that is no longer to be, as it was written"),
    ):
        network.add_argument(flag, action="append", default=[], metavar="SPEC", help=what)
    complete(network, _network)
    _configure_events(commands.add_parser("events", help="what the network of a sandbox decided"))


def _configure_events(events: ArgumentParser) -> None:
    events.add_argument("id", metavar="ID", help="an id, its beginning, or a name")
    events.add_argument("--denied", action="store_true", help="only what was denied")
    complete(events, _events)


def _network(options: Namespace) -> int:
    from mxc_ops.session.session import Session

    session = Session.attach(options.id)
    if options.allow or options.deny or options.revoke:
        session.change_network(allow=options.allow, deny=options.deny, revoke=options.revoke)
    document = session.document
    shown = {"network": document.get("network", {}), **_ours(document)}
    if options.json:
        print_document({"id": session.id, **shown})
    else:
        print(json.dumps(shown, indent=2, ensure_ascii=True))
    return 0


def _ours(document: Mapping[str, Any]) -> dict[str, Any]:
    extension: Mapping[str, Any] = document.get("mxcOps", {})
    told = {name: extension[name] for name in ("network", "portMappings") if name in extension}
    return {"mxcOps": told} if told else {}


def _events(options: Namespace) -> int:
    from mxc_ops.session.session import Session

    events = Session.attach(options.id).events()
    if options.denied:
        events = [event for event in events if event.get("verdict") == "denied"]
    if options.json:
        for event in events:
            print(json.dumps(event, ensure_ascii=True))
        return 0
    told = ("ts", "source", "verdict", "protocol", "name", "address", "port", "rule", "reason")
    rows = [tuple(printable(str(event.get(name, "-"))) for name in told) for event in events]
    print_table(("time", "by", "verdict", "protocol", "name", "address", "port", "rule", "why"), rows)
    return 0
