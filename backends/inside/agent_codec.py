"""The agent's messages as bytes, and back (pure). What they mean: `backends.inside.agent_protocol`."""

from __future__ import annotations

import os
import struct

from backends.inside.agent_protocol import (
    MAGIC,
    MAX_MESSAGE,
    MAX_PAYLOAD,
    VERSION,
    EndedFlag,
    Flag,
    Frame,
    GuestCommand,
    GuestContainer,
    GuestDone,
    GuestEnded,
    GuestFailed,
    GuestFiles,
    GuestHide,
    GuestIdentity,
    GuestMount,
    GuestNetwork,
    GuestReport,
    Kind,
    Step,
    Tag,
    Welcome,
)
from backends.network.environment import is_proxy_variable

HEADER = struct.Struct("<IHHI")
_RECORD = struct.Struct("<II")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_HELLO = struct.Struct("<II")
_WELCOME = struct.Struct("<IIQI")
_NETWORK = struct.Struct("<II")
_IDENTITY = struct.Struct("<Q64s32s6s")
_USER = struct.Struct("<II")
_RLIMIT = struct.Struct("<IQQ")
_TIMEOUT = struct.Struct("<III")
_AT_MOST = struct.Struct("<QI")
_SIZE = struct.Struct("<HH")
_ENDED = struct.Struct("<iIQQQ")
_FAILED = struct.Struct("<Ii")
_DONE = struct.Struct("<QQ")
_REPORTED = struct.Struct("<QQQQII")
_STATUS_MOST = 0xFFFF


def encode_frame(frame: Frame) -> bytes:
    """Raises ValueError for a payload over 64 KiB."""
    if len(frame.payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame holds at most {MAX_PAYLOAD} bytes, not {len(frame.payload)}")
    return HEADER.pack(len(frame.payload), frame.kind, frame.flags, frame.stream) + frame.payload


def encode_message(kind: Kind, stream: int, message: bytes) -> bytes:
    """One message in as many frames as it takes. Raises ValueError over 8 MiB."""
    if len(message) > MAX_MESSAGE:
        raise ValueError(f"the request takes {len(message)} bytes; at most {MAX_MESSAGE} can be handed over")
    parts = [message[start : start + MAX_PAYLOAD] for start in range(0, len(message), MAX_PAYLOAD)] or [b""]
    frames = [Frame(kind, stream, part, Flag.MORE) for part in parts[:-1]] + [Frame(kind, stream, parts[-1])]
    return b"".join(map(encode_frame, frames))


def hello() -> bytes:
    return _HELLO.pack(MAGIC, VERSION)


def read_hello(payload: bytes) -> None:
    """Raises ValueError for another program's or another version's greeting."""
    magic, version = _fixed(_HELLO, payload)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"the host speaks version {version} of protocol {magic:#x}, not {VERSION}")


def welcome(greeting: Welcome) -> bytes:
    return _WELCOME.pack(MAGIC, VERSION, greeting.boot_us, greeting.has_zygote)


def failed(failure: GuestFailed) -> bytes:
    return _FAILED.pack(failure.step, failure.errno) + failure.subject.encode("utf-8", "surrogateescape")


def identity(new: GuestIdentity) -> bytes:
    fixed = _IDENTITY.pack(new.realtime_ns, new.random, new.machine_id.encode(), new.mac)
    return fixed + new.hostname.encode()


def network(card: GuestNetwork) -> bytes:
    """Raises ValueError for a text with NUL."""
    none = ("", 0, "")
    (address, prefix, gateway), (address6, prefix6, gateway6) = card.ipv4 or none, card.ipv6 or none
    words = (address, gateway, address6, gateway6, card.resolv_conf.rstrip("\n"))
    if any("\0" in word for word in words):
        raise ValueError("a text for the agent holds a NUL character")
    return _NETWORK.pack(prefix, prefix6) + b"".join(word.encode() + b"\0" for word in words)


