"""Networks and storage pools of the host's own libvirt.

Ours are told by the UUID that their definition gives: a drifted one of ours is mended, another's is never
redefined. Everything is done on the host, by `backends.vm.libvirt_objects`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import join, quote
from typing import Any

from backends.vm.on_host import OBJECTS, SYSTEM, command
from mxc_ops.prep.decision import FORGET, Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.files import parents_of, remove_empty

__all__ = ["NETWORK", "POOL", "RULES", "Object", "look"]

_Seen = Mapping[str, Any]
_WANTED = "active, started with libvirt"
_MODE = "0711"  # as libvirt gives to its own: a guest's QEMU reaches its volume, and lists nothing


@dataclass(frozen=True)
class Object:
    """A kind of object: its name in requests and in messages, its virsh(1) subcommands' prefix."""

    kind: str
    virsh: str


NETWORK = Object("network", "net")
POOL = Object("pool", "pool")


def look(kind: Object, name: str, xml: str, uri: str) -> str:
    """A command that prints what there is of that name, as one JSON document. It changes nothing."""
    return _script(kind, name, xml, uri, action="look")


def _script(kind: Object, name: str, xml: str, uri: str, **request: Any) -> str:
    return join(command(OBJECTS, {"kind": kind.kind, "name": name, "xml": xml, "uri": uri, **request}))


def _network_queries(network: str, xml: str, uri: str = SYSTEM) -> tuple[Query, ...]:
    return (Query("libvirt.Network", {"network": network, "xml": xml, "uri": uri}),)


def decide_network(seen: _Seen, *, network: str, xml: str, uri: str = SYSTEM) -> Decision:
    """A virtual network (libvirt: formatnetwork.html) defined, active and started with libvirt.

    Parameters
    ----------
    seen: see `mxc_ops.prep.facts.libvirt.Network`.
    xml: its definition, with a UUID of our own.
    uri: of the host's own connection.
    """
    return _decide(NETWORK, seen, network, xml, uri)


def _decide(kind: Object, seen: _Seen, name: str, xml: str, uri: str) -> Decision:
    state = _state(seen)
    have = (_script(kind, name, xml, uri, action="have"),)
    unread = "error" in seen
    if unread or not seen["defined"]:
        return Decision(state, _WANTED, have, prior={"defined": False}, made={"xml": xml}, unread=unread)
    differs: Sequence[str] = seen["differs"]
    if differs and not seen["ours"]:
        return Decision(
            state,
            _WANTED,
            refusal=f"a {kind.kind} {name} was here before us, and differs: {'; '.join(differs)}",
            fix="if nobody needs it: "
            + "; ".join(_virsh(uri, kind, action, name) for action in ("destroy", "undefine")),
        )
    if differs and seen["running"]:
        return Decision(
            state,
            _WANTED,
            refusal=f"{kind.kind} {name} must be started anew, and is used by {', '.join(seen['running'])}",
            fix=_release(kind, uri, name),
        )
    if differs or not seen["active"] or not seen["autostart"]:
        prior = {"defined": not seen["ours"], "active": seen["active"], "autostart": seen["autostart"]}
        return Decision(state, _WANTED, have, prior=prior, made={"xml": xml})
    return nothing_to_do(state)


def _state(seen: _Seen) -> str:
    """For people, one line."""
    if "error" in seen:
        return f"libvirt does not answer: {seen['error']}"
    if not seen["defined"]:
        return "not defined"
    active = "active" if seen["active"] else "not active"
    started = "started with libvirt" if seen["autostart"] else "not started with libvirt"
    whose = "" if seen["ours"] else ", not of our making"
    return "; ".join(seen["differs"]) or f"{active}, {started}{whose}"


def _virsh(uri: str, kind: Object, action: str, name: str) -> str:
    return f"virsh -c {quote(uri)} {kind.virsh}-{action} {quote(name)}"


def _release(kind: Object, uri: str, name: str) -> str:
    if kind is POOL:
        listing = f"virsh -c {quote(uri)} vol-list {quote(name)}"
        return f"look, and delete what nobody needs: {_virsh(uri, kind, 'refresh', name)}; {listing}"
    return f"end them: virsh -c {quote(uri)} shutdown NAME; or give them another network: virsh edit NAME"


def reverse_network(
    seen: _Seen,
    *,
    network: str,
    xml: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
    uri: str = SYSTEM,
) -> Decision:
    """Exactly ours gone; one that was there before us as active and as autostarted as it was."""
    del made
    return _reverse(NETWORK, seen, network, xml, uri, prior)


