"""What LXC and the launcher complain about, told in the words of who wrote the policy."""

from __future__ import annotations

import errno

import pytest

from backends.errors import LaunchFailed, MxcError, PolicyRefused, Problem
from backends.frozen import replace
from backends.inside.protocol import Failed, StageEntry, Step
from backends.launched.parts import STAGE, PlannedMask
from backends.lxc.failure import explain
from backends.lxc.plan import LxcPlan, make_plan
from tests.golden.test_lxc_plan import CASES

pytestmark = pytest.mark.backend("lxc")

_WHERE = "lxc-start: mxc-0123: ../src/lxc/"
_HARMLESS = f'{_WHERE}conf.c: lxc_setup_devpts: 1 No such file or directory - Failed to set "gid" to "5"'
_FIRST = f'{_WHERE}conf.c: mount_entry: 2446 No such file or directory - Failed to mount "/a" on "/b"'
_LAST = f"{_WHERE}tools/lxc_start.c: main: 306 The container failed to start"


@pytest.fixture
def plan() -> LxcPlan:
    return make_plan(*CASES["denied-in-the-image"])


def problem_of(error: MxcError, kind: type[MxcError]) -> Problem:
    assert type(error) is kind
    [problem] = error.problems
    return problem


def test_the_first_complaint_of_lxc_is_the_reason(plan: LxcPlan) -> None:
    problem = problem_of(explain(plan, None, 1, "\n".join([_HARMLESS, _FIRST, _LAST])), LaunchFailed)
    assert problem.code == "setup_lxc"
    assert problem.message == 'No such file or directory - Failed to mount "/a" on "/b"'
    assert problem.fix == "mxc-ops doctor --backend lxc"


def test_a_denied_path_that_cannot_be_masked_any_more_is_named_and_worth_another_try(plan: LxcPlan) -> None:
    masks = (PlannedMask(0, "/g/one", "/one"), PlannedMask(1, "/g/two", "/two"))
    said = _FIRST.replace('"/a"', f'"{STAGE}/masks/1"')
    error = explain(replace(plan, masks=masks), None, 1, f"{_HARMLESS}\n{said}\n{_LAST}")
    problem = problem_of(error, LaunchFailed)
    assert (problem.code, problem.path) == ("object_changed", "/two")
    assert error.retryable


@pytest.mark.parametrize("place", ["1", "masks/7", "tmp"])
def test_what_cannot_be_mounted_else_is_told_as_lxc_does(plan: LxcPlan, place: str) -> None:
    said = _FIRST.replace('"/a"', f'"{STAGE}/{place}"')
    assert problem_of(explain(plan, None, 1, said), LaunchFailed).code == "setup_lxc"


@pytest.mark.parametrize(
    ("step", "index", "said", "words", "fix"),
    [
        (
            Step.USERS,
            0,
            "",
            "users may make no user namespaces",
            "prep host --backend lxc --feature rootless",
        ),
        (Step.USERS, 1, "newuidmap: uid range [0-1) -> [5-6) not allowed", "not allowed", "doctor"),
        (Step.USERS, 2, "", "Operation not permitted", "doctor"),
        (Step.USERS, 3, "", "Operation not permitted", "doctor"),
    ],
)
def test_why_a_user_has_no_namespace_is_told(
    plan: LxcPlan, step: Step, index: int, said: str, words: str, fix: str
) -> None:
    problem = problem_of(explain(plan, Failed(step, errno.EPERM, index), 125, said), LaunchFailed)
    assert problem.code == "setup_users"
    assert words in problem.message
    assert fix in problem.fix


@pytest.mark.parametrize("said", ["", _HARMLESS])
def test_who_says_nothing_is_told_by_its_status(plan: LxcPlan, said: str) -> None:
    assert "status -9" in problem_of(explain(plan, None, -9, said), LaunchFailed).message


def test_what_is_no_complaint_of_lxcs_own_is_told_as_it_is(plan: LxcPlan) -> None:
    said = "error while loading shared libraries\nliblxc.so.1"
    assert problem_of(explain(plan, None, 127, said), LaunchFailed).message == said


def test_an_image_that_cannot_be_mounted_is_named(plan: LxcPlan) -> None:
    problem = problem_of(explain(plan, Failed(Step.ROOT_IMAGE, errno.EINVAL, 0), 125, ""), LaunchFailed)
    assert (problem.code, problem.path) == ("setup_root_image", plan.image.rootfs)
    assert "'base'" in problem.message


@pytest.mark.parametrize(
    ("index", "names"), [(0, "'/etc/passwd'"), (1, "'/usr/bin/perl'"), (2, "'/etc/passwd',")]
)
def test_a_name_that_cannot_be_hidden_is_named(plan: LxcPlan, index: int, names: str) -> None:
    """One beyond the last stands for another name of any of them."""
    problem = problem_of(explain(plan, Failed(Step.HIDE, errno.EMLINK, index), 125, ""), LaunchFailed)
    assert problem.message.startswith(names)


@pytest.mark.parametrize("error", [errno.ENOTEMPTY, errno.EBUSY, errno.ELOOP, errno.ENOTDIR])
def test_a_link_for_which_the_image_has_no_room_is_refused_with_a_way_around(
    plan: LxcPlan, error: int
) -> None:
    plan = replace(plan, entries=(StageEntry("root/var", 0o120777, "/mnt/var"),))
    problem = problem_of(explain(plan, Failed(Step.ROOT_ENTRY, error, 0), 125, ""), PolicyRefused)
    assert (problem.code, problem.path) == ("image_in_the_way", "/var")
    assert "'/mnt/var'" in problem.fix


def test_anything_else_that_cannot_be_made_is_told(plan: LxcPlan) -> None:
    problem = problem_of(explain(plan, Failed(Step.ROOT_ENTRY, errno.ENOSPC, 0), 125, ""), LaunchFailed)
    assert problem.code == "setup_root_entry"
    assert "/etc/" in problem.message


def test_what_every_sandbox_can_fail_at_is_told_as_everywhere(plan: LxcPlan) -> None:
    problem = problem_of(explain(plan, Failed(Step.EXEC, errno.ENOENT, 0), 127, ""), LaunchFailed)
    assert problem.code == "program_not_found"
