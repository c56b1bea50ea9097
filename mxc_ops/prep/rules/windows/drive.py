"""Entries on the root of the system drive, by which app containers may look at it (host-prep.md §3).

Only entries equal in kind, flags, rights and trustee are ours; every other one is written again as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mxc_ops.prep.decision import Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.windows.common import FORGET, Seen, unreadable
from mxc_ops.prep.windows import descriptors, sddl
from mxc_ops.prep.windows.script import headed, quote
from mxc_ops.prep.windows.sddl import Acl, Entry

__all__ = ["RULE"]

_NAMES: Mapping[str, str] = {
    "S-1-15-2-1": "ALL APPLICATION PACKAGES",
    "S-1-15-2-2": "ALL RESTRICTED APPLICATION PACKAGES",
}
_ALLOWING = ("A", "XA", "OA")


def _queries(**_arguments: Any) -> tuple[Query, ...]:
    return (Query("windows.SystemDrive"),)


def _entry(sid: str, mask: str) -> Entry:
    return Entry("A", frozenset(), int(mask, 16), sid)


def decide(seen: Seen, *, sids: Sequence[str], mask: str) -> Decision:
    """One explicit entry for each trustee, that is not inherited further.

    Parameters
    ----------
    seen: see `facts.windows.SystemDrive`.
    mask: the rights, exactly, in hexadecimal.
    """
    wanted = [_entry(sid, mask) for sid in sids]
    after = "may be looked at by " + " and ".join(_called(sid) for sid in sids)
    if trouble := unreadable(seen, after):
        return trouble
    root: str = seen["root"]
    acl = _list(seen)
    if acl.entries is None:
        return Decision(
            "open to everybody",
            after,
            refusal=f"{root} has no access control list at all: an entry would shut everybody else out",
            fix=f"give it Windows' own: icacls {root} /reset",
        )
    conflicts = _others(acl, sids, mask)
    if conflicts:
        found = " ".join(entry.text for entry in conflicts)
        trustees = " ".join(f"*{sid}" for sid in sids if any(entry.sid == sid for entry in conflicts))
        return Decision(
            found,
            after,
            refusal=f"{root} has another entry for {_called(conflicts[0].sid)}: {found}",
            fix=f"see what needs it: icacls {root}, then: icacls {root} /remove:g {trustees}",
        )
    missing = [entry for entry in wanted if entry not in acl.explicit()]
    if not missing:
        return nothing_to_do(after)
    first_inherited = sum(not entry.inherited for entry in acl.entries)
    entries = [*acl.entries[:first_inherited], *missing, *acl.entries[first_inherited:]]
    return Decision(
        "no entry for " + " and ".join(_called(entry.sid) for entry in missing),
        after,
        (_write(seen, acl, entries, add=missing),),
        prior={"sddl": seen["sddl"]},
        made={"entries": [entry.format() for entry in missing]},
    )


def _list(seen: Seen) -> Acl:
    return sddl.parse(seen["sddl"]).dacl or Acl(entries=None)


def _others(acl: Acl, sids: Sequence[str], mask: str) -> list[Entry]:
    """Entries that a further one would be merged with, so that it could not be taken away again."""
    return [
        entry
        for entry in acl.explicit()
        if entry.sid in sids and entry.kind in _ALLOWING and entry != _entry(entry.sid, mask)
    ]


def _called(sid: str) -> str:
    return f"{_NAMES[sid]} ({sid})" if sid in _NAMES else sid


def _write(
    seen: Seen, acl: Acl, entries: Sequence[Entry], add: Sequence[Entry] = (), remove: Sequence[Entry] = ()
) -> str:
    wanted = f"D:{acl.write_again(entries)}"
    body = descriptors.write(quote(seen["root"]), descriptors.DACL_ONLY, wanted, expected=seen["sddl"])
    return headed(
        "write-system-drive",
        body,
        sddl=wanted,
        add=[entry.format() for entry in add],
        remove=[entry.format() for entry in remove],
    )


def reverse(
    seen: Seen, *, sids: Sequence[str], mask: str, prior: Mapping[str, Any], made: Mapping[str, Any]
) -> Decision:
    """Our entries gone, every other one as it is."""
    del prior
    if trouble := unreadable(seen, "as before"):
        return trouble
    acl = _list(seen)
    ours = [entry for text in made["entries"] for entry in sddl.parse(f"D:{text}").dacl.entries or ()]  # pyright: ignore[reportOptionalMemberAccess] - a list was parsed
    present = [entry for entry in acl.entries or () if entry in ours]
    others = [entry for entry in _others(acl, sids, mask) if entry.sid in {mine.sid for mine in ours}]
    if not present and not others:
        return nothing_to_do("without our entries, as before")
    kept = [entry for entry in acl.entries or () if entry not in ours]
    difference = " ".join(entry.text for entry in others)
    return Decision(
        " ".join(entry.text for entry in [*present, *others]),
        "without our entries, as before",
        (_write(seen, acl, kept, remove=present) if present else FORGET,),
        refusal=f"{seen['root']} has an entry that we did not make: {difference}" if others else "",
        fix="with --force what is left of our own is removed, and this stays" if others else "",
    )


RULE = Rule(_queries, decide, reverse)