def command(spec: GuestCommand) -> bytes:
    """Raises ValueError for a string with NUL."""
    records = [_text(Tag.ARG, word) for word in spec.args]
    records += [_text(Tag.ENV, f"{name}={value}") for name, value in spec.env]
    records += [_text(Tag.CWD, spec.cwd), _record(Tag.UMASK, _U32.pack(spec.umask))]
    if spec.tty is not None:
        records.append(_record(Tag.TTY, _SIZE.pack(*spec.tty)))
    if spec.no_input:
        records.append(_record(Tag.NO_INPUT, b""))
    if spec.timeout is not None:
        records.append(_record(Tag.TIMEOUT, _TIMEOUT.pack(*spec.timeout)))
    if spec.port is not None:
        records.append(_record(Tag.PORT, _U32.pack(spec.port)))
    if spec.zygote is not None:
        records.append(_text(Tag.ZYGOTE, spec.zygote))
    return b"".join([*records, *_restrictions(spec)])


def impose(message: bytes, imposed: GuestCommand) -> bytes:
    """A command's message under somebody else's restrictions.

    Whom it runs as, its limits, its control group and its filter are those of `imposed`, and, where that has
    variables, which tell of a proxy, what it is told of that; the rest is kept. Without a working directory
    of its own (an empty one) it has that of `imposed`.

    Raises ValueError for a message that is none.
    """
    kept: list[bytes] = []
    offset = 0
    while offset < len(message):
        if len(message) - offset < _RECORD.size:
            raise ValueError("a record is cut short")
        tag, length = _RECORD.unpack_from(message, offset)
        end = offset + _RECORD.size + length
        if end > len(message):
            raise ValueError("a record is cut short")
        record = message[offset:end]
        if tag == Tag.CWD and record[_RECORD.size :] == b"\0":
            record = _text(Tag.CWD, imposed.cwd)
        if tag not in _IMPOSED and not (imposed.env and _is_of_proxy(tag, record)):
            kept.append(record)
        offset = end
    beside = imposed.beside and _missing(imposed.beside, kept)
    kept += [_text(Tag.ENV, f"{name}={value}") for name, value in (*beside, *imposed.env)]
    return b"".join(kept) + b"".join(_restrictions(imposed))


def _missing(beside: tuple[tuple[str, str], ...], records: list[bytes]) -> tuple[tuple[str, str], ...]:
    """Those variables that no record is of."""
    tag = Tag.ENV.to_bytes(4, "little")
    names = {each[_RECORD.size :].partition(b"=")[0] for each in records if each.startswith(tag)}
    return tuple(entry for entry in beside if entry[0].encode("utf-8", "surrogateescape") not in names)


def _is_of_proxy(tag: int, record: bytes) -> bool:
    """Whether it is a variable that would tell of another proxy, or of a way around it."""
    return tag == Tag.ENV and is_proxy_variable(record[_RECORD.size :].partition(b"=")[0].decode("latin-1"))


_IMPOSED = (Tag.USER, Tag.RLIMIT, Tag.SECCOMP, Tag.CGROUP, Tag.PRIVILEGED)


def _restrictions(spec: GuestCommand) -> list[bytes]:
    records = [_record(Tag.USER, _USER.pack(*spec.user))]
    records += [_record(Tag.RLIMIT, _RLIMIT.pack(*limit)) for limit in spec.rlimits]
    if spec.seccomp:
        records.append(_record(Tag.SECCOMP, spec.seccomp))
    records += [_text(Tag.CGROUP, f"{file}={content}") for file, content in spec.cgroup]
    if spec.privileged:
        records.append(_record(Tag.PRIVILEGED, b""))
    return records


