"""What a gate is asked to do, one step after another, as data and as messages: the other side of ``gate.h``.

A gate is a process of ours (``launcher gate``) beside one sandbox: it makes the network namespace in which
that lives, owns it, and does in it what only its owner may. Nothing of the sandbox runs in it. It lives for
as long as the other end of its control socket is open. Pure.
"""

from __future__ import annotations

import struct
from _socket import SOCK_STREAM
from collections.abc import Iterator, Sequence

from backends.frozen import frozen
from backends.inside.protocol import ContainerIds

__all__ = [
    "ANSWER_BYTES",
    "Address",
    "Answer",
    "Ask",
    "Await",
    "Enter",
    "Helper",
    "Link",
    "Listen",
    "Log",
    "Logged",
    "Pair",
    "Route",
    "Run",
    "Serve",
    "Setting",
    "Step",
    "Tap",
    "Watch",
    "decode_answer",
    "encode_step",
    "logged",
]

_ASKED = struct.Struct("<IIII")
_ANSWER = struct.Struct("<IiI")
_IDS = struct.Struct("<IIII")
_LOGGED = struct.Struct("<QI")
ANSWER_BYTES = _ANSWER.size

_USERS, _MAPPERS, _HELPS = 1, 2, 4
_ON_HOST, _ISOLATED = 1, 2
_LOCAL = 1
_IPV4, _IPV6 = 1, 2


@frozen
class Enter:
    """The first step: the namespaces. `ids`: those of a user namespace that is made around the network;
    `mappers` (newuidmap, newgidmap) write them where they are not the caller's own alone. `helps`: a `Helper`
    comes. With it come a pidfd of whom the gate serves, and what it is to keep open."""

    parent_pid: int
    ids: tuple[ContainerIds, ...] = ()
    mappers: tuple[str, ...] = ()
    helps: bool = False


@frozen
class Pair:
    """A veth pair, `outside` on the host."""

    inside: str
    outside: str


@frozen
class Link:
    """A link comes up, attached to a bridge. `isolated`: others that are, too, are out of its reach there."""

    name: str
    attached_to: str = ""
    mtu: int = 0
    on_host: bool = False
    isolated: bool = False


@frozen
class Address:
    name: str
    address: str
    prefix: int


@frozen
class Route:
    """`local`: what is sent there arrives at this namespace itself."""

    destination: str
    prefix: int
    gateway: str
    name: str
    local: bool = False


@frozen
class Setting:
    """`name` is below ``/proc/sys``."""

    name: str
    value: str


@frozen
class Watch:
    """Addresses that the host gets from now on are put into two sets of a table, by `nft`.

    `anew`: those that it has as well, before this is answered: the sets were replaced.
    """

    nft: str
    table: str
    ipv4_set: str
    ipv6_set: str
    anew: bool = False


@frozen
class Listen:
    """Answered with a descriptor: of a socket that is bound, and listens where its kind does."""

    address: str
    port: int
    kind: int = SOCK_STREAM
    backlog: int = 1024


@frozen
class Tap:
    """Answered with a descriptor: a virtual machine's end."""

    name: str


@frozen
class Log:
    """What the rules log goes to the descriptor that comes with this, as records of `logged`: `room_mib` at
    most, or without an end (0)."""

    messages: tuple[bytes, ...]
    room_mib: int


@frozen
class Ask:
    """A request of netlink to netfilter: for all that there is of something, or a transaction; the descriptor
    that comes with this gets the answers as they came."""

    request: bytes


@frozen
class Run:
    """A program of the host's is run in the namespace; its input and output come with this. The answer's
    value is its exit status."""

    argv: tuple[str, ...]
    deadline_ms: int


@frozen
class Helper:
    """A program that carries packets between the host's network and this one; ``@network`` among its words
    stands for the path of the namespace. Its output comes with this."""

    argv: tuple[str, ...]


@frozen
class Await:
    """Wait until there is a default route by the link that the helper makes."""

    name: str
    deadline_ms: int
    ipv4: bool
    ipv6: bool


@frozen
class Serve:
    """Sockets of this namespace can be asked for on the one that comes with this."""


Step = (
    Enter
    | Pair
    | Link
    | Address
    | Route
    | Setting
    | Watch
    | Listen
    | Tap
    | Log
    | Run
    | Helper
    | Await
    | Serve
    | Ask
)


@frozen
class Logged:
    """What was logged at one time, in ns since 1970: netlink messages."""

    at_ns: int
    messages: bytes


@frozen
class Answer:
    """`error` is an errno, 0 for none."""

    operation: int
    error: int
    value: int


def encode_step(step: Step) -> bytes:
    """The message. Raises `ValueError` for a word with a NUL."""
    match step:
        case Enter(parent_pid=parent, ids=ids, mappers=mappers, helps=helps):
            flags = (_USERS if ids else 0) | (_MAPPERS if mappers else 0) | (_HELPS if helps else 0)
            records = b"".join(_IDS.pack(one.inside, one.inside, one.uid, one.gid) for one in ids)
            return _ASKED.pack(1, parent, flags, len(ids)) + records + _words(mappers)
        case Pair():
            return _message(2, (), step.inside, step.outside)
        case Link():
            flags = (_ON_HOST if step.on_host else 0) | (_ISOLATED if step.isolated else 0)
            return _message(3, (flags, step.mtu), step.name, step.attached_to)
        case Address():
            return _message(4, (step.prefix,), step.name, step.address)
        case Route():
            numbers = (step.prefix, _LOCAL if step.local else 0)
            return _message(5, numbers, step.destination, step.gateway, step.name)
        case Setting():
            return _message(6, (), step.name, step.value)
        case Watch():
            return _message(7, (int(step.anew),), step.nft, step.table, step.ipv4_set, step.ipv6_set)
        case Listen():
            return _message(8, (step.kind, step.port, step.backlog), step.address)
        case Tap():
            return _message(9, (), step.name)
        case Log():
            return _ASKED.pack(10, step.room_mib, 0, 0) + b"".join(step.messages)
        case Run():
            return _message(11, (step.deadline_ms,), *step.argv)
        case Helper():
            return _message(12, (), *step.argv)
        case Await():
            families = (_IPV4 if step.ipv4 else 0) | (_IPV6 if step.ipv6 else 0)
            return _message(13, (step.deadline_ms, families), step.name)
        case Serve():
            return _message(14, ())
        case Ask():
            return _ASKED.pack(15, 0, 0, 0) + step.request


def decode_answer(data: bytes) -> Answer:
    """Raises `ValueError` for what is no answer."""
    if len(data) != ANSWER_BYTES:
        raise ValueError(f"a gate's answer has {ANSWER_BYTES} bytes, this one has {len(data)}")
    return Answer(*_ANSWER.unpack(data))


def logged(records: bytes) -> Iterator[Logged]:
    """What a gate has passed on, up to the first record that is not whole."""
    at = 0
    while at + _LOGGED.size <= len(records):
        at_ns, length = _LOGGED.unpack_from(records, at)
        at += _LOGGED.size
        if length > len(records) - at:
            return
        yield Logged(at_ns, records[at : at + length])
        at += length


def _message(operation: int, numbers: Sequence[int], *words: str) -> bytes:
    return _ASKED.pack(operation, *numbers, *(0,) * (3 - len(numbers))) + _words(words)


def _words(words: Sequence[str]) -> bytes:
    if any("\0" in word for word in words):
        raise ValueError("a word for the gate holds a NUL character")
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)
