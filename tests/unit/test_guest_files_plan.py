"""What is packed, copied and mounted: the access that each path ends up with in the guest."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Access, HostPath, ObjectKind
from backends.errors import PolicyRefused
from backends.guest_files.plan import FilesPlan, GuestPut, Made, ShippedGrant, plan_files
from backends.guest_files.reserved import OWN_PATHS, SYSTEM_PATHS
from backends.inside.agent_protocol import GuestHide, GuestMount, MountFlag
from backends.pathnames import within
from mxc_ops.policy.filesystem import resolve_filesystem
from tests.unit.policy_paths import DENIED, RO, RW, file, there
from tests.unit.test_policy_filesystem_model import expected, parents

_EXAMPLES = 3000 if os.environ.get("MXC_SOAK") == "1" else 300
_PLACES = [f"/g/{a}{b}{c}" for a in "ab" for b in ("", "/a", "/b") for c in ("", "/a", "/b") if b or not c]
policies = st.dictionaries(st.sampled_from(["/g", *_PLACES]), st.sampled_from([RO, RW, DENIED]), max_size=6)


def plan_of(paths: Sequence[HostPath]) -> FilesPlan:
    view = resolve_filesystem(paths, (), (*OWN_PATHS, *SYSTEM_PATHS))
    return plan_files(view, device="/dev/vdb")


def tree_of(plan: FilesPlan, place: str) -> tuple[ShippedGrant, str]:
    """The grant that a private place of the guest belongs to, and the path in it."""
    for grant in (*plan.read_only, *plan.writable):
        if within(place, grant.place):
            return grant, place[len(grant.place) + 1 :]
    raise AssertionError(place)


def shown(plan: FilesPlan, place: str, mounts: Sequence[GuestMount]) -> tuple[Access, Made | None]:
    """What the workload finds at `place` once these are mounted, and whether it is only made."""
    covering = [mount for mount in mounts if within(place, mount.target) and mount.flags & MountFlag.BIND]
    if not covering:
        return DENIED, None
    last = covering[-1]
    grant, inner = tree_of(plan, last.source)
    path = "/".join(part for part in (inner, place[len(last.target) + 1 :]) if part)
    made = next((made for made in grant.made if made.path == path), None)
    if any(path == left or within(f"/{path}", f"/{left}") for left in grant.left_out):
        return DENIED, made
    return (RO if last.flags & MountFlag.READ_ONLY else RW), made


def mounts_of(plan: FilesPlan) -> list[GuestMount]:
    return [step for step in plan.guest_steps if isinstance(step, GuestMount)]


@settings(max_examples=_EXAMPLES)
@given(policies)
def test_every_path_has_the_access_the_rules_give_it(policy: dict[str, Access]) -> None:
    paths = [there(place, access) for place, access in policy.items()]
    plan = plan_of(paths)
    mounts = mounts_of(plan)
    for place in _PLACES:
        access, made = shown(plan, place, mounts)
        assert access is expected(place, paths, []), place
        if made is not None:  # passages alone are left uncovered
            assert made.mode == 0o111


def test_what_the_guest_has_is_hidden_before_anything_is_put_or_mounted() -> None:
    """A grant below a denied folder lies in what covers it, and a link is made there after it."""
    first, *rest = plan_of([there("/usr/share", DENIED), there("/usr/share/dict", RO)]).guest_steps
    assert first == GuestHide(("/usr/share",))
    assert rest
    assert not any(isinstance(step, GuestHide) for step in rest)
    assert plan_of([there("/g", DENIED)]).guest_steps == (GuestHide(("/g",)),)


@settings(max_examples=_EXAMPLES)
@given(policies)
def test_each_mount_finds_its_place_and_all_that_is_made_has_its_parents(policy: dict[str, Access]) -> None:
    plan = plan_of([there(place, access) for place, access in policy.items()])
    mounts = mounts_of(plan)
    for index, mount in enumerate(mounts):
        if not mount.flags & MountFlag.BIND:
            continue
        before = [other for other in mounts[:index] if mount.target in parents(other.target)[1:]]
        assert before == [], "nothing is covered by what comes later"
        below = [other for other in mounts[:index] if within(mount.target, other.target)]
        access, made = shown(plan, mount.target, mounts[:index])
        assert not below or made is not None or access is not DENIED
    for grant in (*plan.read_only, *plan.writable):
        known = {made.path for made in grant.made}
        for made in grant.made:
            above = made.path.rpartition("/")[0]
            hidden = any(above == left or within(f"/{above}", f"/{left}") for left in grant.left_out)
            assert above in known or not hidden


def test_nested_grants_in_every_order_as_data() -> None:
    plan = plan_of(
        [
            *(there("/w", RW), there("/w/lib", RO), there("/w/lib/cache", RW), there("/w/.git", DENIED)),
            *(there("/w/.git/hooks/mine", RO), file("/data/one.csv", RO), there("/w/sub", RW)),
        ]
    )
    told = plan.as_dict()
    json.dumps(told)
    assert [(grant.path, grant.left_out, [m.path for m in grant.made]) for grant in plan.writable] == [
        ("/w", (".git", ".git/hooks/mine", "lib"), [".git", ".git/hooks", ".git/hooks/mine", "lib"]),
        ("/w/lib/cache", (), []),
    ]
    assert [(grant.path, grant.left_out, [m.path for m in grant.made]) for grant in plan.read_only] == [
        ("/w/lib", ("cache",), ["cache"]),
        ("/data/one.csv", (), []),
        ("/w/.git/hooks/mine", (), []),
    ]
    assert told["guestSteps"] == [
        {"hide": ["/w/.git"]},
        {
            **{"put": "/run/mxc", "grant": None},
            "made": [{"path": p, "kind": "directory", "mode": "0700"} for p in ("", "disk", "rw")],
        },
        _mount("/run/mxc/disk", "/dev/vdb", "erofs", read_only=True),
        _mount("/run/mxc/rw", "", "tmpfs"),
        {"put": "/run/mxc/rw/0", "grant": 0, "made": []},
        {"put": "/run/mxc/rw/1", "grant": 1, "made": []},
        _bind("/w", "/run/mxc/rw/0"),
        _bind("/w/sub", "/run/mxc/rw/0/sub"),
        _bind("/w/lib", "/run/mxc/disk/0", read_only=True),
        _bind("/data/one.csv", "/run/mxc/disk/1", read_only=True),
        _bind("/w/lib/cache", "/run/mxc/rw/1"),
        _bind("/w/.git/hooks/mine", "/run/mxc/disk/2", read_only=True),
    ]


def _mount(target: str, source: str, kind: str, *, read_only: bool = False) -> dict[str, object]:
    flags = ["READ_ONLY"] * read_only + ["NO_SUID", "NO_DEV"]
    return {"mount": target, "source": source, "type": kind, "flags": flags, "bytes": 0}


def _bind(target: str, source: str, *, read_only: bool = False) -> dict[str, object]:
    mount = _mount(target, source, "", read_only=read_only)
    return {**mount, "flags": [*(["READ_ONLY"] * read_only), "NO_SUID", "NO_DEV", "BIND"]}


def test_links_are_made_in_the_guest_where_no_tree_shows_them() -> None:
    linked = there("/link/data", RO, canonical="/srv/data", hops=[("/link", "/srv")])
    hidden = there("/w/d/l", RO, ObjectKind.FILE, canonical="/w/d/f", hops=[("/w/d/l", "f")])
    plan = plan_of([linked, there("/w", RW), there("/w/d", DENIED), hidden])
    [link] = [step for step in plan.guest_steps if isinstance(step, GuestPut) and step.files.path == "/"]
    assert link.made == (Made("link", ObjectKind.OTHER, 0o777, "/srv"),)
    assert Made("d/l", ObjectKind.OTHER, 0o777, "f") in plan.writable[0].made


def test_without_grants_there_is_nothing_to_do() -> None:
    assert plan_of([]).guest_steps == ()


@pytest.mark.parametrize("path", ["/usr", "/usr/lib", "/etc", "/bin", "/run", "/usr/lib/x86_64-linux-gnu"])
def test_what_the_guest_runs_from_is_not_replaced(path: str) -> None:
    with pytest.raises(PolicyRefused) as caught:
        plan_of([there(path, RO), there("/srv/x", RO)])
    [problem] = caught.value.problems
    assert (problem.code, problem.path) == ("guest_path_reserved", f"/filesystem/readonlyPaths/{path}")
    assert repr(path) in problem.message
    assert "bubblewrap" in problem.fix


@pytest.mark.parametrize("path", ["/run/mxc/disk", "/run/mxc", "/etc/passwd"])
def test_what_the_guest_makes_itself_is_not_granted(path: str) -> None:
    with pytest.raises(PolicyRefused, match="would replace"):
        plan_of([there(path, RW)])


@pytest.mark.parametrize(
    "path", ["/usr/local", "/usr/share/data", "/etc/app", "/tmp", "/var/lib/x", "/home/me"]
)
def test_what_lies_beside_or_below_the_guests_own_is_granted(path: str) -> None:
    assert plan_of([there(path, RO)]).read_only[0].path == path


def test_for_a_user_what_is_his_is_the_workloads_and_for_root_what_is_the_grants_owners() -> None:
    view = resolve_filesystem([there("/srv/x", RO)], ())
    for caller, owns in (((0, ()), (0, (0,))), ((1234, (1234, 27)), (1234, (1234, 27)))):
        [grant] = plan_files(view, device="/dev/vdb", caller=caller).read_only
        assert (grant.uid, grant.groups) == owns
