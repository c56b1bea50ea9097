"""What the prep worker and its parent say to each other: one JSON object a line, both ways.

The parent sends one `Request`; the worker answers with `Message` objects. The last of the plan is ASK: the
parent then names the hosts to be changed in one `Answer`. The worker ends with FINISHED.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Answer", "Event", "Message", "Request", "Task"]


class Event(Enum):
    """What a message tells. The keys of `Message.data` stand beside each."""

    HOSTS = "hosts"  # names: all that were chosen, in order
    HOST = "host"  # distribution, elevation
    UNREACHABLE = "unreachable"  # message, fix
    UNSUPPORTED = "unsupported"  # message, fix
    INVALID = "invalid"  # message, fix: the host cannot be planned for; for no host also usage: none can
    PLANNED = "planned"  # items: [{item, kind, why, before, after, changes, message, fix, notice, files}]
    DUE = "due"  # items, as of planned: those that a change has made due
    ASK = "ask"
    HELD = "held"  # message: who holds the host
    STARTED = "started"  # item
    CHANGED = "changed"  # item, changed: False when another preparation had done it meanwhile
    FAILED = "failed"  # item, message, fix
    CHECKED = "checked"  # item, settled, before
    RESTART = "restart"  # message
    STOPPED = "stopped"  # message: not begun or not finished, as too many hosts failed
    PROBED = "probed"  # probes
    LOG = "log"  # text: what a command printed
    FINISHED = "finished"


@dataclass(frozen=True)
class Message:
    """One event, about one host (or about all: "")."""

    event: Event
    host: str = ""
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def encode(self) -> str:
        return json.dumps({"event": self.event.value, "host": self.host, **self.data}) + "\n"

    @staticmethod
    def decode(line: str) -> Message:
        data: dict[str, Any] = json.loads(line)
        return Message(Event(data.pop("event")), data.pop("host"), data)


class Task(Enum):
    PREPARE = "prepare"
    VERIFY = "verify"
    UNDO = "undo"
    EXAMINE = "examine"


@dataclass(frozen=True)
class Request:
    """What is to be done, and where.

    Parameters
    ----------
    inventory: a pyinfra inventory file; "" means the hosts named.
    hosts: pyinfra names, ``@local`` is this one.
    limit, exclude: names of groups or hosts; a pattern such as ``web-*`` matches host names.
    parallel: hosts at once; 0: as many as pyinfra thinks right.
    fail_percent: no further host is begun, and no further item, once more than so many percent have failed.
    wait_s: seconds to wait for another preparation that holds a host.
    backends, features, launcher: see `items.Choices`; no backends: what the inventory says for each host.
    items: for PREPARE and UNDO, only these; none: all that is needed, or recorded. For PREPARE a pattern such
        as ``lxc.package.*`` will do.
    insist: UNDO also where a host has drifted.
    sudo_password, ssh_password: never stored, shown or logged.
    controller: who asks, for receipts: ``user@host``.
    """

    task: Task = Task.PREPARE
    inventory: str = ""
    hosts: Sequence[str] = ("@local",)
    limit: Sequence[str] = ()
    exclude: Sequence[str] = ()
    parallel: int = 0
    fail_percent: int = 100
    wait_s: int = 0
    backends: Sequence[str] = ()
    features: Sequence[str] = ()
    launcher: str = ""
    items: Sequence[str] = ()
    insist: bool = False
    sudo_password: str = field(default="", repr=False)
    ssh_password: str = field(default="", repr=False)
    controller: str = ""

    def encode(self) -> str:
        return json.dumps({**asdict(self), "task": self.task.value}) + "\n"

    @staticmethod
    def decode(line: str) -> Request:
        data: dict[str, Any] = json.loads(line)
        task = Task(data.pop("task"))
        return Request(task, **data)


@dataclass(frozen=True)
class Answer:
    """The hosts to be changed; none: only the plan was wanted."""

    apply: Sequence[str]

    def encode(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def decode(line: str) -> Answer:
        return Answer(json.loads(line)["apply"])
