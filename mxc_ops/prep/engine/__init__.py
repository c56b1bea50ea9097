"""Inside the prep worker: connect, read facts, decide, apply what was approved, decide again.

pyinfra in API mode. Hosts are worked on independently, one greenlet each: a slow or failing one holds up
nobody. The plan comes from our own rules, so operations are called only for what changes, under our own item
ids; pyinfra's are positions.
"""

from __future__ import annotations

import os
from typing import Any

import gevent
from gevent.event import AsyncResult
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
    answer: AsyncResult[Answer] = AsyncResult()
    gevent.spawn(_listen, requests, answer)

    def ask() -> Answer:
        given = answer.get()
        assert given is not None, "it waits without end"
        return given

    teller = Teller(events, (request.sudo_password, request.ssh_password))
    Work(request, teller).run(ask)
    return 0


def _listen(requests: Any, answer: AsyncResult[Answer]) -> None:
    """Hand the answer on; then, or without one, the end of the input means that whoever asked is gone.

    What runs on a host goes on there until its own deadline; no wait of ours for it serves anybody.
    """
    line = requests.readline()
    if line:
        answer.set(Answer.decode(line))
        requests.read()
    os._exit(1)
