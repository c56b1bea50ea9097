"""What a document asks for beyond command, files and limits: every field that opens something (pure).

Whether a backend gives it, ignores it with a warning or refuses is for `mxc_ops.policy.features`. What only
tightens (deny rules, block lists, a default of deny) is satisfied and not listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from backends.features import Asked, Feature
from mxc_ops.config.losses import Severity, origin_of
from mxc_ops.config.redaction import redacted
from mxc_ops.policy import machine
from mxc_ops.policy.host_loopback import feature_of
from mxc_ops.policy.port_mappings import read_mapping

__all__ = ["asked_features"]

_LONGEST_VALUE = 100

# section, field, the value that asks, what for
_SWITCHES: tuple[tuple[str, str, object, Feature], ...] = (
    ("ui", "disable", False, Feature.UI),
    ("ui", "clipboard", "read", Feature.CLIPBOARD),
    ("ui", "clipboard", "write", Feature.CLIPBOARD),
    ("ui", "clipboard", "all", Feature.CLIPBOARD),
    ("ui", "injection", True, Feature.INPUT_INJECTION),
    ("fallback", "allowDaclMutation", True, Feature.DACL_FALLBACK),
    ("telemetry", "enabled", True, Feature.TELEMETRY),
    ("lifecycle", "preservePolicy", True, Feature.PRESERVE_POLICY),
    ("lifecycle", "destroyOnExit", False, Feature.KEEP_CONTAINER),
)

# Sections of one backend → the containments that they belong to (config-schema.md §4.1).
_SECTIONS: Mapping[str, frozenset[str]] = {
    "processContainer": frozenset({"processcontainer"}),
    "lxc": frozenset({"lxc"}),
    "seatbelt": frozenset({"seatbelt"}),
    "wslc": frozenset({"wslc"}),
    "windowsSandbox": frozenset({"windows_sandbox"}),
    "hyperlight": frozenset({"hyperlight"}),
}

# The same of ours, below mxcOps.
_OUR_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "vm": machine.CONTAINMENTS,
    "hyperlight": ("hyperlight",),
    "wslc": ("wslc",),
}

# Lost on the way to the newest shape: pointer prefix → what the field had asked for; None: it only tightened.
_LOST: tuple[tuple[str, Feature | None], ...] = (
    ("/network/proxy/", Feature.NETWORK_PROXY),
    ("/network/defaultPolicy", Feature.EGRESS),
    ("/network/allowedHosts/", Feature.EGRESS),
    ("/network/", None),
    ("/experimental/isolation_session", Feature.BACKEND_SECTION),
    ("/experimental/", Feature.EXPERIMENTAL),
)


_MOST_OF_A_LIST = 64
"""Of longer ones the others ask for nothing else; to refuse the list it is enough to have these."""


def asked_features(
    canonical: Mapping[str, Any], written: Mapping[str, Any], containment: str
) -> tuple[Asked, ...]:
    """List the fields that ask for a `Feature`, spelled and valued as in the user's document.

    Parameters
    ----------
    canonical: from `canonicalise`, with its ``legacy`` and ``origins``.
    written: the document as the user wrote it.
    containment: the resolved one; the sections of other backends are listed.
    """
    origins: Mapping[str, str] = canonical.get("origins", {})

    def as_written(feature: Feature, pointer: str, value: Any) -> Asked:
        origin = origin_of(origins, pointer)
        if origin != pointer:
            value = _look_up(written, origin, value)
        return Asked(feature, origin, _text(redacted(origin, _abridged(value))))

    found = [as_written(*entry) for entry in _current(canonical, containment)]
    found.extend(_lost(canonical, found))
    return tuple(found)


def _abridged(value: Any) -> Any:
    """The same, of long lists the beginning: it is for people."""
    if isinstance(value, dict):
        return {name: _abridged(member) for name, member in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_abridged(item) for item in cast("list[Any]", value)[:_MOST_OF_A_LIST]]
    return value


def _current(canonical: Mapping[str, Any], containment: str) -> Iterator[tuple[Feature, str, Any]]:
    if "network" in canonical:
        yield from _network(canonical["network"])
    proxy = canonical.get("runtimeConfig", {}).get("networkProxy")
    if proxy is not None:
        yield Feature.NETWORK_PROXY, "/runtimeConfig/networkProxy", proxy
    if extension := canonical.get("mxcOps"):
        yield from _extension(extension)
    for section, field, asking, feature in _SWITCHES:
        if section in canonical and canonical[section].get(field) == asking:
            yield feature, f"/{section}/{field}", asking
    for name, owners in _SECTIONS.items():
        if name in canonical and containment not in owners:
            yield Feature.BACKEND_SECTION, f"/{name}", canonical[name]
    ours: Mapping[str, Any] = canonical.get("mxcOps", {})
    for name, owners in _OUR_SECTIONS.items():
        if name in ours and containment not in owners:
            yield Feature.BACKEND_SECTION, f"/mxcOps/{name}", ours[name]
    if "test" in canonical:
        yield Feature.EXPERIMENTAL, "/test", canonical["test"]


def _network(network: Mapping[str, Any]) -> Iterator[tuple[Feature, str, Any]]:
    egress: Mapping[str, Any] = network.get("egress", {})
    ingress: Mapping[str, Any] = network.get("ingress", {})
    if egress.get("default") == "allow":
        yield Feature.EGRESS, "/network/egress/default", "allow"
    for index, rule in enumerate(egress.get("allow", ())[:_MOST_OF_A_LIST]):
        yield Feature.EGRESS, f"/network/egress/allow/{index}", rule
    if ingress.get("default") == "allow":
        yield Feature.INGRESS, "/network/ingress/default", "allow"
    if ingress.get("hostLoopback") == "allow":
        yield Feature.HOST_LOOPBACK, "/network/ingress/hostLoopback", "allow"


def _extension(extension: Mapping[str, Any]) -> Iterator[tuple[Feature, str, Any]]:
    """Names, what may be opened later, and mapped ports."""
    network: Mapping[str, Any] = extension.get("network", {})
    for index, entry in enumerate(network.get("names", ())[:_MOST_OF_A_LIST]):
        yield Feature.EGRESS, f"/mxcOps/network/names/{index}", entry
    if ceiling := network.get("ceiling"):
        yield Feature.EGRESS, "/mxcOps/network/ceiling", ceiling
    for index, entry in enumerate(extension.get("portMappings", ())):
        feature = feature_of(read_mapping(entry, "", ""))
        yield feature, f"/mxcOps/portMappings/{index}", entry


def _lost(canonical: Mapping[str, Any], found: list[Asked]) -> Iterator[Asked]:
    legacy: Mapping[str, Mapping[str, Any]] = canonical.get("legacy", {})
    named = {asked.pointer for asked in found}
    for pointer, loss in legacy.items():
        if loss["severity"] == Severity.DROPPED_DEFAULT or any(_within(pointer, place) for place in named):
            continue
        feature = next(
            (feature for prefix, feature in _LOST if pointer.startswith(prefix)), Feature.EXPERIMENTAL
        )
        if feature is not None:
            yield Asked(feature, pointer, _text(loss["value"]))


def _within(pointer: str, place: str) -> bool:
    return pointer == place or pointer.startswith(f"{place}/")


def _look_up(written: Mapping[str, Any], pointer: str, otherwise: Any) -> Any:
    place: Any = written
    for segment in pointer.split("/")[1:]:
        try:
            place = cast("Any", place[int(segment)] if isinstance(place, list) else place[segment])
        except (KeyError, IndexError, ValueError, TypeError):
            return otherwise
    return place


def _text(value: Any) -> str:
    """One line of JSON, control and non-ASCII characters escaped; a string without its quotes."""
    import json

    text = json.dumps(value)
    if isinstance(value, str):
        text = text[1:-1]
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"