def _reverse(kind: Object, seen: _Seen, name: str, xml: str, uri: str, prior: Mapping[str, Any]) -> Decision:
    state = _state(seen)
    if "error" in seen:
        return Decision(
            state,
            "as before",
            (_script(kind, name, xml, uri, action="drop", despite=[]),),
            refusal=f"whether {kind.kind} {name} is in use cannot be told: {seen['error']}",
            fix="have libvirt and its Python module running again: "
            "mxc-ops prep host --backend vm --feature libvirt",
            unread=True,
        )
    if not seen["defined"]:
        return nothing_to_do("not defined, as before")
    if prior["defined"]:
        return _restore(kind, seen, name, xml, uri, prior)
    if not seen["ours"]:
        refusal = f"{kind.kind} {name} is not ours any more: another is defined under its name"
        fix = "leave it to its owner: the same command with --force removes only what is recorded of it"
        return Decision(state, "not defined, as before", (FORGET,), refusal=refusal, fix=fix)
    users = [f"used by {user}" for user in seen["users"]]
    why = [*seen["differs"], *users]
    return Decision(
        state,
        "not defined, as before",
        (_script(kind, name, xml, uri, action="drop", despite=list(seen["users"])),),
        refusal=f"{kind.kind} {name}: {'; '.join(why)}" if why else "",
        fix=_release(kind, uri, name) if users else "",
        in_use=bool(users) and not seen["differs"],
    )


def _restore(kind: Object, seen: _Seen, name: str, xml: str, uri: str, prior: Mapping[str, Any]) -> Decision:
    wanted = {state: prior[state] for state in ("active", "autostart")}
    if all(seen[state] == value for state, value in wanted.items()):
        return nothing_to_do(f"{_state(seen)}, as before")
    stops = seen["active"] and not wanted["active"]
    busy = ", ".join(seen["running"]) if stops else ""
    return Decision(
        _state(seen),
        _state({**seen, **wanted}),
        (_script(kind, name, xml, uri, action="restore", **wanted),),
        refusal=f"{kind.kind} {name} is used by {busy}" if busy else "",
        fix=_release(kind, uri, name) if busy else "",
        in_use=bool(busy),
    )


def _pool_queries(pool: str, path: str, xml: str, uri: str = SYSTEM) -> tuple[Query, ...]:
    existing = Query("files.Existing", {"paths": [path, *parents_of(path)]})
    return Query("libvirt.Pool", {"pool": pool, "xml": xml, "uri": uri}), existing


def decide_pool(
    seen: _Seen, existing: list[str], *, pool: str, path: str, xml: str, uri: str = SYSTEM
) -> Decision:
    """A storage pool in a directory (libvirt: formatstorage.html), defined, active and started with libvirt.

    Parameters
    ----------
    seen: see `mxc_ops.prep.facts.libvirt.Pool`.
    existing: of `path` and the directories above it, those that are there.
    path: the directory that `xml` names.
    """
    decision = _decide(POOL, seen, pool, xml, uri)
    if decision.refusal or path in existing:
        return decision
    have = decision.commands or (_script(POOL, pool, xml, uri, action="have"),)
    prior = decision.prior or {"defined": True, "active": True, "autostart": True}
    missing = [directory for directory in (path, *parents_of(path)) if directory not in existing]
    return Decision(
        f"{decision.before}; {path} is not there" if seen.get("defined", True) else decision.before,
        _WANTED,
        (f"umask 022 && mkdir -p {quote(path)} && chmod {_MODE} {quote(path)}", *have),
        prior=prior,
        made={"xml": xml, "directories": missing},
    )


def reverse_pool(
    seen: _Seen,
    existing: list[str],
    *,
    pool: str,
    path: str,
    xml: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
    uri: str = SYSTEM,
) -> Decision:
    """As for a network; the directories that were made for it go as far as they are empty."""
    decision = _reverse(POOL, seen, pool, xml, uri, prior)
    made_by_us: list[str] = made.get("directories", [])
    ours = sorted((directory for directory in made_by_us if directory in existing), key=len, reverse=True)
    if path not in ours or FORGET in decision.commands:
        return decision
    return replace(decision, commands=(*decision.commands, *remove_empty(ours)))


RULES = {
    "network": Rule(_network_queries, decide_network, reverse_network),
    "pool": Rule(_pool_queries, decide_pool, reverse_pool),
}
