"""Mapped ports: what is wrong with entries of `mxcOps.portMappings`, and what they mean. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backends.errors import Problem
from backends.network.policy import Direction, PortMapping, Protocol
from mxc_ops.policy.network_values import address_of, is_loopback, shown

__all__ = ["MAX_MAPPINGS", "mapping_faults", "read_mapping", "written_mapping"]

MAX_MAPPINGS = 64

_DEFAULT_ADDRESS = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - they are what is refused


def read_mapping(entry: Mapping[str, Any], name: str, pointer: str) -> PortMapping:
    """What an entry in which `mapping_faults` finds nothing says."""
    written: str = entry.get("hostAddress", _DEFAULT_ADDRESS)
    return PortMapping(
        name,
        pointer,
        Direction(entry["direction"]),
        Protocol(entry.get("protocol", "tcp")),
        address_of(written) or written,
        entry["hostPort"],
        entry["sandboxPort"],
    )


def written_mapping(mapping: PortMapping) -> dict[str, Any]:
    """The entry of a document that says the same."""
    entry: dict[str, Any] = {"direction": mapping.direction.value}
    if mapping.protocol is not Protocol.TCP:
        entry["protocol"] = mapping.protocol.value
    if mapping.host_address != _DEFAULT_ADDRESS:
        entry["hostAddress"] = mapping.host_address
    return entry | {"hostPort": mapping.host_port, "sandboxPort": mapping.sandbox_port}


def mapping_faults(
    entries: Sequence[Mapping[str, Any]], whole: str, pointers: Sequence[str]
) -> Iterator[Problem]:
    """What is wrong with well-shaped entries.

    Parameters
    ----------
    whole: where the user wrote all of them.
    pointers: where each of them.
    """
    if len(entries) > MAX_MAPPINGS:
        message = f"{len(entries)} ports are mapped"
        yield Problem("out_of_range", whole, message, expected=f"at most {MAX_MAPPINGS}")
    seen: dict[tuple[object, ...], str] = {}
    relayed = {
        _inside(entry): pointer
        for entry, pointer in zip(entries, pointers, strict=True)
        if entry["direction"] == "toHost"
    }
    for entry, pointer in zip(entries, pointers, strict=True):
        written: str = entry.get("hostAddress", _DEFAULT_ADDRESS)
        address = address_of(written)
        if (wrong := _address_fault(written, address, entry["direction"])) is not None:
            message, fix = wrong
            place = f"{pointer}/hostAddress" if pointer.startswith("/") else pointer
            yield Problem("invalid_value", place, message, expected="an address", fix=fix)
        elif entry["direction"] == "toHost":
            first = seen.setdefault(_inside(entry), pointer)
            if first != pointer:
                yield _taken(pointer, f"the sandbox's port {entry['sandboxPort']}", first)
        else:
            port: int = entry["hostPort"]
            first = seen.setdefault((address, entry.get("protocol", "tcp"), port), pointer)
            if first != pointer:
                yield _taken(pointer, f"the host's port {port}", first)
            if _inside(entry) in relayed:
                yield _taken(pointer, f"the sandbox's port {entry['sandboxPort']}", relayed[_inside(entry)])


def _inside(entry: Mapping[str, Any]) -> tuple[object, ...]:
    return "inside", entry.get("protocol", "tcp"), entry["sandboxPort"]


def _taken(pointer: str, what: str, by: str) -> Problem:
    fix = "give it a port of its own, or remove one of the two"
    return Problem("duplicate_value", pointer, f"{what} is taken by {by}", fix=fix)


def _address_fault(written: str, address: str | None, direction: str) -> tuple[str, str] | None:
    """(what is wrong, fix); None when a port can be mapped there."""
    said = shown(written)
    if address is None:
        return f"{said} is not an IP address", 'write one, such as "hostAddress": "127.0.0.1"'
    if address in _EVERYWHERE:
        return f"{said} stands for every address of the host", "name the one address that is meant"
    if direction == "toHost" and not is_loopback(address):
        fix = "leave hostAddress out; other hosts are reached by network.egress.allow"
        return f"{said} is not of the host's loopback, where alone 'toHost' leads to", fix
    return None
