"""Device nodes that a group, or everybody, may open: now by their mode, at a boot by a rule of udev's."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision, FileChange, Query, Rule, nothing_to_do, write_file
from mxc_ops.prep.rules.files import parents_of, prior_text, put_back

__all__ = ["KVM", "RULES", "WORKS", "drop_in"]

_Node = Mapping[str, str] | None
_Texts = Mapping[str, str]
KVM = "/dev/kvm"
WORKS = "works"
_GROUPS = "/etc/group"


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
    """A device that a group's members may read and write; left alone where it is of no use (host-prep.md §9).

    Parameters
    ----------
    group: "" stands for everybody, who then may.
    node: ``{"kind", "mode" (octal), "group", "gid"}``; None where there is nothing.
    verdict: ``works``, why it does not, or "" when that cannot be told yet.
    udev: it makes the nodes here; without it nothing of ours outlasts a restart.
    """
    mode = _mode(group)
    after = f"group {group}, mode {mode}" if group else f"mode {mode}"
    if node is None:
        return nothing_to_do(f"no {path} here")
    before = f"group {node['group']}, mode {node['mode']}"
    if not node["kind"].endswith(" device"):
        seen = f"{path} is a {node['kind']}"
        return Decision(seen, after, refusal=seen, fix=f"look at what it is for, then: rm -r {quote(path)}")
    if verdict not in ("", WORKS):
        return nothing_to_do(f"{path} is here, but {verdict}")
    if _is_open_to(node, group):
        return nothing_to_do(before)
    rule = _rule(path, group) if udev else None
    lines = _members(texts.get(_GROUPS, ""))
    return Decision(
        before,
        f"{after}{f', kept by {drop_in(path)}' if udev else ''}",
        (
            *((_make(group),) if group and group not in lines else ()),
            *((write_file(drop_in(path), rule),) if rule else ()),
            _set(group, mode, path),
        ),
        prior={
            "gid": node["gid"],
            "mode": node["mode"],
            "had_group": not group or group in lines,
            **prior_text(texts.get(drop_in(path)), drop_in(path), existing),
        },
        made={"group": group or node["group"], "mode": mode, "text": rule},
        files=(FileChange(drop_in(path), texts.get(drop_in(path)), rule),) if rule else (),
        notice="; ".join(_remarks(path, verdict, udev)),
    )


def _is_open_to(node: Mapping[str, str], group: str) -> bool:
    mode = int(node["mode"], 8)
    return mode & 0o006 == 0o006 or (node["group"] == group and mode & 0o060 == 0o060)


def _mode(group: str) -> str:
    return "660" if group else "666"


def _set(group: str, mode: str, path: str) -> str:
    return f"{f'chgrp {quote(group)} {quote(path)} && ' if group else ''}chmod {mode} {quote(path)}"


def _rule(path: str, group: str) -> str:
    name = path.rpartition("/")[2]
    owner = f'GROUP="{group}", ' if group else ""
    return f'# mxc-ops prep host\nKERNEL=="{name}", {owner}MODE="0{_mode(group)}"\n'


def _remarks(path: str, verdict: str, udev: bool) -> list[str]:
    remarks: list[str] = []
    if path == KVM and not verdict:
        remarks.append("left alone if no guest boots with it, which is tried as soon as QEMU is there")
    if not udev:
        remarks.append("there is no udev here, so it lasts until the next boot only")
    return remarks


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
    # The node goes back before the rule: one that stayed open without a rule is drift, not half a way back.
    if node is not None and (node["gid"], node["mode"]) != (prior["gid"], prior["mode"]):
        commands.append(_set(prior["gid"], prior["mode"], path))
        if (node["group"], node["mode"]) != (made["group"], made["mode"]):
            drifted.append(f"{path} is now of group {node['group']}, mode {node['mode']}")
        elif made["text"] is not None and text == prior["text"]:
            drifted.append(f"{drop_in(path)} is gone, so that it lasts until the next start only")
    if text != prior["text"]:
        commands += put_back(drop_in(path), prior)
        drifted += [] if text == made["text"] else [f"{drop_in(path)} is no longer what we made it"]
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
