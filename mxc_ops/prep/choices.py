"""What is wanted on one host, from the command line and the inventory's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from ipaddress import IPv4Interface
from typing import Any

from pydantic_core import SchemaValidator, ValidationError, core_schema

from backends import registry
from backends.errors import PrepFailed, Problem
from backends.needs import FEATURES, NeedKind
from mxc_ops.config.suggest import nearest

__all__ = ["COMPILER", "PREFIX", "Choices", "choices_from"]

PREFIX = "mxc_"
"""What the names of our data begin with, in an inventory."""

COMPILER = "compiler"
"""The feature of needs that only a host has which compiles its helpers itself."""


@dataclass(frozen=True)
class Choices:
    """What is wanted on one host.

    Parameters
    ----------
    backends: containment names.
    features: see `backends.needs.FEATURES`.
    launcher: how launcher and agent get there. ``build``: compiled on the host; ``push``: this controller's
        own, no compiler is needed there.
    images: by name, the controller's file for it and its SHA-256: ``{"source", "sha256"}``.
    users: names of those who run sandboxes there without root's rights.
    bridges: by name, an address with its prefix (``10.99.0.1/22``) instead of our own choice.
    """

    backends: Sequence[str]
    features: Sequence[str] = ()
    launcher: str = "build"
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    bridges: Mapping[str, str] = field(default_factory=dict[str, str])
    users: Sequence[str] = ()


_TEXT = core_schema.str_schema(strict=True)
_NAMES = core_schema.union_schema(
    [core_schema.list_schema(_TEXT, strict=True), core_schema.tuple_variable_schema(_TEXT, strict=True)]
)
_SHA256 = core_schema.str_schema(pattern="^[0-9a-f]{64}$")
_IMAGE = core_schema.typed_dict_schema(
    {
        "source": core_schema.typed_dict_field(core_schema.str_schema(strict=True, pattern="^/")),
        "sha256": core_schema.typed_dict_field(_SHA256),
    },
    extra_behavior="forbid",
)
_WITH_HOSTS = 4
"""Addresses of the smallest network that has a bridge and something attached to it."""
_ADDRESS = core_schema.str_schema(pattern=r"^\d{1,3}(\.\d{1,3}){3}/\d{1,2}$")
_USER = core_schema.str_schema(strict=True, pattern="^[A-Za-z_][A-Za-z0-9_-]*$")
_USERS = core_schema.union_schema(
    [core_schema.list_schema(_USER, strict=True), core_schema.tuple_variable_schema(_USER, strict=True)]
)
_KEYS = {
    "backends": _NAMES,
    "features": _NAMES,
    "launcher": core_schema.literal_schema(["build", "push"]),
    "users": _USERS,
    "bridges": core_schema.dict_schema(_TEXT, _ADDRESS, strict=True),
    "images": core_schema.dict_schema(_TEXT, _IMAGE, strict=True),
}
_VALIDATOR = SchemaValidator(
    core_schema.typed_dict_schema(
        {key: core_schema.typed_dict_field(schema, required=False) for key, schema in _KEYS.items()}
    )
)


def choices_from(data: Mapping[str, Any]) -> Choices:
    """What an inventory's data say; what they do not say is empty or the default.

    Parameters
    ----------
    data: by the keys ``backends``, ``features``, ``launcher``, ``images``, ``bridges``, ``users``; in the
        inventory they begin with ``mxc_``.

    Raises `PrepFailed`, naming the key, for data that cannot be meant.
    """
    for key in data:
        if key not in _KEYS:
            raise _not_meant(key, _unknown(key))
    try:
        told: dict[str, Any] = _VALIDATOR.validate_python(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"] if not str(step).startswith(("list[", "tuple[")))
        raise _not_meant(place, first["msg"]) from None
    known = {
        "backends": registry.CONTAINMENTS,
        "features": FEATURES,
        "images": _names_of(NeedKind.IMAGE, "image"),
        "bridges": _names_of(NeedKind.BRIDGE, "bridge"),
    }
    for key, names in known.items():
        for name in told.get(key, ()):
            if name not in names:
                raise _not_meant(key, f"nothing is called {name!r}; it may name {', '.join(names)}")
    for bridge, address in told.get("bridges", {}).items():
        if trouble := _no_address(address):
            raise _not_meant(f"bridges.{bridge}", f"{address} {trouble}")
    return Choices(
        tuple(told.get("backends", ())),
        tuple(told.get("features", ())),
        told.get("launcher", "build"),
        told.get("images", {}),
        told.get("bridges", {}),
        tuple(told.get("users", ())),
    )


def _unknown(key: str) -> str:
    near = nearest(key, _KEYS)
    known = ", ".join(PREFIX + name for name in _KEYS)
    return "nothing is called so; " + (f"did you mean {PREFIX}{near}?" if near else f"there are {known}")


def _names_of(kind: NeedKind, key: str) -> list[str]:
    """What the needs of that kind name, of all backends, each name once."""
    modules = [entry.needs for entry in registry.CONTAINMENTS.values() if entry.needs]
    needs = [need for module in modules for need in import_module(module).NEEDS]
    return list(dict.fromkeys(need.data[key] for need in needs if need.kind is kind))


def _no_address(text: str) -> str:
    """Why a bridge cannot have this address; "" when it can."""
    try:
        address = IPv4Interface(text)
    except ValueError:
        return "is no IPv4 address with its prefix"
    network = address.network
    of_nobody = (network.network_address, network.broadcast_address)
    if network.num_addresses < _WITH_HOSTS or address.ip in of_nobody:
        return f"is no host's address in {network}"
    return ""


def _not_meant(place: str, why: str) -> PrepFailed:
    return PrepFailed(
        Problem(
            "inventory_data",
            f"{PREFIX}{place}",
            f"{PREFIX}{place} in the inventory: {why}",
            fix="see inventories/fleet.py for what it may be",
        )
    )
