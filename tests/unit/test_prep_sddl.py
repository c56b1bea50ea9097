"""Security descriptors as text: what means the same is equal, and what is there is not lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.processcontainer.needs import NULL_DEVICE
from mxc_ops.prep.windows import sddl
from mxc_ops.prep.windows.sddl import Acl, Descriptor, Entry, as_file_rights, differences, parse

# What Windows prints of the null device once the target has been set.
AS_WINDOWS_PRINTS_IT = (
    "O:BAG:SYD:(A;;0x1201bf;;;WD)(A;;FA;;;SY)(A;;FA;;;BA)(A;;0x1200a9;;;RC)(A;;0x1201bf;;;AC)"
    "(A;;0x1201bf;;;S-1-15-2-2)S:(ML;;NW;;;LW)"
)

_sids = st.one_of(
    st.sampled_from(["WD", "SY", "BA", "AC", "DA", "S-1-15-2-2"]),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5).map(
        lambda parts: "S-1-5-" + "-".join(map(str, parts))
    ),
)
_flags = st.lists(st.sampled_from(["OI", "CI", "NP", "IO", "ID", "SA", "FA"]), unique=True).map("".join)
_rights = st.one_of(
    st.integers(0, 2**32 - 1).map(hex),
    st.lists(st.sampled_from(["GR", "GW", "GX", "GA", "RC", "SD", "FR", "CC", "DT"]), min_size=1).map(
        "".join
    ),
)
_conditions = st.sampled_from(["", '(@User.Title=="a ) (b")', "((Member_of {SID(BA)}) && (1 == 1))"])


@st.composite
def _entries(draw: st.DrawFn) -> str:
    condition = draw(_conditions)
    kind = "XA" if condition else draw(st.sampled_from(["A", "D", "OA"]))
    guid = "bf967aba-0de6-11d0-a285-00aa003049e2" if kind == "OA" else ""
    fields = [kind, draw(_flags), draw(_rights), guid, "", draw(_sids), *([condition] if condition else [])]
    return f"({';'.join(fields)})"


_lists = st.lists(_entries(), max_size=8)


@given(_lists, st.sampled_from(["", "P", "PAI", "AI", "PARAI"]), _sids)
def test_a_descriptor_survives_being_written_and_read(entries: list[str], flags: str, owner: str) -> None:
    seen = parse(f"O:{owner}G:SYD:{flags}{''.join(entries)}S:(ML;;NW;;;LW)")
    again = parse(seen.format())
    assert again == seen
    assert again.format() == seen.format()


@given(_lists, st.randoms())
def test_the_order_of_entries_does_not_matter(entries: list[str], chance: random.Random) -> None:
    shuffled = chance.sample(entries, len(entries))
    one, other = parse("D:" + "".join(entries)), parse("D:" + "".join(shuffled))
    assert one.dacl and other.dacl
    assert one.dacl.as_set() == other.dacl.as_set()
    assert differences(one, other) == []


@given(_lists)
def test_what_is_written_again_is_as_it_was(entries: list[str]) -> None:
    acl = parse("D:PAI" + "".join(entries)).dacl
    assert acl
    assert acl.entries is not None
    assert acl.write_again(acl.entries) == "PARAI" + "".join(entries)


@given(_lists, _lists)
def test_lists_differ_exactly_when_one_has_an_entry_that_the_other_lacks(
    one: list[str], other: list[str]
) -> None:
    first, second = parse("D:" + "".join(one)), parse("D:" + "".join(other))
    assert first.dacl and second.dacl
    mapped = [{as_file_rights(entry) for entry in acl.entries or ()} for acl in (first.dacl, second.dacl)]
    assert (differences(first, second) == ["dacl-differs"]) == (mapped[0] != mapped[1])


@given(st.text(alphabet='OGDSA:;()PI"x0123456789-WBLM ', max_size=40))
def test_whatever_a_host_prints_is_understood_or_refused(text: str) -> None:
    try:
        parse(text)
    except ValueError:
        return


def test_the_target_is_what_windows_makes_of_it() -> None:
    assert differences(parse(AS_WINDOWS_PRINTS_IT), parse(NULL_DEVICE)) == []


@pytest.mark.parametrize(
    ("changed", "labels"),
    [
        (AS_WINDOWS_PRINTS_IT.replace("O:BA", "O:SY"), ["owner-differs"]),
        (AS_WINDOWS_PRINTS_IT.replace("G:SY", "G:BA"), ["group-differs"]),
        (AS_WINDOWS_PRINTS_IT.replace("(A;;0x1201bf;;;AC)", ""), ["dacl-differs"]),
        (AS_WINDOWS_PRINTS_IT.replace("(A;;FA;;;BA)", "(A;;FR;;;BA)"), ["dacl-differs"]),
        (AS_WINDOWS_PRINTS_IT.replace("(A;;FA;;;BA)", "(D;;FA;;;BA)"), ["dacl-differs"]),
        (AS_WINDOWS_PRINTS_IT.replace("(A;;FA;;;BA)", "(A;OI;FA;;;BA)"), ["dacl-differs"]),
        (AS_WINDOWS_PRINTS_IT.replace("NW;;;LW", "NW;;;ME"), ["sacl-differs"]),
        (AS_WINDOWS_PRINTS_IT.partition("S:(")[0], ["sacl-differs"]),
        ("O:SYG:BAD:", ["owner-differs", "group-differs", "dacl-differs", "sacl-differs"]),
    ],
)
def test_each_part_that_differs_is_named(changed: str, labels: list[str]) -> None:
    assert differences(parse(changed), parse(NULL_DEVICE)) == labels


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("D:(A;;GRGX;;;AC)", "D:(A;;GXGR;;;S-1-15-2-1)"),
        ("D:(A;;FR;;;WD)", "D:(A;;0x120089;;;S-1-1-0)"),
        ("D:(A;;0x10;;;WD)", "D:(A;;16;;;WD)"),
        ("D:(A;;020;;;WD)", "D:(A;;RP;;;WD)"),
        ("D:(A;OICI;FA;;;SY)", "D:(A;CIOI;FA;;;SY)"),
    ],
)
def test_spelling_does_not_matter(one: str, other: str) -> None:
    assert parse(one) == parse(other)


def test_generic_rights_of_entries_that_are_only_inherited_stay_generic() -> None:
    handed_on, own = (parse(f"D:(A;{flags};GA;;;BA)").dacl for flags in ("OICIIO", "OICI"))
    assert handed_on and own
    assert [as_file_rights(entry).mask for entry in handed_on.entries or ()] == [sddl.GENERIC_ALL]
    assert [as_file_rights(entry).mask for entry in own.entries or ()] == [0x1F01FF]


def test_no_list_is_not_an_empty_list() -> None:
    absent, empty = parse("D:NO_ACCESS_CONTROL"), parse("D:")
    assert absent.dacl == Acl(entries=None)
    assert empty.dacl == Acl()
    assert differences(absent, empty) == ["dacl-differs"]
    assert parse(absent.format()) == absent


def test_inherited_entries_are_told_from_explicit_ones() -> None:
    acl = parse("D:AI(A;;FA;;;BA)(A;OICIID;FA;;;SY)").dacl
    assert acl
    assert [entry.text for entry in acl.explicit()] == ["(A;;FA;;;BA)"]


def test_entries_are_equal_by_meaning_and_keep_their_text() -> None:
    written = Entry("A", frozenset(), 0x120088, "S-1-15-2-1", text="(A;;0x120088;;;AC)")
    assert written == Entry("A", frozenset(), 0x120088, "S-1-15-2-1")
    assert Acl(entries=(written,)).write_again([written]) == "(A;;0x120088;;;AC)"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "D:(A;;FA;;;BA",
        "D:(A;;FA)",
        "D:Q(A;;FA;;;BA)",
        "D:(A;;ZZ;;;BA)",
        "D:(A;;FAF;;;BA)",
        "D:(A;O;FA;;;BA)",
        "O:Somebody",
        "x O:BA",
    ],
)
def test_what_is_no_descriptor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no |not |closed"):
        parse(text)


def test_nothing_is_a_descriptor_without_parts() -> None:
    assert parse("") == Descriptor()
