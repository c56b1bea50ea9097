"""`mxc-ops session port`: ports of the host's loopback that lead into a sandbox."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from backends.errors import Problem, UsageError
from mxc_ops.cli.output import complete, print_document, print_table

__all__ = ["configure"]

_HIGHEST = 65535


def configure(commands: Any) -> None:
    port = commands.add_parser("port", help="let ports of this host lead into a sandbox, or list them")
    port.usage = "mxc-ops session port ID [HOST_PORT:PORT | --close HOST_PORT]"
    port.add_argument("id", metavar="ID", help="an id, its beginning, or a name")
    port.add_argument("ports", nargs="?", metavar="HOST_PORT:PORT", help="from 127.0.0.1; 0: any port")
    port.add_argument("--close", type=int, metavar="HOST_PORT", help="close it, and cut its connections")
    complete(port, _port)


def _port(options: Namespace) -> int:
    from mxc_ops.session.session import Session

    if options.ports is not None and options.close is not None:
        raise UsageError(Problem("usage", "--close", "a port is opened or closed, not both"))
    asked = None if options.ports is None else _asked(options.ports)
    session = Session.attach(options.id)
    if asked is not None:
        host, inside = asked
        opened = session.port(inside, host)
        if options.json:
            print_document({"host": opened, "inside": inside})
        else:
            print(f"127.0.0.1:{opened}")
    elif options.close is not None:
        session.close_port(options.close)
    else:
        _list(session.ports(), as_json=options.json)
    return 0


def _asked(text: str) -> tuple[int, int]:
    words = text.split(":")
    if len(words) != 2 or not all(word.isascii() and word.isdecimal() for word in words):
        message, expected = f"{text!a} is no pair of ports", "HOST_PORT:PORT, such as 8080:80"
        raise UsageError(Problem("usage", "HOST_PORT:PORT", message, expected=expected))
    host, inside = map(int, words)
    if host > _HIGHEST or not 1 <= inside <= _HIGHEST:
        raise UsageError(Problem("usage", "HOST_PORT:PORT", f"ports go up to {_HIGHEST}, and begin with 1"))
    return host, inside


def _list(ports: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_document({"ports": ports})
        return
    told = ("inside", "connections", "lastFailure")
    rows = [(f"127.0.0.1:{port['host']}", *(str(port[name] or "-") for name in told)) for port in ports]
    print_table(("host", "inside", "connections", "last failure"), rows)
