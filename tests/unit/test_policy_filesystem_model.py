"""The ordered view against a model of the two rules: most specific wins, strictest by any alias."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Access, Effect, FilesystemView, HostPath, ObjectKind
from backends.errors import PolicyRefused
from mxc_ops.policy.filesystem import resolve_filesystem
from tests.unit.policy_paths import DENIED, RO, RW, missing, there

_EXAMPLES = 5000 if os.environ.get("MXC_SOAK") == "1" else 500
_NAMES = "abc"
_PLACES = [
    "/" + "/".join(names) for depth in (1, 2, 3, 4) for names in itertools.product(_NAMES, repeat=depth)
]

places = st.sampled_from([place for place in _PLACES if place.count("/") <= 3])
accesses = st.sampled_from([RO, RW, DENIED])
policies = st.lists(st.tuples(places, accesses), max_size=7)
aliases = st.lists(st.tuples(places, places), max_size=2)
baselines = st.lists(places, max_size=2)


def observed(policy: Sequence[tuple[str, Access]], alias: Sequence[tuple[str, str]]) -> list[HostPath]:
    """Each place is one directory; aliased places are the same one."""
    objects = {place: {place} for place, _ in policy}
    for one, other in alias:
        if one in objects and other in objects:
            joined = objects[one] | objects[other]
            for place in joined:
                objects[place] = joined
    first: dict[str, HostPath] = {}
    found: list[HostPath] = []
    for place, access in policy:
        path = there(place, access, same_as=first.get(min(objects[place])))
        first.setdefault(min(objects[place]), path)
        found.append(path)
    return found


def parents(place: str) -> list[str]:
    """`place` and all above it, deepest first."""
    names = place.split("/")
    return ["/".join(names[:end]) for end in range(len(names), 1, -1)]


def expected(place: str, paths: Sequence[HostPath], baseline: Sequence[str]) -> Access:
    """First principles: the most specific listed path decides, with the strictest access of its object."""
    for parent in parents(place):
        listed = [path for path in paths if path.canonical == parent]
        if listed:
            same = [path.grant.access for path in paths if path.inode == listed[0].inode]
            return max(same, key=lambda access: access.strictness)
    return RO if any(parent in baseline for parent in parents(place)) else DENIED


def mounted(place: str, view: FilesystemView, baseline: Sequence[str]) -> Access:
    """What is there after the steps have been done one after the other."""
    effects = {Effect.BIND_READ_ONLY: RO, Effect.BIND_READ_WRITE: RW, Effect.MASK_DIRECTORY: DENIED}
    access = RO if any(parent in baseline for parent in parents(place)) else DENIED
    for entry in view.entries:
        if entry.path in parents(place):
            access = effects[entry.effect]
    return access


@settings(max_examples=_EXAMPLES)
@given(policies, aliases, baselines)
def test_every_path_has_the_access_the_rules_give_it(
    policy: list[tuple[str, Access]], alias: list[tuple[str, str]], baseline: list[str]
) -> None:
    paths = observed(policy, alias)
    view = resolve_filesystem(paths, baseline)
    for place in _PLACES:
        assert mounted(place, view, baseline) is expected(place, paths, baseline), place


@settings(max_examples=_EXAMPLES)
@given(policies, aliases, baselines)
def test_no_step_undoes_an_earlier_one_and_masks_let_pass_what_is_below(
    policy: list[tuple[str, Access]], alias: list[tuple[str, str]], baseline: list[str]
) -> None:
    entries = resolve_filesystem(observed(policy, alias), baseline).entries
    for before, after in itertools.combinations(entries, 2):
        assert after.path not in parents(before.path)
    for mask in entries:
        if mask.effect is Effect.MASK_DIRECTORY:
            below = [
                e for e in entries if mask.path in parents(e.path)[1:] and e.effect.value.startswith("read")
            ]
            assert mask.traversable is bool(below)


@settings(max_examples=_EXAMPLES)
@given(policies, st.permutations(range(7)))
def test_the_order_in_which_paths_are_written_does_not_matter(
    policy: list[tuple[str, Access]], order: list[int]
) -> None:
    paths = observed(policy, [])
    shuffled = [paths[index] for index in order if index < len(paths)]
    steps = [{(e.effect, e.path) for e in resolve_filesystem(each).entries} for each in (paths, shuffled)]
    assert steps[0] == steps[1]


@settings(max_examples=_EXAMPLES)
@given(policies, aliases, places)
def test_a_missing_denied_path_is_refused_exactly_where_it_could_be_created(
    policy: list[tuple[str, Access]], alias: list[tuple[str, str]], place: str
) -> None:
    paths = [path for path in observed(policy, alias) if place not in parents(path.canonical)]
    creatable = expected(place, paths, []) is RW
    try:
        resolve_filesystem([*paths, missing(place, DENIED)])
    except PolicyRefused as refusal:
        assert creatable
        assert refusal.problems[0].code == "denied_path_missing"
    else:
        assert not creatable


@settings(max_examples=_EXAMPLES)
@given(policies, places, places)
def test_a_link_is_made_exactly_where_no_tree_shows_it(
    policy: list[tuple[str, Access]], link: str, target: str
) -> None:
    paths = [path for path in observed(policy, []) if link not in parents(path.canonical)]
    if link in parents(target) or any(path.canonical == target for path in paths):
        return
    linked = there(link, RO, ObjectKind.FILE, canonical=target, hops=[(link, target)])
    entries = resolve_filesystem([*paths, linked]).entries
    made = any(entry.effect is Effect.SYMLINK and entry.path == link for entry in entries)
    assert made is (expected(link, [*paths, linked], []) is DENIED)
