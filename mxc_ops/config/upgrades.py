"""The way from any version to the newest shape (1.1.0-alpha), one step per change (config-schema.md §7).

Documents of the ranged line are read against the union of what their version and 0.9-dev know, so every step
looks at the fields that are there and not at the declared version; an exact contract starts further down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from mxc_ops.config.document import Document
from mxc_ops.config.losses import Severity, Upgrade

__all__ = ["NEWEST", "upgrade"]

NEWEST = "1.1.0-alpha"

Step = Callable[[Upgrade], None]

_CONTAINMENT_ALIASES = {"appcontainer": "processcontainer", "macos_sandbox": "seatbelt"}
_SECTION_ALIASES = (("appContainer", "processContainer"), ("macos_sandbox", "seatbelt"))
_SYSTEM_SETTINGS = frozenset({"none", "parameters", "display", "all"})
_WITHDRAWN = "withdrawn upstream; nothing replaces it"


def upgrade(document: Document) -> Upgrade:
    """Apply every step that the document's contract has not had yet. The document is not changed."""
    up = Upgrade(_without_nulls(document.body))
    for step in _STEPS_FROM[document.contract]:
        step(up)
    up.body["version"] = NEWEST
    return up


def _without_nulls(value: Any) -> Any:
    """A copy without members that are null: before v1 that means absent (config-schema.md §1.4)."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {
            name: member if name == "_comment" or isinstance(member, _ATOMS) else _without_nulls(member)
            for name, member in members.items()
            if member is not None
        }
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [item if isinstance(item, _ATOMS) else _without_nulls(item) for item in items]
    return value


_ATOMS = (str, int, float)


# --- 0.5 → 0.6 ------------------------------------------------------------------------------------


def _fold_aliases(up: Upgrade) -> None:
    body = up.body
    containment = body.get("containment")
    if containment in _CONTAINMENT_ALIASES:
        body["containment"] = _CONTAINMENT_ALIASES[containment]
    for old, new in _SECTION_ALIASES:
        if old in body:
            body[new] = body.pop(old)
            up.moved(f"/{new}", f"/{old}")


# --- 0.6 → 0.7 ------------------------------------------------------------------------------------


def _promote_seatbelt(up: Upgrade) -> None:
    experimental: dict[str, Any] = up.body.get("experimental", {})
    for name in ("seatbelt", "macos_sandbox"):
        if name not in experimental:
            continue
        pointer = f"/experimental/{name}"
        section: dict[str, Any] = experimental.pop(name)
        if "seatbelt" in up.body:
            up.lose(pointer, section, "a seatbelt section stands elsewhere in the document and counts")
            continue
        if "mode" in section:
            mode = section.pop("mode")
            severity = Severity.DROPPED_DEFAULT if mode == "exec" else Severity.LOSSY
            up.lose(f"{pointer}/mode", mode, _WITHDRAWN, severity)
        up.body["seatbelt"] = section
        up.moved("/seatbelt", pointer)


# --- 0.7 → 0.8 ------------------------------------------------------------------------------------


def _direct_network(up: Upgrade) -> None:
    network = up.body.get("network")
    if network and not network.keys() <= {"egress", "ingress"}:
        from mxc_ops.config.legacy_network import to_directional

        to_directional(up)


def _tidy_process_container(up: Upgrade) -> None:
    """From 0.8 capability names hold no comma and two are reserved; a blank proxy peer means none."""
    section: dict[str, Any] = up.body.get("processContainer", {})
    names: list[str] = section.get("capabilities", [])
    kept: list[str] = []
    for index, name in enumerate(names):
        pointer = f"/processContainer/capabilities/{index}"
        if "," in name:
            up.lose(pointer, name, "one entry is one capability: a comma is refused from 0.8 on")
        elif name.lower() == "learningmodelogging":
            section["learningMode"] = True
            reason = "reserved from 0.8 on; learningMode says the same"
            up.lose(pointer, name, reason, Severity.DROPPED_DEFAULT)
        elif name.lower() == "permissivelearningmode":
            up.lose(pointer, name, "reserved from 0.8 on: it would open the sandbox")
        else:
            kept.append(name)
    if len(kept) != len(names):
        section["capabilities"] = kept
    peer: str | None = section.get("network", {}).get("allowedProxyPeer")
    if peer is not None and not peer.strip():
        del section["network"]["allowedProxyPeer"]


# --- 0.9-dev → 0.9.0-alpha ------------------------------------------------------------------------


def _leave_experimental(up: Upgrade) -> None:
    body = up.body
    if "correlationVector" in body:
        up.lose("/correlationVector", body.pop("correlationVector"), _WITHDRAWN)
    seatbelt: dict[str, Any] = body.get("seatbelt", {})
    if "launchMethod" in seatbelt:
        method = seatbelt.pop("launchMethod")
        severity = Severity.DROPPED_DEFAULT if method == "exec" else Severity.LOSSY
        up.lose("/seatbelt/launchMethod", method, _WITHDRAWN, severity)
    experimental: dict[str, Any] | None = body.get("experimental")
    if not experimental:
        return
    if "telemetry" in experimental:
        body["telemetry"] = experimental.pop("telemetry")
        up.moved("/telemetry", "/experimental/telemetry")
    _promote_wslc(up, experimental)
    _promote_isolation_session(up, experimental)


def _promote_wslc(up: Upgrade, experimental: dict[str, Any]) -> None:
    phase = up.body.get("phase")
    if "wslc" not in experimental or phase not in {None, "provision"}:
        return
    section: dict[str, Any] = experimental.pop("wslc")
    up.moved("/wslc", "/experimental/wslc")
    if phase == "provision":
        _keep_only(
            up, section, "/wslc", ("provision",), "the provision request takes it under 'provision' only"
        )
        up.body["wslc"] = section
        return
    if "provision" in section:
        up.lose("/wslc/provision", section.pop("provision"), "belongs to the provision request")
    mappings: list[dict[str, Any]] = section.get("portMappings", [])
    for index, mapping in enumerate(mappings):
        if mapping.get("protocol") == "udp":
            up.lose(f"/wslc/portMappings/{index}", mapping, "only tcp ports can be mapped; it stays closed")
    if any(mapping.get("protocol") == "udp" for mapping in mappings):
        section["portMappings"] = [mapping for mapping in mappings if mapping.get("protocol") != "udp"]
    up.body["wslc"] = section


def _promote_isolation_session(up: Upgrade, experimental: dict[str, Any]) -> None:
    if "isolation_session" not in experimental or up.body.get("phase") != "provision":
        return
    section: dict[str, Any] = experimental.pop("isolation_session")
    up.moved("/isolationSession", "/experimental/isolation_session")
    _keep_only(up, section, "/isolationSession", ("provision",), _WITHDRAWN)
    if "provision" in section:
        _keep_only(up, section["provision"], "/isolationSession/provision", ("appId",), _WITHDRAWN)
    up.body["isolationSession"] = section


def _keep_only(
    up: Upgrade, section: dict[str, Any], pointer: str, fields: tuple[str, ...], reason: str
) -> None:
    for name in [name for name in section if name not in fields]:
        up.lose(f"{pointer}/{name}", section.pop(name), reason)


# --- 1.0.0 → 1.1.0-alpha --------------------------------------------------------------------------


def _give_root_places(up: Upgrade) -> None:
    """`windowsSandbox` and `test` get a place at the root; `systemSettings` becomes an enum."""
    body = up.body
    experimental: dict[str, Any] = body.pop("experimental", {})
    if body.get("phase") is None:
        for old, new in (("windows_sandbox", "windowsSandbox"), ("test", "test")):
            if old in experimental:
                body[new] = experimental.pop(old)
                up.moved(f"/{new}", f"/experimental/{old}")
    for name, value in experimental.items():
        up.lose(f"/experimental/{name}", value, "has no place in the newest shape for this kind of request")
    container_ui: dict[str, Any] = body.get("processContainer", {}).get("ui", {})
    settings = container_ui.get("systemSettings", "none")
    if settings not in _SYSTEM_SETTINGS:
        del container_ui["systemSettings"]
        up.lose("/processContainer/ui/systemSettings", settings, "not a known value; 'none' holds instead")


def _name_the_runtime(up: Upgrade) -> None:
    """Only 1.1 names a runtime, and means another one where it does not: before, it is Python."""
    if up.body.get("containment") == "hyperlight" and up.body.get("phase") in {None, "provision"}:
        up.body["hyperlight"] = {"runtime": "python"}


_LAST: tuple[Step, ...] = (_give_root_places,)
_STEPS_FROM: dict[str | None, tuple[Step, ...]] = {
    None: (
        _fold_aliases,
        _promote_seatbelt,
        _direct_network,
        _tidy_process_container,
        _leave_experimental,
        *_LAST,
        _name_the_runtime,
    ),
    "0.9.0-alpha": (_fold_aliases, *_LAST),
    "1.0.0": _LAST,
    "1.1.0-alpha": (),
}
