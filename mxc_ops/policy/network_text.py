"""Networks as people write them on one line: the one grammar of flags and of `network` (pure).

A destination is ``HOST-OR-CIDR[:PORT[-PORT]][/tcp|/udp|/icmp]``; IPv6 stands in brackets before a port. A
name is the filtering proxy's matter, an address is a rule for packets. A port of the sandbox that the host
gets is ``[HOSTADDR:]HOST:SANDBOX[/tcp|/udp]``, one of the host that the sandbox gets
``PORT[:SANDBOXPORT][/tcp|/udp]``.
"""

from __future__ import annotations

from typing import Any

from backends.errors import ConfigError, Problem
from backends.network.policy import NameRule, Peer, Ports, Protocol, Rule
from mxc_ops.policy.network import EVERY_PORT
from mxc_ops.policy.network_values import normalised, pattern_fault, pattern_of, read_network, shown

__all__ = ["destination", "is_name", "published", "reached"]

_A_DESTINATION = "HOST-OR-CIDR[:PORT[-PORT]][/tcp|/udp|/icmp], as example.test:443 or 192.0.2.0/24:53/udp"
_PUBLISHED = "[HOSTADDR:]HOST:SANDBOX[/udp], as 8080:80 or 192.0.2.10:8080:80"
_REACHED = "PORT[:SANDBOXPORT][/udp], as 5432"
_HIGHEST = 65535


class _Wrong(Exception):
    """What is wrong with a text."""


def is_name(text: str) -> bool:
    """Whether a destination is a name, not an address; also for texts that are neither."""
    try:
        host, _, _ = _split(text)
    except _Wrong:
        return True
    return isinstance(read_network(host), Problem)


def destination(text: str, name: str, pointer: str, *, denied: bool = False) -> Rule | NameRule:
    """The rule that a text stands for.

    Parameters
    ----------
    name: what the rule is to be called in events.
    pointer: where the user wrote it.
    denied: a name stands for every port of it; else for 80 and 443, or those that are said.

    Raises `ConfigError` for what is no destination.
    """
    try:
        host, ports, protocol = _split(text)
        if not isinstance(network := read_network(host), Problem):
            cidr, _ = normalised(host)
            return Rule(name, pointer, (Peer(cidr),), _ports(ports, protocol))
        if network.fix:  # host bits: what is meant cannot be guessed
            raise ConfigError(Problem("invalid_value", pointer, network.message, fix=network.fix))
        pattern = pattern_of(host)
        if pattern is None:
            raise _Wrong(pattern_fault(host))
    except _Wrong as wrong:
        raise ConfigError(_problem(pointer, text, str(wrong), _A_DESTINATION)) from None
    if protocol not in (Protocol.ANY, Protocol.TCP):
        message = f"names are reached through the filtering proxy, which has no {protocol.value}"
        raise ConfigError(_problem(pointer, text, message, "a name, or an address with another protocol"))
    if denied and ports is not None:
        message = "a name is denied on every port"
        raise ConfigError(_problem(pointer, text, message, f"{pattern}, or an address with a port"))
    if denied:
        return NameRule(name, pointer, pattern, EVERY_PORT)
    return NameRule(name, pointer, pattern, (ports,)) if ports else NameRule(name, pointer, pattern)


def published(text: str, pointer: str) -> dict[str, Any]:
    """The entry of ``mxcOps.portMappings`` for a port of the sandbox that the host gets.

    Raises `ConfigError` for what has not this form; whether it can be mapped there is not looked at.
    """
    try:
        body, protocol = _suffix(text, ("tcp", "udp"))
        head, colon, inside = body.rpartition(":")
        address, _, outside = head.rpartition(":")
        if not colon:
            raise _Wrong("it has one port, and two are needed")
        entry: dict[str, Any] = {"direction": "toSandbox", "protocol": protocol or "tcp"}
        if address:
            entry["hostAddress"] = _unbracketed(address)
        return entry | {"hostPort": _port(outside), "sandboxPort": _port(inside)}
    except _Wrong as wrong:
        raise ConfigError(_problem(pointer, text, str(wrong), _PUBLISHED)) from None


def reached(text: str, pointer: str) -> dict[str, Any]:
    """The entry of ``mxcOps.portMappings`` for a port of the host's loopback that the sandbox gets.

    Raises `ConfigError` for what has not this form.
    """
    try:
        body, protocol = _suffix(text, ("tcp", "udp"))
        outside, colon, inside = body.partition(":")
        ports = {"hostPort": _port(outside), "sandboxPort": _port(inside if colon else outside)}
        return {"direction": "toHost", "protocol": protocol or "tcp", **ports}
    except _Wrong as wrong:
        raise ConfigError(_problem(pointer, text, str(wrong), _REACHED)) from None


# --- parts -----------------------------------------------------------------------------------------


def _split(text: str) -> tuple[str, tuple[int, int] | None, Protocol]:
    body, suffix = _suffix(text, ("tcp", "udp", "icmp"))
    if body.startswith("["):
        host, bracket, rest = body[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _Wrong("an address in brackets ends with ']', and only a port follows")
        ports = _range(rest[1:]) if rest else None
    elif body.count(":") > 1:
        host, ports = body, None
    else:
        host, colon, after = body.partition(":")
        ports = _range(after) if colon else None
    protocol = Protocol(suffix) if suffix else Protocol.ANY
    if protocol is Protocol.ICMP and ports is not None:
        raise _Wrong("icmp has no ports")
    return host, ports, protocol


def _suffix(text: str, known: tuple[str, ...]) -> tuple[str, str]:
    """(the rest, the protocol after the last slash or "")."""
    body, slash, suffix = text.rpartition("/")
    return (body, suffix) if slash and suffix in known else (text, "")


def _ports(ports: tuple[int, int] | None, protocol: Protocol) -> tuple[Ports, ...]:
    if ports is None:
        return () if protocol is Protocol.ANY else (Ports(protocol),)
    return (Ports(protocol, *ports),)


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    ports = _port(first), _port(last if dash else first)
    if ports[0] > ports[1]:
        raise _Wrong(f"the ports {ports[0]} to {ports[1]} are none")
    return ports


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_HIGHEST))):
        raise _Wrong("a port is a number")
    number = int(text)
    if not 1 <= number <= _HIGHEST:
        raise _Wrong(f"a port is a number from 1 to {_HIGHEST}")
    return number


def _unbracketed(address: str) -> str:
    if address.startswith("[") and address.endswith("]"):
        return address[1:-1]
    if ":" in address:
        raise _Wrong("an IPv6 address stands in brackets")
    return address


def _problem(pointer: str, text: str, why: str, expected: str) -> Problem:
    return Problem("invalid_value", pointer, f"{shown(text)}: {why}", expected=expected)
