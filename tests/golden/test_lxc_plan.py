"""Containers are planned as data: the same request and facts give the same config on any host.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.base import Effect, Environment, FilesystemView, Limits, ObjectKind, SandboxRequest, Timeout
from backends.base import ViewEntry as Entry
from backends.errors import BackendUnavailable, ConfigError, MxcError, PolicyRefused, Problem
from backends.frozen import replace
from backends.inside.protocol import ContainerIds, UserNamespace
from backends.linux.cgroups import CgroupFacts
from backends.linux.uid_range import UidRange
from backends.lxc.apparmor import FIX, PROFILE
from backends.lxc.config import late_lines
from backends.lxc.facts import LxcFacts
from backends.lxc.plan import make_plan
from backends.virtual_machine import Image, System
from tests import network_samples as networks
from tests.policy_view import VIEW

pytestmark = pytest.mark.backend("lxc")

GOLDEN = Path(__file__).parent / "lxc"

FACTS = LxcFacts(
    starter="/usr/bin/lxc-start",
    version="5.0.2",
    launcher="/usr/local/lib/mxc-ops/helpers/0123/launcher",
    launcher_key="0123",
    landlock_abi=6,
    apparmor="",
    apparmor_on=False,
    caller=(0, 0),
    uid_range=UidRange(1_900_000_000, 4096),
    seccomp={"default": "sha256:d", "strict": "sha256:s", "debug": "sha256:g"},
)
OF_A_USER = replace(
    FACTS,
    caller=(1001, 1002),
    uid_range=None,
    users=UserNamespace(
        (ContainerIds(0, 100_000, 200_000), ContainerIds(1000, 1001, 1002)),
        ("/usr/bin/newuidmap", "/usr/bin/newgidmap"),
    ),
)
GROUPS = CgroupFacts("v1", {"memory": "/cg/memory", "pids": "/cg/pids", "cpu": "/cg/cpu"})
IMAGE = Image(
    name="base",
    key="4567",
    content="89ab",
    kernel="/images/4567/vmlinux",
    initrd="/images/4567/initrd",
    rootfs="/images/4567/rootfs",
    rootfs_format="erofs",
    command_line="",
    memory_mib=256,
    zygote="",
    system=System("debian", ("bookworm", "12")),
)

REQUEST = SandboxRequest("lxc", shell="echo hello", image=IMAGE)
ODD = FilesystemView(
    (
        Entry(
            Effect.BIND_READ_WRITE, "/tmp/a b\tc\nd\\e", "/filesystem/readwritePaths/0",
            slot=0, kind=ObjectKind.DIRECTORY, owner=(0, 0), object=(1, 10),
        ),
        Entry(
            Effect.BIND_READ_ONLY, "/opt/#@ü\udcff", "/filesystem/readonlyPaths/0",
            slot=1, kind=ObjectKind.FILE, owner=(0, 0), object=(1, 11),
        ),
    )
)  # fmt: skip
CASES: dict[str, tuple[SandboxRequest, LxcFacts, FilesystemView]] = {
    "minimal": (REQUEST, FACTS, FilesystemView()),
    "policy": (REQUEST, FACTS, VIEW),
    "odd-names": (REQUEST, FACTS, ODD),
    "limits": (
        replace(
            REQUEST,
            limits=Limits(memory_mib=64, pids=10, cpus=0.5, cpu_seconds=3, file_size_mib=1, tmp_mib=8),
            timeout=Timeout(5000, 200, "INT"),
        ),
        replace(FACTS, cgroups=GROUPS),
        FilesystemView(),
    ),
    "args-environment": (
        replace(
            REQUEST,
            shell=None,
            args=("/usr/bin/printf", "%s", "a b"),
            environment=Environment((("A", "secret value"),)),
            cwd="/tmp",
            seccomp="strict",
        ),
        FACTS,
        FilesystemView(),
    ),
    "named-user": (replace(REQUEST, user=2000, group=2001), FACTS, VIEW),
    "of-a-user": (REQUEST, OF_A_USER, VIEW),
    "tty": (replace(REQUEST, tty=True), FACTS, FilesystemView()),
    "apparmor": (REQUEST, replace(FACTS, apparmor=PROFILE, apparmor_on=True), FilesystemView()),
    "apparmor-not-loaded": (REQUEST, replace(FACTS, apparmor_on=True), FilesystemView()),
    "no-landlock": (REQUEST, replace(FACTS, landlock_abi=0), FilesystemView()),
    "network": (
        replace(REQUEST, network=networks.NAMES),
        replace(FACTS, network=networks.FACTS),
        FilesystemView(),
    ),
    "denied-in-the-image": (REQUEST, FACTS, FilesystemView(denied=("/etc/passwd", "/usr/bin/perl"))),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_is_as_recorded(name: str) -> None:
    text = json.dumps(make_plan(*CASES[name]).as_dict(), indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_the_golden_files_are_those_of_the_cases() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


def test_what_is_only_known_at_launch_ends_the_config() -> None:
    lines = late_lines(1_900_000_001, (2000, 2001), ("/proc/self/fd/9", "inside", "12"), "/stage/7")
    assert lines == (
        "lxc.idmap = u 0 1900000001 1",
        "lxc.idmap = g 0 1900000001 1",
        "lxc.idmap = u 1000 2000 1",
        "lxc.idmap = g 1000 2001 1",
        "lxc.mount.entry = /stage/7 dev/console none bind,create=file 0 0",
        "lxc.init.cmd = /proc/self/fd/9 inside 12",
    )
    without = late_lines(1_900_000_001, (2000, 2001), ("/init",), "")
    assert not [line for line in without if "mount" in line]


def test_plan_never_shows_environment_values() -> None:
    plan = make_plan(*CASES["args-environment"])
    assert "secret value" not in json.dumps(plan.as_dict()) + repr(plan)


def test_every_container_is_isolated_alike() -> None:
    """No request opens what keeps a container apart."""
    always = set(make_plan(*CASES["minimal"]).config)
    for name, case in CASES.items():
        kept = {line for line in always if not line.startswith("lxc.apparmor")}
        if name == "network":  # it is in a namespace that was made before, and the kernel's /sys of that
            kept -= {"lxc.net.0.type = empty", "lxc.net.0.flags = up", "lxc.mount.auto = proc:mixed sys:ro"}
        assert kept <= set(make_plan(*case).config), name
        assert not [line for line in make_plan(*case).config if line.startswith("lxc.cgroup")], name


def test_a_profile_that_is_not_loaded_is_told_with_what_loads_it() -> None:
    plan = make_plan(*CASES["apparmor-not-loaded"])
    [warning] = plan.warnings
    assert PROFILE in warning
    assert FIX in warning
    assert "lxc.apparmor.profile = unconfined" in plan.config
    assert make_plan(*CASES["apparmor"]).warnings == ()


def refusal(
    kind: type[MxcError],
    request: SandboxRequest,
    facts: LxcFacts = FACTS,
    view: FilesystemView | None = None,
) -> Problem:
    with pytest.raises(kind) as caught:
        make_plan(request, facts, view or FilesystemView())
    [problem] = caught.value.problems
    return problem


def test_without_an_image_nothing_is_planned() -> None:
    problem = refusal(ConfigError, replace(REQUEST, image=None))
    assert (problem.code, problem.path) == ("image_missing", "/lxc")


@pytest.mark.parametrize("kind", ["squashfs", ""])
def test_an_image_whose_ids_cannot_be_mapped_is_refused(kind: str) -> None:
    problem = refusal(ConfigError, replace(REQUEST, image=replace(IMAGE, rootfs_format=kind)))
    assert (problem.code, problem.path) == ("image_without_root", "/lxc")
    assert problem.expected


def test_who_is_not_root_names_nobody_else() -> None:
    problem = refusal(PolicyRefused, replace(REQUEST, user=2000), OF_A_USER)
    assert (problem.code, problem.path) == ("user_refused", "/mxcOps/user")
    plan = make_plan(replace(REQUEST, user=1001, group=1002), OF_A_USER, FilesystemView())
    assert (plan.identity.kind, plan.identity.uid) == ("mapped", 1001)


def test_what_no_control_group_holds_is_refused_for_a_user_too() -> None:
    request = replace(REQUEST, limits=Limits(cpus=0.5))
    assert refusal(PolicyRefused, request, OF_A_USER).code == "limit_not_enforceable"


def test_a_user_is_told_that_apparmor_keeps_its_profiles_to_root() -> None:
    plan = make_plan(REQUEST, replace(OF_A_USER, apparmor_on=True), FilesystemView())
    assert any("AppArmor" in warning for warning in plan.warnings)
    assert "lxc.apparmor.profile = unconfined" in plan.config


@pytest.mark.parametrize("user", [None, 2000])
def test_without_a_recorded_uid_range_nothing_is_planned(user: int | None) -> None:
    facts = replace(FACTS, uid_range=None)
    problem = refusal(BackendUnavailable, replace(REQUEST, user=user), facts)
    assert problem.code == "no_uid_range"
    assert problem.fix.startswith("mxc-ops prep host")


@pytest.mark.parametrize("path", ["/usr", "/etc", "/proc/sys", "/sys", "/dev/pts", "/etc/passwd", "/"])
def test_what_the_container_runs_from_is_not_replaced(path: str) -> None:
    pointer = "/filesystem/readonlyPaths/0"
    entry = Entry(Effect.BIND_READ_ONLY, path, pointer, slot=0, kind=ObjectKind.DIRECTORY)
    problem = refusal(PolicyRefused, REQUEST, view=FilesystemView((entry,)))
    assert (problem.code, problem.path) == ("guest_path_reserved", pointer)
    assert "machine" not in problem.message


def test_a_relative_working_directory_is_refused() -> None:
    problem = refusal(PolicyRefused, replace(REQUEST, cwd="work"))
    assert (problem.code, problem.path) == ("relative_cwd", "/process/cwd")


def test_an_unknown_seccomp_profile_is_refused_with_those_there_are() -> None:
    problem = refusal(PolicyRefused, replace(REQUEST, seccomp="none"))
    assert problem.code == "unknown_seccomp_profile"
    assert "strict" in problem.expected


@pytest.mark.parametrize("uid", [0, 65534])
def test_root_and_the_overflow_uid_are_refused_for_workloads(uid: int) -> None:
    assert refusal(PolicyRefused, replace(REQUEST, user=uid)).code == "user_refused"


def test_a_limit_that_nothing_holds_is_refused_by_name() -> None:
    problem = refusal(PolicyRefused, replace(REQUEST, limits=Limits(cpus=0.5)))
    assert problem.path == "/mxcOps/limits/cpus"
