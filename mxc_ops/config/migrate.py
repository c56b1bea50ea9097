"""Rewrite a document for another version: the same meaning where the target can say it, else stricter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from backends.errors import ConfigError, Problem
from mxc_ops.config.document import Document, RequestKind
from mxc_ops.config.losses import Loss, Severity, Upgrade
from mxc_ops.config.models import editions
from mxc_ops.config.models.kinds import Kind, Shape, Shapes, Sort
from mxc_ops.config.rules_phase import lacks_acknowledgement
from mxc_ops.config.upgrades import upgrade

__all__ = ["TARGETS", "Loss", "Migration", "Severity", "migrate"]

TARGETS = editions.EXACT
"""Versions that documents can be migrated to."""

# Losing one of these on a lifecycle request would lose a restriction that the backend was to refuse or hold.
_BINDING = frozenset({"filesystem", "network"})


class Migration(NamedTuple):
    """The rewritten document and what it no longer says; `body` is empty when a loss is REFUSED."""

    body: dict[str, Any]
    losses: tuple[Loss, ...]

    @property
    def refused(self) -> bool:
        """Whether the target has no form for the document."""
        return any(loss.severity is Severity.REFUSED for loss in self.losses)


def migrate(document: Document, to: str) -> Migration:
    """Rewrite `document` for the exact contract `to` (config-schema.md §7, §8).

    Nulls and old names go, `mxcOps` and `_comment` stay. The result permits what the document permits, or
    less where the target cannot say it; each such field is a loss with its pointer in the user's document.
    It loads as a document of version `to`. Raises `ConfigError` for a target that is none of `TARGETS`.
    """
    if to not in TARGETS:
        known = ", ".join(TARGETS)
        raise ConfigError(
            Problem(
                "unsupported_version", "/version", f"cannot migrate to {to!r}", expected=f"one of {known}"
            )
        )
    if document.contract == to:
        return Migration(dict(document.body), ())
    up = upgrade(document)
    if "$schema" in up.body:
        schema = up.body.pop("$schema")
        up.lose("/$schema", schema, "names the schema of another version", Severity.DROPPED_DEFAULT)
    shapes = editions.exact(to).shapes
    if document.kind is RequestKind.ONE_SHOT:
        _drop_unfit_proxy(up, document.body)
        if lacks_acknowledgement(up.body):
            reason = f"{to} wants the open network of an isolation session to be acknowledged"
            up.lose("/network", document.body.get("network"), reason, Severity.REFUSED)
    body = _fit(up, shapes, document.kind, to)
    return Migration(body, tuple(up.losses.values()))


def _drop_unfit_proxy(up: Upgrade, written: Mapping[str, Any]) -> None:
    """From 0.8 a process container has a proxy only with inbound traffic and the host's loopback allowed,
    which the legacy form did not ask for (config-schema.md §3.5)."""
    place = "/runtimeConfig/networkProxy"
    if up.body.get("containment") == "processcontainer" and place in up.origins:
        del up.body["runtimeConfig"]
        proxy = written["network"]["proxy"][up.origin(place).rpartition("/")[2]]
        reason = "a process container's proxy would need inbound traffic and the host's loopback allowed"
        up.lose(place, proxy, f"{reason}; nothing is reachable instead")


def _fit(up: Upgrade, shapes: Shapes, kind: RequestKind, to: str) -> dict[str, Any]:
    """Cut the newest shape down to what the target knows of this request; empty when that cannot be done."""
    containment: str | None = up.body.get("containment")
    name = _request_name(kind, containment)
    if name not in shapes:
        up.lose("/phase", up.body["phase"], f"{to} cannot provision '{containment}'", Severity.REFUSED)
        return {}
    shape = shapes[name]
    known = shape["containment"].choices if "containment" in shape else ()
    if containment is not None and containment not in known:
        up.lose("/containment", containment, f"{to} has no such containment", Severity.REFUSED)
        return {}
    missing = _prune(up, shapes, up.body | {"version": to}, shape, "", to)
    body = missing.body
    for field in missing.fields:
        up.lose(f"/{field}", up.body.get(field), f"{to} needs it, in its own words", Severity.REFUSED)
    if kind is not RequestKind.ONE_SHOT:
        for field in _BINDING & up.body.keys() - body.keys():
            up.lose(
                f"/{field}", up.body[field], f"{to} has no place for it in this request", Severity.REFUSED
            )
    refused = any(loss.severity is Severity.REFUSED for loss in up.losses.values())
    return {} if refused else {"version": to} | body


def _request_name(kind: RequestKind, containment: str | None) -> str:
    if kind is RequestKind.ONE_SHOT:
        return "Request"
    if kind is RequestKind.PROVISION:
        return editions.PROVISION_REQUESTS.get(containment or "", "")
    return f"{kind.value.capitalize()}Request"


class _Pruned(NamedTuple):
    """An object cut down to a shape; `fields` are those that the shape requires and that are not there."""

    body: dict[str, Any]
    fields: tuple[str, ...]


def _prune(
    up: Upgrade, shapes: Shapes, value: Mapping[str, Any], shape: Shape, pointer: str, to: str
) -> _Pruned:
    kept: dict[str, Any] = {}
    for name, member in value.items():
        place = f"{pointer}/{name}"
        kind = shape.get(name)
        if kind is None:
            up.lose(place, member, f"{to} does not have it")
        elif kind.sort is Sort.CHOICE and member not in kind.choices:
            up.lose(place, member, f"{to} does not have this value")
        elif kind.sort is Sort.SECTION:
            pruned = _prune(up, shapes, member, shapes[kind.section], place, to)
            if pruned.fields:
                up.lose(place, member, f"incomplete: {', '.join(pruned.fields)} missing")
            else:
                kept[name] = pruned.body
        elif _holds_sections(kind):
            kept[name] = _prune_items(up, shapes, member, kind, place, to)
        else:
            kept[name] = member
    required = (name for name, kind in shape.items() if kind.required and name not in kept)
    return _Pruned(kept, tuple(required))


def _holds_sections(kind: Kind) -> bool:
    return kind.sort is Sort.LIST and kind.item is not None and kind.item.sort is Sort.SECTION


def _prune_items(
    up: Upgrade, shapes: Shapes, items: list[Any], kind: Kind, pointer: str, to: str
) -> list[Any]:
    assert kind.item is not None
    shape = shapes[kind.item.section]
    return [
        _prune(up, shapes, item, shape, f"{pointer}/{index}", to).body for index, item in enumerate(items)
    ]
