"""Inside the prep worker: connect, read facts, decide, apply what was approved, decide again.

pyinfra in API mode. Hosts are worked on independently, one greenlet each: a slow or failing one holds up
nobody. The plan comes from our own rules, so operations are called only for what changes, under our own item
ids; pyinfra's are positions.
"""

from __future__ import annotations

import os
from typing import Any

from gevent.fileobject import FileObject

from mxc_ops.prep.engine.hostkeys import ask_nobody
from mxc_ops.prep.engine.tell import Teller
from mxc_ops.prep.engine.work import Work
from mxc_ops.prep.messages import Answer, Request

__all__ = ["serve"]


def serve() -> int:
    """Do what one request on standard input asks for; events go to standard output."""
    # Connections are kept alive while the answer is waited for.
    requests: Any = FileObject(os.dup(0), "r")
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints must not mix with the events
    with open(os.devnull) as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)  # and whatever asks must not take the answer for its own
    ask_nobody()
    request = Request.decode(requests.readline())
    teller = Teller(events, (request.sudo_password, request.ssh_password))
    Work(request, teller).run(lambda: Answer.decode(requests.readline()))
    return 0