def mount(spec: GuestMount) -> bytes:
    records = [_text(Tag.PATH, spec.target), _record(Tag.MOUNT_FLAGS, _U32.pack(spec.flags))]
    if spec.source:
        records.append(_text(Tag.SOURCE, spec.source))
    if spec.file_system:
        records.append(_text(Tag.FILE_SYSTEM, spec.file_system))
    if spec.size_bytes:
        records.append(_record(Tag.SIZE, _U64.pack(spec.size_bytes)))
    return b"".join(records)


def hide(spec: GuestHide) -> bytes:
    return b"".join(_text(Tag.HIDDEN, name) for name in spec.names)


def container(spec: GuestContainer) -> bytes:
    """Raises ValueError for a string with NUL."""
    records = [
        _text(Tag.SOURCE, spec.root),
        _text(Tag.FILE_SYSTEM, spec.file_system),
        _record(Tag.MOUNT_FLAGS, _U32.pack(spec.flags)),
        _text(Tag.HOSTNAME, spec.hostname),
    ]
    if spec.upper:
        records.append(_text(Tag.UPPER, spec.upper))
    if spec.size_bytes:
        records.append(_record(Tag.SIZE, _U64.pack(spec.size_bytes)))
    if spec.own_network:
        records.append(_record(Tag.OWN_NETWORK, b""))
    records += [_text(Tag.CGROUP, f"{file}={content}") for file, content in spec.cgroup]
    return b"".join(records)


def files(spec: GuestFiles) -> bytes:
    at_most = _AT_MOST.pack(spec.at_most_bytes, spec.at_most_entries)
    records = [_text(Tag.PATH, spec.path), _record(Tag.AT_MOST, at_most)]
    if spec.owner is not None:
        records.append(_record(Tag.OWNER, _USER.pack(*spec.owner)))
    if spec.replace:
        records.append(_record(Tag.REPLACE, b""))
    return b"".join(records)


def resize(rows: int, columns: int) -> bytes:
    return _SIZE.pack(rows, columns)


def number(value: int) -> bytes:
    """Payload of CREDIT, INPUT_CREDIT (bytes), SIGNAL (its number) and STARTED (the process id)."""
    return _U32.pack(value)


def read_number(payload: bytes) -> int:
    return int(_fixed(_U32, payload)[0])


def read_welcome(payload: bytes) -> Welcome:
    """Raises ValueError for another program's or another version's greeting."""
    magic, version, boot_us, zygote = _fixed(_WELCOME, payload)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"the guest speaks version {version} of protocol {magic:#x}, not {VERSION}")
    return Welcome(boot_us, zygote != 0)


def read_ended(payload: bytes) -> GuestEnded:
    """Raises ValueError for a status that no process that is gone has."""
    status, flags, user_us, system_us, max_rss_kib = _fixed(_ENDED, payload)
    if not 0 <= status <= _STATUS_MOST or not (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
        raise ValueError(f"{status:#x} is no end of a program")
    return GuestEnded(status, EndedFlag(flags & 7), user_us, system_us, max_rss_kib)


def read_failed(payload: bytes) -> GuestFailed:
    if len(payload) < _FAILED.size:
        raise ValueError("a failure is cut short")
    step, errno = _FAILED.unpack_from(payload)
    return GuestFailed(Step(step), errno, payload[_FAILED.size :].decode("utf-8", "surrogateescape"))


def read_done(payload: bytes) -> GuestDone:
    return GuestDone(*_fixed(_DONE, payload))


def read_report(payload: bytes) -> GuestReport:
    return GuestReport(*_fixed(_REPORTED, payload))


def _fixed(shape: struct.Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) != shape.size:
        raise ValueError(f"{shape.size} bytes were expected, {len(payload)} came")
    return shape.unpack(payload)


def _record(tag: Tag, payload: bytes) -> bytes:
    return _RECORD.pack(tag, len(payload)) + payload


def _text(tag: Tag, text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if b"\0" in raw:
        raise ValueError("a string for the agent holds a NUL character")
    return _record(tag, raw + b"\0")
