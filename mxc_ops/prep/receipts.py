"""The receipt of an item: what we changed on a host and what was there before. One JSON file for each item.

It is written before the first change, as pending, and completed after the last, by the very command that
makes the change: a controller that dies in between leaves either kind, never a half-written one. A change
that failed by itself is recorded so, with what it had made until then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic_core import SchemaValidator, ValidationError, core_schema

__all__ = [
    "DIRECTORY",
    "FORMERLY",
    "WINDOWS_DIRECTORY",
    "Receipt",
    "Unreadable",
    "decode",
    "merged",
    "readings",
    "texts_by_item",
]

SCHEMA_VERSION = 1
DIRECTORY = "/var/lib/mxc-ops/receipts"
WINDOWS_DIRECTORY = r"$env:ProgramData\mxc-ops\receipts"
PENDING, FAILED, COMPLETE = "pending", "failed", "complete"
_INSTEAD = "instead"
FORMERLY: Mapping[str, str] = {
    "bubblewrap.network.package": "bubblewrap.package.network",
    "bubblewrap.network.module.conntrack": "bubblewrap.module.conntrack",
    "bubblewrap.network.device.tun": "bubblewrap.device.tun",
    "bubblewrap.network.sysctl.netns-count": "bubblewrap.sysctl.netns-count",
    "lxc.network.package": "lxc.package.network",
    "lxc.network.sysctl.ip-forward": "lxc.sysctl.ip-forward",
    "lxc.network.bridge": "lxc.bridge",
}
"""Items whose changes earlier versions recorded under another name. The next change gives them theirs."""
_NOW = {former: item for item, former in FORMERLY.items()}


class Unreadable(ValueError):
    """A receipt that cannot be understood; it is left as it is."""


@dataclass(frozen=True)
class Receipt:
    """See `Decision` for `prior` and `made`. `at`: UTC, ISO 8601; `by`: who prepared, ``user@controller``."""

    item: str
    operation: str
    arguments: Mapping[str, Any]
    prior: Mapping[str, Any] = field(default_factory=dict[str, Any])
    made: Mapping[str, Any] = field(default_factory=dict[str, Any])
    state: str = COMPLETE
    at: str = ""
    by: str = ""

    def encode(self) -> str:
        return json.dumps({"schemaVersion": SCHEMA_VERSION, **asdict(self)})


_TEXT = core_schema.str_schema(strict=True)
# It stands in commands that are proposed to people, and the host may be hostile.
_ITEM = core_schema.str_schema(strict=True, pattern=r"^[a-z0-9_]+(\.[A-Za-z0-9_-]+)*$")
_OBJECT = core_schema.dict_schema(_TEXT, core_schema.any_schema())
_VALIDATOR = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            "schemaVersion": core_schema.typed_dict_field(core_schema.literal_schema([SCHEMA_VERSION])),
            "state": core_schema.typed_dict_field(core_schema.literal_schema([PENDING, FAILED, COMPLETE])),
            "item": core_schema.typed_dict_field(_ITEM),
            **{name: core_schema.typed_dict_field(_TEXT) for name in ("operation", "at", "by")},
            **{name: core_schema.typed_dict_field(_OBJECT) for name in ("arguments", "prior", "made")},
        },
        extra_behavior="forbid",
    )
)


def decode(text: str) -> Receipt:
    """A receipt as it stands on a host. Raises `Unreadable`, saying what is wrong with it."""
    try:
        document: dict[str, Any] = _VALIDATOR.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = "/" + "/".join(str(step) for step in first["loc"])
        raise Unreadable(f"{place}: {first['msg']}") from None
    del document["schemaVersion"]
    receipt = Receipt(**document)
    return replace(receipt, item=_NOW.get(receipt.item, receipt.item))


def texts_by_item(texts: Mapping[str, str]) -> dict[str, str]:
    """Receipts that are not decoded, by what their items are called now; `texts`: as on the host."""
    found = {_NOW[name]: text for name, text in texts.items() if name in _NOW}
    return found | {name: text for name, text in texts.items() if name not in _NOW}


def merged(earlier: Receipt | None, new: Receipt) -> Receipt:
    """The receipt after a further change to the same item.

    The way back leads to before our first change, so `prior` stays, and is only added to: files and
    directories that the further change is the first to touch. Lists in `made` are united, everything else in
    it is replaced; what was there instead is kept besides, as the further change may fail (see `readings`).
    """
    if earlier is None:
        return new
    made = dict(earlier.made) | dict(new.made)
    for name in earlier.made.keys() & new.made.keys():
        if isinstance(earlier.made[name], list):
            made[name] = _united(earlier.made[name], new.made[name])
    instead = _before(earlier, made)
    made.pop(_INSTEAD, None)
    if instead:
        made[_INSTEAD] = instead
    prior = dict(earlier.prior or new.prior)
    if "directories" in prior:
        prior["directories"] = _united(prior["directories"], new.prior.get("directories", []))
    if "files" in prior:
        prior["files"] = {**new.prior.get("files", {}), **prior["files"]}
    return Receipt(new.item, new.operation, new.arguments, prior, made, new.state, new.at, new.by)


def _before(earlier: Receipt, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What may be there in place of `made` when the change that makes it does not complete."""
    known: list[dict[str, Any]] = [] if earlier.state == COMPLETE else list(earlier.made.get(_INSTEAD, []))
    other = {
        name: value
        for name, value in earlier.made.items()
        if not isinstance(value, list) and value != made.get(name)
    }
    return [*known, other] if other and other not in known else known


def readings(receipt: Receipt) -> list[Receipt]:
    """What a receipt may mean, each without doubt; but one where the change is complete.

    A further change that was interrupted, or failed, may have left what was made before it.
    """
    instead: list[dict[str, Any]] = [] if receipt.state == COMPLETE else receipt.made.get(_INSTEAD, [])
    made = {name: value for name, value in receipt.made.items() if name != _INSTEAD}
    return [replace(receipt, made={**made, **other}) for other in ({}, *instead)]


def _united(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    return [*first, *(entry for entry in second if entry not in first)]
