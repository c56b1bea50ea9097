"""Packages of the distribution, through its own package manager.

What an installation brings along cannot be foretold, so it is measured, by the list of packages before and
after. The way back removes exactly what was added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.package_managers import IMAGE_BASED, MANAGERS, joined

__all__ = ["MANAGERS", "RULES"]

DEADLINE_S = 900
# A last "-" tells apt-get to remove what is named before it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:_-]*(?<!-)")
_UNPURGED = "config-files"
"""The version of a package of Debian's that was removed, but whose configuration was kept."""


def _queries(packages: Sequence[str], family: str) -> tuple[Query, ...]:
    return (
        Query("packages.Missing", {"packages": list(packages), "family": family}),
        Query("packages.Tool", {"family": family}),
    )


def decide(missing: Sequence[str], tool: str, *, packages: Sequence[str], family: str) -> Decision:
    """Packages through the family's manager.

    Parameters
    ----------
    missing: those of `packages` that are not installed.
    tool: the program that installs packages here, "" when there is none.
    """
    after = f"{' '.join(packages)} installed"
    if not missing:
        return nothing_to_do(after)
    before = f"{' '.join(missing)} not installed"
    refusal, fix = _obstacle(missing, tool, family)
    if refusal:
        return Decision(before, after, refusal=refusal, fix=fix)
    return Decision(
        before,
        after,
        MANAGERS[family].install(tool, missing),
        made={"asked": list(missing)},
        deadline_s=DEADLINE_S,
    )


def _obstacle(missing: Sequence[str], tool: str, family: str) -> tuple[str, str]:
    """Why these packages cannot be installed, and what to do about that."""
    names = " ".join(missing)
    wrong = [name for name in missing if not _NAME.fullmatch(name)]
    if wrong:
        return (
            f"no names of packages: {' '.join(wrong)}",
            "correct the names in the deploy that asks for them",
        )
    if family not in MANAGERS:
        return f"no package manager of a family {family!r} is known", f"install by hand: {names}"
    if tool in IMAGE_BASED:
        why = f"/usr is an image here: {tool} installs packages into the next one, which takes a restart"
        return why, IMAGE_BASED[tool].format(names=joined(missing))
    if not tool:
        return f"not found: {', '.join(MANAGERS[family].tools)}", f"install by hand: {names}"
    return "", ""


def _snapshot(packages: Sequence[str], family: str) -> str:
    del packages
    return MANAGERS[family].listing if family in MANAGERS else ""


def _measured(packages: Sequence[str], family: str) -> Mapping[str, str]:
    """Names that are new, names that are gone, and versions.

    A version that has changed, of a package that was there before, is told as ``NAME OLD NEW``.
    """
    del packages
    if family not in MANAGERS:
        return {}
    listing, name = MANAGERS[family].listing, "s/ .*//"
    earlier = f"sed '{name}p' \"$receipt.before\""
    # What one list has twice, and the other not at all, is no single line of both together.
    added = f"{{ {earlier}; {listing} | sed '{name}' | sort -u; }} | sort | uniq -u"
    gone = f"{{ {listing} | sed '{name}p'; sed '{name}' \"$receipt.before\" | sort -u; }} | sort | uniq -u"
    pairs = (
        "sed -e 's/^\t\\([^ ]*\\) /\\1 2 /' -e t -e 's/ / 1 /' | sort"
        " | sed -n -e '$!N' -e 's/^\\([^ ]*\\) 1 \\(.*\\)\\n\\1 2 \\(.*\\)$/\\1 \\2 \\3/p' -e D"
    )
    changed = f'{listing} | comm -3 "$receipt.before" - | {pairs}'
    return {"added": added, "removed": gone, "upgraded": changed}


def _split(made: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """What was added; what was there before by its configuration alone; what got another version."""
    added = [str(name) for name in made.get("added", [])]
    changed = [str(line).split(" ") for line in made.get("upgraded", [])]
    # What somebody removed and we added once more has its configuration from our first time.
    kept = [name for name, old, _ in changed if old == _UNPURGED and name not in added]
    return added, kept, [f"{name} {old} → {new}" for name, old, new in changed if old != _UNPURGED]


def _reverse_queries(
    *, packages: Sequence[str], family: str, prior: Mapping[str, Any], made: Mapping[str, Any]
) -> tuple[Query, ...]:
    del packages, prior
    added, kept, _ = _split(made)
    ours, asked = [*added, *kept], made.get("asked", [])
    # What came along with ours is not marked as asked for: that is what others installed at the same time.
    brought = [name for name in ours if name not in asked]
    virtual = [name for name in asked if name not in ours]
    return (
        Query("packages.Removal", {"packages": added, "kept": kept, "family": family}),
        Query("packages.Wanted", {"packages": brought, "virtual": virtual, "family": family}),
    )


def reverse(
    removal: Sequence[str],
    wanted: Sequence[str],
    *,
    packages: Sequence[str],
    family: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Decision:
    """Every package that was added is removed, with its configuration; nothing that was there before.

    Parameters
    ----------
    removal: those of ours that are there, and all that must go with them.
    wanted: those that came along with ours, or at the same time, and that somebody else has asked for.
    made: ``asked``, and what was measured; ``together``: what goes with other receipts at the same time.
    """
    del packages, prior
    added, kept, upgraded = _split(made)
    there = [name for name in removal if name in {*added, *kept}]
    if not there:
        return nothing_to_do("not installed, as before")
    others = [name for name in removal if name not in there]
    needing = [name for name in others if name not in made.get("together", [])]
    drift = [
        *([f"needed by what was installed since: {' '.join(needing)}"] if needing else []),
        *([f"asked for by somebody else: {' '.join(wanted)}"] if wanted else []),
    ]
    stays = [f"{line} is not taken back" for line in upgraded]
    stays += [f"{name}, which was replaced, does not come back" for name in made.get("removed", [])]
    return Decision(
        f"{' '.join(there)} installed",
        "not installed, as before",
        MANAGERS[family].remove(
            [name for name in there if name in added], [name for name in there if name in kept], others
        ),
        refusal="; ".join(drift),
        notice="; ".join(stays),
        deadline_s=DEADLINE_S,
    )


RULES = {"installed": Rule(_queries, decide, reverse, _snapshot, _measured, _reverse_queries)}
