"""Same path, two lists: the stricter access holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.base import Access, Grant
from mxc_ops.policy.spelling import collapse, spelling
from tests.unit.documents import PATHS

GRANTS = st.lists(st.builds(Grant, PATHS, st.sampled_from(Access), st.just("/filesystem")), max_size=6)


def grant(path: str, access: Access, *, optional: bool = False) -> Grant:
    return Grant(path, access, f"/filesystem/{access.value}/{path}", optional)


def test_a_trailing_slash_or_a_double_one_makes_no_difference_and_dots_do() -> None:
    assert spelling("/srv/data/") == spelling("/srv//data")
    assert spelling("/srv/./data") != spelling("/srv/data")
    assert spelling("srv") != spelling("/srv")
    assert spelling("/Srv") != spelling("/srv")


def test_the_stricter_list_wins_and_a_warning_names_both_places() -> None:
    read_write, denied = grant("/srv", Access.READ_WRITE), grant("/srv/", Access.DENIED)
    kept, (warning,) = collapse([read_write, denied])
    assert [(each.path, each.access, each.pointer) for each in kept] == [
        ("/srv", Access.DENIED, denied.pointer)
    ]
    assert read_write.pointer in warning
    assert denied.pointer in warning


def test_a_mere_repetition_is_dropped_without_a_warning() -> None:
    kept, warnings = collapse([grant("/srv", Access.READ_ONLY), grant("/srv/", Access.READ_ONLY)])
    assert (len(kept), warnings) == (1, ())


def test_an_optional_grant_that_a_plain_one_overrules_is_not_optional() -> None:
    kept, _ = collapse([grant("/srv", Access.READ_WRITE, optional=True), grant("/srv", Access.READ_ONLY)])
    assert [(each.access, each.optional) for each in kept] == [(Access.READ_ONLY, False)]


def test_slash_and_backslash_keep_both_objects_under_the_stricter_access() -> None:
    kept, _ = collapse([grant("/srv/x", Access.READ_ONLY), grant("/srv\\x", Access.DENIED)])
    assert [(each.path, each.access) for each in kept] == [
        ("/srv/x", Access.DENIED),
        ("/srv\\x", Access.DENIED),
    ]


@given(GRANTS)
def test_no_path_ends_up_with_more_than_any_of_its_entries_gave(grants: list[Grant]) -> None:
    kept, _ = collapse(grants)
    assert {spelling(each.path) for each in kept} == {spelling(each.path) for each in grants}
    for each in kept:
        same = [other for other in grants if spelling(other.path) == spelling(each.path)]
        assert each.access.strictness == max(other.access.strictness for other in same)


@given(GRANTS)
def test_collapsing_twice_is_collapsing_once(grants: list[Grant]) -> None:
    kept, _ = collapse(grants)
    assert collapse(kept) == (kept, ())
