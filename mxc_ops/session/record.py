"""What is kept of one sandbox: frozen data inside, one closed JSON document outside (pure).

A record that a newer version of us wrote, or that is not what we write, is read as just that: `Unreadable`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NoReturn

from backends.frozen import field_names, frozen
from mxc_ops.session.ids import PREFIXES, check_name, is_id, new_id

__all__ = [
    "MAX_RECORD_BYTES",
    "SCHEMA_VERSION",
    "Lease",
    "Record",
    "State",
    "Unreadable",
    "as_text",
    "expired",
    "moment",
    "new_record",
    "read_record",
    "seconds",
]

SCHEMA_VERSION = 1
MAX_RECORD_BYTES = 16 << 20
"""A document has at most 1 MiB, and six bytes for each of its own where all of it must be escaped."""
_LARGEST = 2**63
_MAX_TEXT = 4096


class State(Enum):
    """What the last transition left, or is about to reach."""

    PROVISIONED = "provisioned"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@frozen
class Lease:
    """How long a sandbox may be there: `idle_s` seconds after it was last used, `absolute_s` seconds after it
    was made. 0 is no limit."""

    idle_s: int = 0
    absolute_s: int = 0


@frozen
class Record:
    """One sandbox.

    `created` and `last_used` are RFC 3339 in UTC with milliseconds; `Entry.last_used` knows of later uses.
    `document` is the canonical document that a start reads, with secrets by their source; `boot_id` the
    host's boot in which the state was written; `supervisor_pid` and `supervisor_start` (clock ticks since
    boot) tell people whom to look at: whether it lives, only its lock says. `origin` is the id that it was
    forked from. `run_folder` is where its sockets are, once it was started. `backend_data` belongs to the
    backend.
    """

    id: str
    containment: str
    state: State
    created: str
    last_used: str
    boot_id: str
    document_hash: str
    document: Mapping[str, Any]
    backend_data: Mapping[str, Any]
    name: str = ""
    lease: Lease | None = None
    supervisor_pid: int = 0
    supervisor_start: int = 0
    starts: int = 0
    origin: str = ""
    run_folder: str = ""

    @property
    def tail(self) -> str:
        """The name of its folder."""
        return self.id.partition(":")[2]


@frozen
class Unreadable:
    """Something in the store that is not ours to interpret.

    `reason`: ``newer`` (a later version's record), ``corrupt``, or ``foreign`` (not owned by us, or open to
    others). `why` is the end of a sentence, `path` where it is.
    """

    tail: str
    path: str
    reason: str
    why: str


def new_record(
    containment: str,
    document: Mapping[str, Any],
    document_hash: str,
    *,
    name: str = "",
    lease: Lease | None = None,
    origin: str = "",
    backend_data: Mapping[str, Any] | None = None,
) -> Record:
    """The record of a sandbox that is about to be provisioned, with a fresh id; the store adds the boot.

    Raises `ConfigError` for a name that cannot be one.
    """
    if name:
        check_name(name)
    now = moment()
    return Record(
        id=new_id(containment),
        containment=containment,
        state=State.PROVISIONED,
        created=now,
        last_used=now,
        boot_id="",
        document_hash=document_hash,
        document=document,
        name=name,
        lease=lease,
        origin=origin,
        backend_data=backend_data or {},
    )


def moment(at_s: float | None = None) -> str:
    """RFC 3339, UTC, milliseconds; now unless `at_s`, seconds since the epoch, is given."""
    at = datetime.now(UTC) if at_s is None else datetime.fromtimestamp(at_s, UTC)
    return f"{at.isoformat(timespec='milliseconds')[:23]}Z"


def seconds(text: str) -> float:
    """Seconds since the epoch of a `moment`. Raises `ValueError` for any other spelling."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None or f"{at.isoformat(timespec='milliseconds')[:23]}Z" != text:
        raise ValueError("is not a time in UTC with milliseconds")
    return at.timestamp()


def expired(record: Record, last_used: str, at_s: float) -> str:
    """Which limit of its lease a sandbox is past: ``idle``, ``absolute``, or "" for none.

    Parameters
    ----------
    last_used: a `moment`, which may be later than the record's own.
    at_s: seconds since the epoch.
    """
    lease = record.lease or Lease()
    if lease.absolute_s and at_s - seconds(record.created) > lease.absolute_s:
        return "absolute"
    if lease.idle_s and at_s - seconds(last_used) > lease.idle_s:
        return "idle"
    return ""


