"""Device nodes that a group may open: now by their mode, at the next boot by a rule of udev's."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision, FileChange, Query, Rule, nothing_to_do, write_file
from mxc_ops.prep.rules.files import parents_of, prior_text, put_back

__all__ = ["RULES", "drop_in"]

_Node = Mapping[str, str] | None
_Texts = Mapping[str, str]
_GROUPS = "/etc/group"
_MODE = "660"
_WORKS = "works"


def drop_in(path: str) -> str:
    """Where udev finds our rule for a device; it comes after the distribution's own (udev(7))."""
    return f"/etc/udev/rules.d/90-mxc-ops-{path.rpartition('/')[2]}.rules"


def _queries(path: str, group: str) -> tuple[Query, ...]:
    del group
    return (
        Query("devices.Node", {"path": path}),
        Query("devices.Verdict", {"path": path}),
        Query("devices.Udev"),
        Query("files.Texts", {"paths": [drop_in(path), _GROUPS]}),
        Query("files.Existing", {"paths": parents_of(drop_in(path))}),
    )


def decide(
    node: _Node, verdict: str, udev: bool, texts: _Texts, existing: list[str], *, path: str, group: str
) -> Decision:
    """A device whose group may read and write, or everybody; nothing where it is of no use (host-prep.md §9).

    Parameters
    ----------
    node: ``{"kind", "mode" (octal), "group", "gid"}``; None where there is nothing.
    verdict: ``works``, why it does not, or "" when that cannot be told yet.
    udev: it makes the nodes here; without it nothing of ours outlasts a restart.
    """
    after = f"group {group}, mode {_MODE}"
    if node is None:
        return nothing_to_do(f"no {path} here")
    before = f"group {node['group']}, mode {node['mode']}"
    if not node["kind"].endswith(" device"):
        seen = f"{path} is a {node['kind']}"
        return Decision(seen, after, refusal=seen, fix=f"look at what it is for, then: rm -r {quote(path)}")
    if verdict not in ("", _WORKS):
        return nothing_to_do(f"{path} is here, but {verdict}")
    if _is_open_to(node, group):
        return nothing_to_do(before)
    rule = _rule(path, group) if udev else None
    lines = _members(texts.get(_GROUPS, ""))
    return Decision(
        before,
        f"{after}{f', kept by {drop_in(path)}' if udev else ''}",
        (
            *(() if group in lines else (_make(group),)),
            *((write_file(drop_in(path), rule),) if rule else ()),
            f"chgrp {quote(group)} {quote(path)} && chmod {_MODE} {quote(path)}",
        ),
        prior={
            "gid": node["gid"],
            "mode": node["mode"],
            "had_group": group in lines,
            **prior_text(texts.get(drop_in(path)), drop_in(path), existing),
        },
        made={"mode": _MODE, "text": rule},
        files=(FileChange(drop_in(path), texts.get(drop_in(path)), rule),) if rule else (),
        notice="; ".join(_remarks(verdict, udev)),
    )


def _is_open_to(node: Mapping[str, str], group: str) -> bool:
    mode = int(node["mode"], 8)
    return mode & 0o006 == 0o006 or (node["group"] == group and mode & 0o060 == 0o060)


def _rule(path: str, group: str) -> str:
    name = path.rpartition("/")[2]
    return f'# mxc-ops prep host\nKERNEL=="{name}", GROUP="{group}", MODE="0{_MODE}"\n'


def _remarks(verdict: str, udev: bool) -> list[str]:
    remarks = (
        [] if verdict else ["left alone if no guest boots with it, which is tried as soon as QEMU is there"]
    )
    return remarks if udev else [*remarks, "there is no udev here, so it lasts until the next boot only"]


def _members(groups: str) -> dict[str, str]:
    """Group → its members, as group(5) lists them."""
    lines = (line.split(":") for line in groups.splitlines())
    return {fields[0]: fields[3] for fields in lines if len(fields) == 4}


def _make(group: str) -> str:
    name = quote(group)
    return f"if command -v groupadd >/dev/null; then groupadd -r {name}; else addgroup -S {name}; fi"


def _unmake(group: str) -> str:
    name = quote(group)
    return f"if command -v groupdel >/dev/null; then groupdel {name}; else delgroup {name}; fi"


def reverse(
    node: _Node,
    verdict: str,
    udev: bool,
    texts: _Texts,
    existing: list[str],
    *,
    path: str,
    group: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The device's earlier group and mode, the earlier rule of udev's, and no group that was made for it."""
    del verdict, udev, existing
    commands: list[str] = []
    drifted: list[str] = []
    text = texts.get(drop_in(path))
    if text != prior["text"]:
        commands += put_back(drop_in(path), prior)
        drifted += [] if text == made["text"] else [f"{drop_in(path)} is no longer what we made it"]
    if node is not None and (node["gid"], node["mode"]) != (prior["gid"], prior["mode"]):
        commands.append(f"chgrp {prior['gid']} {quote(path)} && chmod {prior['mode']} {quote(path)}")
        if (node["group"], node["mode"]) != (group, made["mode"]):
            drifted.append(f"{path} is now of group {node['group']}, mode {node['mode']}")
    members = _members(texts.get(_GROUPS, ""))
    if not prior["had_group"] and group in members:
        commands.append(_unmake(group))
        drifted += [f"{members[group]} joined the group {group}"] if members[group] else []
    if not commands:
        return nothing_to_do("as before")
    return Decision(
        f"group {node['group']}, mode {node['mode']}" if node else f"no {path} here",
        "as before",
        tuple(commands),
        refusal="; ".join(drifted),
        files=() if text == prior["text"] else (FileChange(drop_in(path), text, prior["text"]),),
    )


RULES = {"accessible": Rule(_queries, decide, reverse)}
