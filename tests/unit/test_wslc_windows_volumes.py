"""The filesystem policy of a WSL container on Windows: what becomes a volume, and what cannot be held."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Access, Grant
from backends.frozen import replace
from backends.wslc.windows.facts import PathFact, WindowsFacts
from backends.wslc.windows.paths import WindowsPath, read_path
from backends.wslc.windows.volumes import Volumes, plan_volumes
from tests.windows_hosts import STORAGE, directory, file, grants, host

RW, RO, DENIED = Access.READ_WRITE, Access.READ_ONLY, Access.DENIED
_EXAMPLES = 5000 if os.environ.get("MXC_SOAK") == "1" else 300


def place(text: str) -> WindowsPath:
    path = read_path(text, "")
    assert isinstance(path, WindowsPath)
    return path


def plan(entries: Sequence[Grant], facts: WindowsFacts) -> Volumes:
    return plan_volumes(entries, facts, place(STORAGE))


def simple(*entries: tuple[str, Access]) -> Volumes:
    """Every path is a directory by its own name."""
    facts = host(*((path, directory(str(place(path)))) for path, _ in entries))
    return plan(grants(*entries), facts)


def mounted(volumes: Volumes) -> list[tuple[str, str, bool]]:
    assert volumes.problems == ()
    return [(volume.host, volume.inside, volume.read_only) for volume in volumes.volumes]


def refusals(volumes: Volumes) -> list[tuple[str, str]]:
    return [(problem.code, problem.path) for problem in volumes.problems]


def test_a_grant_is_a_volume_at_its_name_in_the_container() -> None:
    assert mounted(simple(("C:\\code", RW), ("d:/Data/in", RO))) == [
        ("C:\\code", "/mnt/c/code", False),
        ("D:\\Data\\in", "/mnt/d/Data/in", True),
    ]


def test_what_is_denied_beside_all_volumes_is_in_none() -> None:
    volumes = simple(("C:\\code", RW), ("C:\\secret", DENIED))
    assert mounted(volumes) == [("C:\\code", "/mnt/c/code", False)]
    assert "/filesystem/deniedPaths/0: 'C:\\secret' is denied: it is in no volume" in volumes.decisions


def test_a_name_that_only_begins_alike_is_beside_the_volume() -> None:
    assert mounted(simple(("C:\\code", RW), ("C:\\codeshop", DENIED))) == [("C:\\code", "/mnt/c/code", False)]


@pytest.mark.parametrize("parent", [RW, RO])
def test_a_deny_in_a_volume_is_refused_with_the_way_out(parent: Access) -> None:
    volumes = simple(("C:\\code", parent), ("C:\\code\\secret", DENIED))
    (problem,) = volumes.problems
    assert (problem.code, problem.path) == ("deny_below_volume", "/filesystem/deniedPaths/0")
    assert "'C:\\code'" in problem.message
    assert "on Linux" in problem.fix


def test_read_only_below_read_write_is_refused_as_another_spelling_would_write() -> None:
    found = refusals(simple(("C:\\code", RW), ("c:\\CODE\\.git", RO)))
    assert found == [("read_only_below_volume", "/filesystem/readonlyPaths/0")]


def test_more_below_less_is_given_shallow_before_deep() -> None:
    volumes = simple(
        ("C:\\code\\out\\deep", RW), ("C:\\code", RO), ("C:\\denied\\kept", RO), ("C:\\denied", DENIED)
    )
    assert [volume.inside for volume in volumes.volumes] == [
        "/mnt/c/code",
        "/mnt/c/denied/kept",
        "/mnt/c/code/out/deep",
    ]
    assert mounted(volumes)[2][2] is False


def test_deny_wins_over_every_spelling_of_the_same_directory() -> None:
    volumes = simple(("C:\\Code", RW), ("c:/code/", RO), ("C:\\CODE", DENIED))
    assert mounted(volumes) == []
    assert len([line for line in volumes.decisions if "becomes denied" in line]) == 2


def test_a_short_name_is_the_directory_that_it_stands_for() -> None:
    entries = grants(("C:\\PROGRA~1", RW), ("C:\\Program Files", RO))
    facts = host(
        ("C:\\PROGRA~1", directory("C:\\Program Files")),
        ("C:\\Program Files", directory("C:\\Program Files")),
    )
    assert mounted(plan(entries, facts)) == [
        ("C:\\Program Files", "/mnt/c/PROGRA~1", True),
        ("C:\\Program Files", "/mnt/c/Program Files", True),
    ]


def test_a_junction_is_judged_by_where_it_leads() -> None:
    facts = host(("C:\\link", directory("D:\\data\\secret")), ("D:\\data", directory("D:\\data")))
    found = refusals(plan(grants(("D:\\data", RW), ("C:\\link", DENIED)), facts))
    assert found == [("deny_below_volume", "/filesystem/deniedPaths/0")]


def test_a_link_inside_of_a_volume_is_no_place_for_another() -> None:
    facts = host(("C:\\code", directory("C:\\code")), ("C:\\code\\link", directory("D:\\data")))
    (problem,) = plan(grants(("C:\\code", RO), ("C:\\code\\link", RW)), facts).problems
    assert (problem.code, problem.fix) == ("path_through_link", "write 'D:\\data'")


def test_a_substituted_or_network_drive_is_what_it_stands_for() -> None:
    facts = host(("Z:\\x", directory("\\\\server\\share\\x")))
    (problem,) = plan(grants(("Z:\\x", RO)), facts).problems
    assert problem.code == "path_unc"
    assert "'Z:\\x' leads to what cannot be given" in problem.message


def test_a_file_is_refused() -> None:
    facts = host(("C:\\a.txt", file("C:\\a.txt")))
    assert refusals(plan(grants(("C:\\a.txt", RO)), facts)) == [
        ("volume_not_directory", "/filesystem/readonlyPaths/0")
    ]


def test_what_is_missing_is_refused_as_it_would_be_created() -> None:
    facts = host(("C:\\gone", PathFact("C:\\gone")))
    (problem,) = plan(grants(("C:\\gone", RW)), facts).problems
    assert (problem.code, problem.fix) == ("path_missing", 'mkdir "C:\\gone"')
    optional = [replace(grant, optional=True) for grant in grants(("C:\\gone", RW))]
    assert mounted(plan(optional, facts)) == []


def test_a_missing_path_is_denied_in_no_volume_either() -> None:
    facts = host(("C:\\code", directory("C:\\code")), ("C:\\code\\later", PathFact("C:\\code\\later")))
    found = refusals(plan(grants(("C:\\code", RO), ("C:\\code\\later", DENIED)), facts))
    assert found == [("deny_below_volume", "/filesystem/deniedPaths/0")]


@pytest.mark.parametrize(
    ("fact", "access", "code"),
    [
        (replace(directory("C:\\x"), writable=False), RW, "delegation_refused"),
        (replace(directory("C:\\x"), readable=False), RO, "delegation_refused"),
        (replace(directory("C:\\x"), error="Access is denied."), DENIED, "path_unresolved"),
    ],
)
def test_nobody_grants_what_they_do_not_have(fact: PathFact, access: Access, code: str) -> None:
    assert [name for name, _ in refusals(plan(grants(("C:\\x", access)), host(("C:\\x", fact))))] == [code]


def test_a_path_that_was_not_looked_at_is_refused() -> None:
    assert refusals(plan(grants(("C:\\x", RO)), host())) == [
        ("path_unresolved", "/filesystem/readonlyPaths/0")
    ]


@pytest.mark.parametrize("path", ["C:\\", "C:\\users\\DEV", STORAGE, STORAGE + "\\inner"])
def test_the_disks_of_sessions_are_in_no_volume(path: str) -> None:
    assert refusals(simple((path, RO))) == [("storage_in_volume", "/filesystem/readonlyPaths/0")]


def test_hard_links_that_a_volume_may_show_are_refused() -> None:
    linked = replace(file("C:\\secret.txt"), links_unaccounted=True)
    facts = host(
        ("C:\\secret.txt", linked), ("C:\\code", directory("C:\\code")), ("D:\\a", directory("D:\\a"))
    )
    denied = ("C:\\secret.txt", DENIED)
    assert refusals(plan(grants(("C:\\code", RO), denied), facts)) == [
        ("links_unaccounted", "/filesystem/deniedPaths/0")
    ]
    assert refusals(plan(grants(("D:\\a", RW), denied), facts)) == []


def test_every_problem_is_answered_at_once() -> None:
    found = refusals(plan(grants(("\\\\server\\x", RW), ("x", RO), ("C:\\NUL", DENIED)), host()))
    assert [code for code, _ in found] == ["path_unc", "path_relative", "path_reserved"]


_SPELLED = ("a", "A", "ab", "B")
_paths = st.lists(st.sampled_from(_SPELLED), min_size=1, max_size=3).map(
    lambda names: "C:\\" + "\\".join(names)
)
_policies = st.lists(st.tuples(_paths, st.sampled_from([RW, RO, DENIED])), max_size=5)


@settings(max_examples=_EXAMPLES)
@given(_policies)
def test_no_spelling_gives_more_than_the_policy(policy: list[tuple[str, Access]]) -> None:
    """From first principles: what the entries say of each place, in whatever case. A denied place that nobody
    grants is missing: Windows can give such a one no other name than the written."""
    granted = {path.lower() for path, access in policy if access is not DENIED}
    facts = host(*((path, _found(path, missing=path.lower() not in granted)) for path, _ in policy))
    planned = plan(grants(*policy), facts)
    if planned.problems:
        return
    for path in {path.lower().split("\\", 1)[1] for path, _ in policy}:
        wanted = _says(path, policy)
        for given_access in _gives(path, planned):
            assert given_access.strictness >= wanted.strictness
        written = {p for p, _ in policy if p.lower().split("\\", 1)[1] == path}
        exact = {v.read_only for v in planned.volumes if v.inside in {place(p).inside for p in written}}
        assert exact == (set() if wanted is DENIED else {wanted is RO})


def _found(path: str, *, missing: bool) -> PathFact:
    return PathFact(path) if missing else directory(path.lower().replace("c:", "C:"))


def _says(path: str, policy: Sequence[tuple[str, Access]]) -> Access:
    same = [access for written, access in policy if written.lower().split("\\", 1)[1] == path]
    return max(same, key=lambda access: access.strictness)


def _gives(path: str, planned: Volumes) -> list[Access]:
    """What each volume that shows the place, by any spelling, gives of it."""
    wanted = place("C:\\" + path)
    return [RO if v.read_only else RW for v in planned.volumes if wanted.within(place(v.host))]
