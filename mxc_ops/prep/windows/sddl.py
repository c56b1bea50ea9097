"""Security descriptors as text, parsed into sets, so that order and spelling do not matter.

Windows prints ``GXGR`` where ``GRGX`` was written, a name where a number was written, and file rights where
generic ones were written; comparing texts would find differences that are none. Grammar: Microsoft, "Security
Descriptor String Format" and "ACE Strings".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["Acl", "Descriptor", "Entry", "as_file_rights", "differences", "parse"]


def _table(text: str) -> Mapping[str, str]:
    return dict(pair.split("=", 1) for pair in text.split())


def _numbers(text: str) -> Mapping[str, int]:
    return {name: int(value, 16) for name, value in _table(text).items()}


GENERIC_READ, GENERIC_WRITE, GENERIC_EXECUTE, GENERIC_ALL = 0x80000000, 0x40000000, 0x20000000, 0x10000000
_FILE_RIGHTS: Mapping[int, int] = {
    GENERIC_READ: 0x120089,
    GENERIC_WRITE: 0x120116,
    GENERIC_EXECUTE: 0x1200A0,
    GENERIC_ALL: 0x1F01FF,
}
_RIGHTS = _numbers(
    "GR=0x80000000 GW=0x40000000 GX=0x20000000 GA=0x10000000 RC=0x20000 SD=0x10000 WD=0x40000 WO=0x80000 "
    "CC=0x1 DC=0x2 LC=0x4 SW=0x8 RP=0x10 WP=0x20 DT=0x40 LO=0x80 CR=0x100 FA=0x1f01ff FR=0x120089 "
    "FW=0x120116 FX=0x1200a0 KA=0xf003f KR=0x20019 KW=0x20006 KX=0x20019"
)
# Of mandatory labels; NW and NR mean nothing elsewhere.
_LABEL_RIGHTS = _numbers("NW=0x1 NR=0x2 NX=0x4")
_SIDS: Mapping[str, str] = _table(
    "WD=S-1-1-0 CO=S-1-3-0 CG=S-1-3-1 OW=S-1-3-4 NU=S-1-5-2 IU=S-1-5-4 SU=S-1-5-6 AN=S-1-5-7 ED=S-1-5-9 "
    "PS=S-1-5-10 AU=S-1-5-11 RC=S-1-5-12 SY=S-1-5-18 LS=S-1-5-19 NS=S-1-5-20 WR=S-1-5-33 AC=S-1-15-2-1 "
    "BA=S-1-5-32-544 BU=S-1-5-32-545 BG=S-1-5-32-546 PU=S-1-5-32-547 AO=S-1-5-32-548 SO=S-1-5-32-549 "
    "PO=S-1-5-32-550 BO=S-1-5-32-551 RE=S-1-5-32-552 RU=S-1-5-32-554 RD=S-1-5-32-555 NO=S-1-5-32-556 "
    "MU=S-1-5-32-558 LU=S-1-5-32-559 IS=S-1-5-32-568 CY=S-1-5-32-569 ER=S-1-5-32-573 RA=S-1-5-32-575 "
    "ES=S-1-5-32-576 MS=S-1-5-32-577 HA=S-1-5-32-578 AA=S-1-5-32-579 RM=S-1-5-32-580 LW=S-1-16-4096 "
    "ME=S-1-16-8192 MP=S-1-16-8448 HI=S-1-16-12288 SI=S-1-16-16384 AS=S-1-18-1 SS=S-1-18-2 "
    "UD=S-1-5-84-0-0-0-0-0"
)
_INHERITED = "ID"
_NO_ACCESS_CONTROL = "NO_ACCESS_CONTROL"


@dataclass(frozen=True)
class Entry:
    """One entry of an access control list. Two are equal when they mean the same, however they are written.

    Parameters
    ----------
    kind: ``A`` allow, ``D`` deny, ``ML`` mandatory label, and so on.
    flags: of inheritance, such as ``OI`` and ``CI``.
    mask: the access rights as a number.
    sid: whom it is about, as ``S-1-…``; an abbreviation that depends on a domain stays one.
    rest: what object and conditional entries have besides, as written.
    text: as written, for putting it back unchanged.
    """

    kind: str
    flags: frozenset[str]
    mask: int
    sid: str
    rest: tuple[str, ...] = ()
    text: str = field(default="", compare=False)

    @property
    def inherited(self) -> bool:
        return _INHERITED in self.flags

    def format(self) -> str:
        """As text, in one spelling."""
        guids, condition = self.rest[:2] or ("", ""), self.rest[2:]
        flags = "".join(sorted(self.flags))
        return f"({';'.join([self.kind, flags, hex(self.mask), *guids, self.sid, *condition])})"


@dataclass(frozen=True)
class Acl:
    """An access control list.

    Parameters
    ----------
    flags: ``P``, ``AI``, ``AR``.
    entries: in order; None: there is no list, and everybody may do everything.
    """

    flags: frozenset[str] = frozenset()
    entries: tuple[Entry, ...] | None = ()

    def as_set(self) -> frozenset[Entry] | None:
        return None if self.entries is None else frozenset(self.entries)

    def explicit(self) -> list[Entry]:
        """Those that stand in this very list, not taken over from above."""
        return [entry for entry in self.entries or () if not entry.inherited]

    def write_again(self, entries: Iterable[Entry]) -> str:
        """A list with the flags of this one and other entries, each as it was written.

        ``AR`` asks the kernel to keep ``AI``, which it otherwise drops (RtlSetSecurityObject).
        """
        flags = self.flags | {"AR"} if "AI" in self.flags else self.flags
        ordered = "".join(flag for flag in ("P", "AR", "AI") if flag in flags)
        return ordered + "".join(entry.text or entry.format() for entry in entries)


@dataclass(frozen=True)
class Descriptor:
    """Parts that are not in the text are None."""

    owner: str | None = None
    group: str | None = None
    dacl: Acl | None = None
    sacl: Acl | None = None

    def format(self) -> str:
        """As text, in one spelling."""
        parts = [f"O:{self.owner}" if self.owner else "", f"G:{self.group}" if self.group else ""]
        for letter, acl in (("D", self.dacl), ("S", self.sacl)):
            if acl is not None:
                flags = "".join(sorted(acl.flags))
                entries = "".join(entry.format() for entry in acl.entries or ())
                parts.append(f"{letter}:{flags}{_NO_ACCESS_CONTROL if acl.entries is None else entries}")
        return "".join(parts)


def parse(text: str) -> Descriptor:
    """A security descriptor from its text. Raises `ValueError`, naming the part that cannot be understood."""
    owner = group = None
    dacl = sacl = None
    for letter, body in _parts(text):
        match letter:
            case "O":
                owner = _sid(body)
            case "G":
                group = _sid(body)
            case "D":
                dacl = _acl(body)
            case _:
                sacl = _acl(body)
    return Descriptor(owner, group, dacl, sacl)


def as_file_rights(entry: Entry) -> Entry:
    """An entry as files and devices keep it: generic rights become those that they stand for there.

    An entry that is only inherited (``IO``) keeps them: they are replaced where it arrives.
    """
    if "IO" in entry.flags or entry.kind == "ML":
        return entry
    mask = entry.mask
    for generic, rights in _FILE_RIGHTS.items():
        if mask & generic:
            mask = mask & ~generic | rights
    return Entry(entry.kind, entry.flags, mask, entry.sid, entry.rest)


def differences(seen: Descriptor, wanted: Descriptor) -> list[str]:
    """How a device's descriptor differs from the wanted one, in wxc-host-prep's labels (host-prep.md §3)."""
    pairs = {
        "owner-differs": (seen.owner, wanted.owner),
        "group-differs": (seen.group, wanted.group),
        "dacl-differs": (_rights(seen.dacl), _rights(wanted.dacl)),
        "sacl-differs": (_rights(seen.sacl or Acl()), _rights(wanted.sacl or Acl())),
    }
    return [label for label, (found, target) in pairs.items() if found != target]


def _rights(acl: Acl | None) -> frozenset[Entry] | None:
    entries = acl.as_set() if acl else None
    return None if entries is None else frozenset(as_file_rights(entry) for entry in entries)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """``O:…``, ``G:…``, ``D:…`` and ``S:…``; letters inside of parentheses begin nothing."""
    starts = [place for place, depth in _depths(text) if not depth and re.match(r"[OGDS]:", text[place:])]
    if text and (not starts or starts[0] != 0):
        raise ValueError(f"no security descriptor: {text!r}")
    for start, end in zip(starts, [*starts[1:], len(text)], strict=False):
        yield text[start], text[start + 2 : end]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """Each place with the number of parentheses around it; those in quoted strings do not count."""
    depth, quoted = 0, False
    for place, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == ")" and not quoted:
            depth -= 1
        yield place, depth
        if letter == "(" and not quoted:
            depth += 1
    if depth or quoted:
        raise ValueError(f"a parenthesis or a quote is not closed: {text!r}")


def _acl(text: str) -> Acl:
    head, _, _ = text.partition("(")
    if head.endswith(_NO_ACCESS_CONTROL):
        return Acl(_acl_flags(head.removesuffix(_NO_ACCESS_CONTROL)), None)
    body = text[len(head) :]
    closing = [place + 1 for place, depth in _depths(body) if not depth and body[place] == ")"]
    entries = (
        [body[start:end] for start, end in zip([0, *closing[:-1]], closing, strict=True)] if body else []
    )
    return Acl(_acl_flags(head), tuple(_entry(entry) for entry in entries))


def _acl_flags(text: str) -> frozenset[str]:
    flags = re.findall("P|AR|AI", text)
    if "".join(flags) != text:
        raise ValueError(f"no flags of an access control list: {text!r}")
    return frozenset(flags)


def _entry(text: str) -> Entry:
    fields = text[1:-1].split(";", 6)
    if not text.startswith("(") or len(fields) < 6:
        raise ValueError(f"no entry of an access control list: {text!r}")
    kind, flags, rights, *rest = fields
    object_kind, inherited_kind, sid, *condition = rest
    beside = (object_kind, inherited_kind, *condition)
    return Entry(
        kind,
        frozenset(_pairs(flags, text)),
        _mask(rights, kind, text),
        _sid(sid),
        beside if any(beside) else (),
        text,
    )


def _pairs(text: str, where: str) -> list[str]:
    if len(text) % 2:
        raise ValueError(f"{text!r} in {where!r} is not made of abbreviations")
    return [text[place : place + 2] for place in range(0, len(text), 2)]


def _mask(text: str, kind: str, where: str) -> int:
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
        return int(text, 16)
    if text.isdigit():
        return int(text, 8 if text.startswith("0") else 10)
    mask = 0
    for name in _pairs(text, where):
        rights = (_LABEL_RIGHTS if kind == "ML" else _RIGHTS).get(name)
        if rights is None:
            raise ValueError(f"{name!r} in {where!r} is no access right")
        mask |= rights
    return mask


def _sid(text: str) -> str:
    if text in _SIDS:
        return _SIDS[text]
    if not re.fullmatch(r"S-1-[0-9A-Fx-]+|[A-Z]{2}", text):
        raise ValueError(f"{text!r} is no security identifier")
    return text
