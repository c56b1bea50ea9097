"""Ranges of uids and gids: ours for workloads, and subordinate ones for user namespaces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from shlex import quote
from typing import Any

from backends.linux.id_ranges import ID_FILES, overlaps
from mxc_ops.prep.decision import FORGET, Decision, FileChange, Query, Rule, nothing_to_do, write_file
from mxc_ops.prep.rules.files import parents_of, prior_text, restore_text

_Texts = Mapping[str, str]
_SUBORDINATE = ("/etc/subuid", "/etc/subgid")


def _range_queries(path: str, wanted: str) -> tuple[Query, ...]:
    del wanted
    texts = Query("files.Texts", {"paths": [path, *ID_FILES]})
    return texts, Query("files.Existing", {"paths": parents_of(path)})


def decide_range(seen: _Texts, existing: list[str], *, path: str, wanted: str) -> Decision:
    """Record the workload ids of this host, unless they belong to somebody.

    Parameters
    ----------
    seen: texts by path: of `path` and of the files that give out ids; absent files are missing.
    wanted: ``first:count``; a range that `path` records already is kept in its place.
    """
    first, count = (int(part) for part in wanted.split(":"))
    try:
        recorded: dict[str, object] = json.loads(seen.get(path, "{}"))
        kept = recorded.get("uidRange")
        if isinstance(kept, dict):
            first, count = int(kept["first"]), int(kept["count"])  # pyright: ignore[reportUnknownArgumentType] - ValueError or TypeError says the rest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Decision(
            "unreadable",
            wanted,
            refusal=f"{path} cannot be understood: {error}",
            fix=f"correct or remove {path}",
        )
    taken = overlaps(seen, first, count)
    if taken:
        return Decision(
            f"ids {first} to {first + count - 1} are given to others",
            f"a range of {count} ids of our own",
            refusal="; ".join(taken),
            fix=f'write a free range to {path}: {{"uidRange": {{"first": N, "count": {count}}}}}',
        )
    after = f"ids {first} to {first + count - 1}"
    if recorded.get("uidRange") is not None:
        return nothing_to_do(after)
    content = {"schemaVersion": 1, **recorded, "uidRange": {"first": first, "count": count}}
    text = json.dumps(content, indent=2) + "\n"
    return Decision(
        "none recorded",
        after,
        (write_file(path, text),),
        prior=prior_text(seen.get(path), path, existing),
        made={"text": text},
        files=(FileChange(path, seen.get(path), text),),
    )


def reverse_range(
    seen: _Texts,
    existing: list[str],
    *,
    path: str,
    wanted: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """The earlier file, or none."""
    del existing, wanted
    return restore_text(seen.get(path), path=path, prior=prior, made=made)


def _subordinate_queries(user: str, count: int) -> tuple[Query, ...]:
    del user, count
    return (Query("files.Texts", {"paths": list(ID_FILES)}),)


def decide_subordinate(seen: _Texts, *, user: str, count: int) -> Decision:
    """A range of `count` subordinate uids and gids for a user, in subuid(5) and subgid(5).

    A range that is given to nobody else is chosen: the first free one from 100000 on, as useradd(8) does.
    """
    wanted = f"{count} subordinate ids for {user}"
    missing = [path for path in _SUBORDINATE if not _has_range(seen.get(path, ""), user, count)]
    if not missing:
        return nothing_to_do(wanted)
    first = _first_free(seen, count)
    if first is None:
        return Decision(
            "none",
            wanted,
            refusal=f"no {count} free ids below 2^31",
            fix=f"free a range in {' and '.join(_SUBORDINATE)}",
        )
    line = f"{user}:{first}:{count}"
    texts = {path: _with_line(seen.get(path), line) for path in missing}
    return Decision(
        f"none in {' and '.join(missing)}",
        f"{wanted}, from {first} on",
        tuple(_append(path, line) for path in missing),
        prior={"absent": [path for path in missing if path not in seen]},
        made={"lines": [line], "files": missing},
        files=tuple(FileChange(path, seen.get(path), text) for path, text in texts.items()),
    )


def _has_range(text: str, user: str, count: int) -> bool:
    ranges = [line.split(":") for line in text.splitlines()]
    return any(
        part[0] == user and part[2].isdigit() and int(part[2]) >= count for part in ranges if len(part) == 3
    )


def _first_free(seen: _Texts, count: int) -> int | None:
    first = 100_000
    while first + count < 1 << 31:
        if not overlaps(seen, first, count):
            return first
        first += 65_536
    return None


def _with_line(text: str | None, line: str) -> str:
    before = text or ""
    return before + ("" if not before or before.endswith("\n") else "\n") + line + "\n"


def reverse_subordinate(
    seen: _Texts, *, user: str, count: int, prior: Mapping[str, Any], made: Mapping[str, Any]
) -> Decision:
    """Exactly our line taken out; a file that we made goes when nothing else is in it."""
    del count
    ours: list[str] = made["lines"]
    texts = {path: seen.get(path, "") for path in _SUBORDINATE}
    rest = {path: _without(text, ours) for path, text in texts.items()}
    touched = [path for path, text in texts.items() if not set(ours).isdisjoint(text.splitlines())]
    if not touched:
        changed = [path for path in made["files"] if _has_range(texts[path], user, 1)]
        if changed:
            missing = f"{' and '.join(changed)}: {' and '.join(ours)} is no longer there"
            return Decision(missing, "as before", (FORGET,), refusal=missing)
        return nothing_to_do("not there, as before")
    gone = {path for path in touched if not rest[path] and path in prior["absent"]}
    return Decision(
        " and ".join(ours),
        "not there, as before",
        tuple(_take_out(path, line, stays=path not in prior["absent"]) for path in touched for line in ours),
        files=tuple(FileChange(path, texts[path], None if path in gone else rest[path]) for path in touched),
    )


# These files are others' as much as ours: they may have changed since they were read, may be links, and may
# hold what is no UTF-8. So they are edited where they are, by this one line.
def _append(path: str, line: str) -> str:
    ended = 'test ! -s "$file" || test -z "$(tail -c 1 "$file")" || echo >> "$file"'
    present = f'LC_ALL=C grep -qxF -e {quote(line)} "$file" 2>/dev/null'
    add = f"printf '%s\\n' {quote(line)} >> \"$file\""
    return f"file=$(readlink -f {quote(path)}); {present} || {{ {ended}; {add}; }}"


def _take_out(path: str, line: str, *, stays: bool) -> str:
    rest = f'LC_ALL=C grep -vxF -e {quote(line)} "$file" > "$file.mxc-ops" || test $? = 1'
    tidy = "" if stays else '; test -s "$file" || rm -f "$file"'
    copied = 'cp -p "$file" "$file.mxc-ops"'
    return f'file=$(readlink -f {quote(path)}); {copied}; {rest}; mv -f "$file.mxc-ops" "$file"{tidy}'


def _without(text: str, ours: list[str]) -> str:
    return "".join(f"{line}\n" for line in text.splitlines() if line not in ours)


RULES = {
    "recorded_range": Rule(_range_queries, decide_range, reverse_range),
    "subordinate": Rule(_subordinate_queries, decide_subordinate, reverse_subordinate),
}
