"""What one proxy is told when it starts, and how it is written down for it. Pure data.

It travels as JSON in a memfd: neither the policy nor a name of it appears in a command line. Who only writes
it is on the path of every run, and loads none of what reading takes.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

from backends.egress.rules import Rules
from backends.frozen import field_names, frozen
from backends.network.policy import NameRule, Rule

__all__ = [
    "EgressSettings",
    "Listener",
    "ListenerKind",
    "Target",
    "decode",
    "decode_rules",
    "encode",
    "encode_replace",
]


class ListenerKind(Enum):
    """`PROXY` is asked for by its clients (HTTP and SOCKS5); `REDIRECTED` gets what nft turned to it."""

    PROXY = "proxy"
    REDIRECTED = "redirected"
    DNS_UDP = "dns-udp"
    DNS_TCP = "dns-tcp"
    FORWARD_TCP = "forward-tcp"
    FORWARD_UDP = "forward-udp"


@frozen
class Target:
    """Where a forward leads: an address literal, in the host's network or `inside` the sandbox's.

    `rule` is what events call it.
    """

    host: str
    port: int
    inside: bool
    rule: str


@frozen
class Listener:
    """An inherited socket that is bound, and listens where it is TCP; forwards have a `target`."""

    kind: ListenerKind
    fd: int
    target: Target | None = None


@frozen
class EgressSettings:
    """All of it.

    Parameters
    ----------
    names, denied_names, deny: as in `backends.network.policy.NetworkPolicy`.
    events: the descriptor that JSON lines are written to; None: no events.
    control: a connected stream socket, whose end of file ends the process.
    sockets: a connected SOCK_SEQPACKET socket to who makes sockets inside the sandbox.
    user: (uid, gid) to become; None: stay.
    owner: a pidfd; the end of that process ends this one, too, whoever holds the other end of `control`.
    nameservers: addresses; empty: those of the host's ``/etc/resolv.conf``.
    """

    names: tuple[NameRule, ...]
    denied_names: tuple[NameRule, ...]
    deny: tuple[Rule, ...]
    listeners: tuple[Listener, ...]
    events: int | None
    control: int
    sockets: int | None
    user: tuple[int, int] | None
    nameservers: tuple[str, ...] = ()
    owner: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All that it has of its starter's, besides 0, 1 and 2."""
        others = (self.events, self.sockets, self.owner)
        return (self.control, *(one.fd for one in self.listeners), *(fd for fd in others if fd is not None))

    @property
    def rules(self) -> Rules:
        return Rules(self.names, self.denied_names, self.deny)


def encode(settings: EgressSettings) -> bytes:
    """The settings as one JSON text."""
    return _written(settings).encode()


def decode(text: bytes) -> EgressSettings:
    """The settings that `encode` wrote. Raises ValueError for anything else."""
    from ipaddress import ip_address

    settings = cast(EgressSettings, _read(EgressSettings, json.loads(text), "settings"))
    _check_rules(settings.rules)
    for listener in settings.listeners:
        forwards = listener.kind in (ListenerKind.FORWARD_TCP, ListenerKind.FORWARD_UDP)
        if forwards != (listener.target is not None):
            raise ValueError(f"a listener of the kind {listener.kind.value} and its target do not agree")
        if listener.target is not None:
            ip_address(listener.target.host)
            if listener.target.inside and settings.sockets is None:
                raise ValueError("a forward leads inside, and nobody makes sockets there")
    for nameserver in settings.nameservers:
        ip_address(nameserver)
    return settings


def encode_replace(rules: Rules) -> bytes:
    """The control line that puts `rules` in the place of all that hold."""
    fields = {"names": rules.names, "deniedNames": rules.denied_names, "deny": rules.deny}
    return _written({"op": "replace", **fields}).encode() + b"\n"


def decode_rules(message: Mapping[str, Any]) -> Rules:
    """The rules of a ``replace`` message. Raises ValueError where it is none."""
    keys = {"names": "names", "deniedNames": "denied_names", "deny": "deny"}
    if set(message) != {"op", *keys}:
        raise ValueError(f"a replacement has exactly {', '.join(['op', *keys])}")
    rules = cast(Rules, _read(Rules, {ours: message[key] for key, ours in keys.items()}, "rules"))
    _check_rules(rules)
    return rules


def _check_rules(rules: Rules) -> None:
    """Raises ValueError where a rule could never match what it seems to: a denial would be none then."""
    from ipaddress import ip_network

    from backends.egress.names import is_pattern

    for rule in (*rules.names, *rules.denied_names):
        if not is_pattern(rule.pattern):
            raise ValueError(f"{rule.name} has a pattern that no name can match")
    cidrs = [cidr for rule in rules.names for cidr in rule.addresses]
    for peer in [peer for rule in rules.deny for peer in rule.to]:
        cidrs += [peer.cidr, *peer.excepted]
    for cidr in cidrs:
        ip_network(cidr, strict=False)


def _written(value: Any) -> str:
    return json.dumps(value, default=_plain, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """What JSON has no form for."""
    if isinstance(value, Enum):
        return value.value
    return {name: getattr(value, name) for name in field_names(value.__class__)}


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotation `kind` has it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        [wanted] = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _read(wanted, value, where)
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if issubclass(kind, Enum):
        return kind(value)
    if hasattr(kind, "__frozen_fields__"):
        return _read_fields(kind, value, where)
    if type(value) is not kind:
        raise ValueError(f"{where} is no {kind.__name__}")
    return value


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is no list")
    items = cast("list[Any]", value)
    kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(items):
        raise ValueError(f"{where} has not {len(kinds)} entries")
    return tuple(
        [_read(kind, item, f"{where}/{n}") for n, (kind, item) in enumerate(zip(kinds, items, strict=True))]
    )


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    names = field_names(kind)
    if not isinstance(value, dict) or not set(cast("dict[str, Any]", value)) == set(names):
        raise ValueError(f"{where} has not exactly {', '.join(names)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _read(hints[name], value[name], f"{where}/{name}") for name in names})