def as_text(record: Record) -> bytes:
    """The record's document. Raises `ValueError` for one that `read_record` would not take."""
    body: dict[str, Any] = {"schemaVersion": SCHEMA_VERSION}
    for name, (attribute, _) in _FIELDS.items():
        value = getattr(record, attribute)
        if isinstance(value, State):
            value = value.value
        elif isinstance(value, Lease):
            value = {"idleSeconds": value.idle_s, "absoluteSeconds": value.absolute_s}
        elif isinstance(value, Mapping):
            value = dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        body[name] = value
    text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    taken = read_record(text, record.tail, "")
    if isinstance(taken, Unreadable):
        raise ValueError(f"a record that {taken.why}")
    return text


def read_record(text: bytes, tail: str, path: str) -> Record | Unreadable:
    """The record in `text`, found in the folder `tail` at `path`."""
    if len(text) > MAX_RECORD_BYTES:
        return Unreadable(tail, path, "corrupt", f"has more than {MAX_RECORD_BYTES >> 20} MiB")
    try:
        body = _mapping(json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_no_number))
        version = body.get("schemaVersion")
        if type(version) is not int or version < 1:
            return Unreadable(tail, path, "corrupt", "names no schemaVersion")
        if version > SCHEMA_VERSION:
            why = f"has schemaVersion {version}, and this mxc-ops knows {SCHEMA_VERSION}"
            return Unreadable(tail, path, "newer", why)
        record = _record(body)
    except KeyError as error:
        return Unreadable(tail, path, "corrupt", f"lacks {error.args[0]!a}")
    except (ValueError, RecursionError) as error:
        return Unreadable(tail, path, "corrupt", f"cannot be read: {ascii(str(error))[1:-1]}")
    if record.tail != tail:
        return Unreadable(tail, path, "corrupt", "belongs to another sandbox")
    return record


def _record(body: dict[str, Any]) -> Record:
    unknown = body.keys() - _FIELDS.keys() - {"schemaVersion"}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!a}")
    values: dict[str, Any] = {}
    for name, (attribute, check) in _FIELDS.items():
        try:
            values[attribute] = check(body[name])
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
    record = Record(*[values[name] for name in field_names(Record)])
    if PREFIXES[record.containment] != record.id.partition(":")[0]:
        raise ValueError("id is not one of this containment")
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or "\0" in value:
        raise ValueError("is no text of ours")
    return value


def _id(value: Any) -> str:
    if not is_id(_text(value)):
        raise ValueError("is no id")
    return value


def _origin(value: Any) -> str:
    return _id(value) if value != "" else ""


def _name(value: Any) -> str:
    if _text(value):
        from backends.errors import ConfigError

        try:
            check_name(value)
        except ConfigError as error:
            raise ValueError("is no name") from error
    return value


def _containment(value: Any) -> str:
    if _text(value) not in PREFIXES:
        raise ValueError(f"is {value!a}, which has no sessions")
    return value


def _time(value: Any) -> str:
    seconds(_text(value))
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ValueError("is no count")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("is no object")
    return value  # pyright: ignore[reportUnknownVariableType] - its keys are text: it was JSON


def _lease(value: Any) -> Lease | None:
    if value is None:
        return None
    limits = _mapping(value)
    if limits.keys() != {"idleSeconds", "absoluteSeconds"}:
        raise ValueError("has not exactly idleSeconds and absoluteSeconds")
    return Lease(_count(limits["idleSeconds"]), _count(limits["absoluteSeconds"]))


def _path(value: Any) -> str:
    if _text(value) and not value.startswith("/"):
        raise ValueError("is no absolute path")
    return value


_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "id": ("id", _id),
    "name": ("name", _name),
    "containment": ("containment", _containment),
    "state": ("state", State),
    "created": ("created", _time),
    "lastUsed": ("last_used", _time),
    "bootId": ("boot_id", _text),
    "documentHash": ("document_hash", _text),
    "document": ("document", _mapping),
    "lease": ("lease", _lease),
    "supervisorPid": ("supervisor_pid", _count),
    "supervisorStart": ("supervisor_start", _count),
    "starts": ("starts", _count),
    "origin": ("origin", _origin),
    "runFolder": ("run_folder", _path),
    "backendData": ("backend_data", _mapping),
}
