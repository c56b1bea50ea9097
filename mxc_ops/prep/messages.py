"""What the prep worker and its parent say to each other: one JSON object a line, both ways.

The parent sends one `Request`; the worker answers with `Message` objects, the last of the plan being ASK; the
parent then names the hosts to be changed in one `Answer`; the worker ends with FINISHED.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from mxc_ops.prep.items import Helper


class Event(Enum):
    """What a message tells. The keys of `Message.data` stand beside each."""

    HOST = "host"  # distribution, elevation
    UNREACHABLE = "unreachable"  # message
    UNSUPPORTED = "unsupported"  # message, fix
    PLANNED = "planned"  # item, kind, why, before, after, changes, message, fix
    ASK = "ask"
    STARTED = "started"  # item
    CHANGED = "changed"  # item
    FAILED = "failed"  # item, message, fix
    CHECKED = "checked"  # item, settled, before
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


@dataclass(frozen=True)
class Request:
    """Which hosts (pyinfra names, ``@local`` is this one) to prepare for which backends.

    `helpers`: by name, what must be compiled there.
    """

    hosts: Sequence[str]
    backends: Sequence[str]
    helpers: Mapping[str, Helper]

    def encode(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def decode(line: str) -> Request:
        data: dict[str, Any] = json.loads(line)
        helpers = {
            name: Helper(helper["path"], tuple(helper["build"])) for name, helper in data["helpers"].items()
        }
        return Request(data["hosts"], data["backends"], helpers)


@dataclass(frozen=True)
class Answer:
    """The hosts to be changed; none: only the plan was wanted."""

    apply: Sequence[str]

    def encode(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def decode(line: str) -> Answer:
        return Answer(json.loads(line)["apply"]) if line else Answer(())
