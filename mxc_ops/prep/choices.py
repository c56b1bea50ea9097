"""What is wanted on one host, from the command line and the inventory's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import SchemaValidator, ValidationError, core_schema

from backends import registry
from backends.errors import PrepFailed, Problem
from backends.needs import FEATURES

__all__ = ["COMPILER", "Choices", "choices_from"]

COMPILER = "compiler"
"""The feature of needs that only a host has which compiles its helpers itself."""


@dataclass(frozen=True)
class Choices:
    """What is wanted on one host.

    Parameters
    ----------
    backends: containment names.
    features: see `backends.needs.FEATURES`.
    launcher: ``build``: compiled on the host; ``push``: this controller's own, no compiler is needed there.
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
_ADDRESS = core_schema.str_schema(pattern=r"^\d{1,3}(\.\d{1,3}){3}/\d{1,2}$")
_USER = core_schema.str_schema(strict=True, pattern="^[A-Za-z_][A-Za-z0-9_-]*$")
_USERS = core_schema.union_schema(
    [core_schema.list_schema(_USER, strict=True), core_schema.tuple_variable_schema(_USER, strict=True)]
)
_VALIDATOR = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            "backends": core_schema.typed_dict_field(_NAMES, required=False),
            "features": core_schema.typed_dict_field(_NAMES, required=False),
            "launcher": core_schema.typed_dict_field(
                core_schema.literal_schema(["build", "push"]), required=False
            ),
            "users": core_schema.typed_dict_field(_USERS, required=False),
            "bridges": core_schema.typed_dict_field(
                core_schema.dict_schema(_TEXT, _ADDRESS, strict=True), required=False
            ),
            "images": core_schema.typed_dict_field(
                core_schema.dict_schema(_TEXT, _IMAGE, strict=True), required=False
            ),
        },
        extra_behavior="forbid",
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
    try:
        told: dict[str, Any] = _VALIDATOR.validate_python(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"] if not str(step).startswith(("list[", "tuple[")))
        raise _not_meant(place, first["msg"]) from None
    for key, known in (("backends", registry.CONTAINMENTS), ("features", FEATURES)):
        for name in told.get(key, ()):
            if name not in known:
                raise _not_meant(key, f"nothing is called {name!r}; it may name {', '.join(known)}")
    return Choices(
        tuple(told.get("backends", ())),
        tuple(told.get("features", ())),
        told.get("launcher", "build"),
        told.get("images", {}),
        told.get("bridges", {}),
        tuple(told.get("users", ())),
    )


def _not_meant(place: str, why: str) -> PrepFailed:
    return PrepFailed(
        Problem(
            "inventory_data",
            f"mxc_{place}",
            f"mxc_{place} in the inventory: {why}",
            fix="see inventories/fleet.py for what it may be",
        )
    )
