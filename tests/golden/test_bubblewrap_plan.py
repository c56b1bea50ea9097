"""Plans are data: the same request and facts give the same plan on any host.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.base import Environment, FilesystemView, Limits, SandboxRequest, Timeout
from backends.bubblewrap.facts import BaselineEntry, BubblewrapFacts, Helper
from backends.bubblewrap.plan import make_plan
from backends.errors import BackendUnavailable, PolicyRefused
from backends.frozen import replace
from backends.linux.cgroups import CgroupFacts
from backends.linux.uid_range import UidRange
from tests import network_samples as networks
from tests.policy_view import VIEW

GOLDEN = Path(__file__).parent / "bubblewrap"

USER_FACTS = BubblewrapFacts(
    helper=Helper("/usr/bin/bwrap", "0.8.0", (), False),
    launcher="/usr/local/lib/mxc-ops/helpers/0123/launcher",
    launcher_key="0123",
    landlock_abi=6,
    caller=(1001, 1001),
    baseline=(
        BaselineEntry("/bin", "usr/bin"),
        BaselineEntry("/lib", "usr/lib"),
        BaselineEntry("/usr/bin"),
        BaselineEntry("/usr/lib"),
        BaselineEntry("/etc/ssl/certs"),
    ),
    seccomp={"default": "sha256:d", "strict": "sha256:s", "debug": "sha256:g"},
)
ROOT_FACTS = replace(USER_FACTS, caller=(0, 0), uid_range=UidRange(1_900_000_000, 4096))
GROUPS = CgroupFacts("v1", {"memory": "/cg/memory", "pids": "/cg/pids", "cpu": "/cg/cpu"})

REQUEST = SandboxRequest("bubblewrap", shell="echo hello")
CASES: dict[str, tuple[SandboxRequest, BubblewrapFacts, FilesystemView]] = {
    "user-minimal": (REQUEST, USER_FACTS, FilesystemView()),
    "user-policy": (REQUEST, USER_FACTS, VIEW),
    "root-policy": (REQUEST, ROOT_FACTS, VIEW),
    "root-limits": (
        replace(
            REQUEST,
            limits=Limits(memory_mib=64, pids=10, cpus=0.5, cpu_seconds=3, file_size_mib=1, open_files=64),
            timeout=Timeout(5000, 200, "INT"),
        ),
        replace(ROOT_FACTS, cgroups=GROUPS),
        FilesystemView(),
    ),
    "user-limits": (
        replace(REQUEST, limits=Limits(memory_mib=64, pids=10, tmp_mib=8)),
        USER_FACTS,
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
        USER_FACTS,
        FilesystemView(),
    ),
    "named-user": (replace(REQUEST, user=2000, group=2001), ROOT_FACTS, VIEW),
    **{
        f"network-{name}": (
            replace(REQUEST, network=policy),
            replace(facts, network=network),
            FilesystemView(),
        )
        for name, policy, facts, network in (
            ("rules-root", networks.RULES, ROOT_FACTS, networks.FACTS),
            ("rules-user", networks.RULES, USER_FACTS, networks.FACTS),
            ("rules-user-slirp", networks.RULES, USER_FACTS, networks.WITHOUT_PASTA),
            ("names", networks.NAMES, USER_FACTS, networks.FACTS),
            ("proxy", networks.PROXY, USER_FACTS, networks.FACTS),
            ("ports", networks.PORTS, ROOT_FACTS, networks.FACTS),
        )
    },
}


@pytest.mark.backend("bubblewrap")
@pytest.mark.parametrize("name", CASES)
def test_plan_is_as_recorded(name: str) -> None:
    text = json.dumps(make_plan(*CASES[name]).as_dict(), indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_plan_never_shows_environment_values() -> None:
    request, facts, view = CASES["args-environment"]
    assert "secret value" not in json.dumps(make_plan(request, facts, view).as_dict())


def test_limit_that_nothing_holds_is_refused_by_name() -> None:
    with pytest.raises(PolicyRefused) as caught:
        make_plan(replace(REQUEST, limits=Limits(cpus=0.5)), USER_FACTS, FilesystemView())
    assert caught.value.path == "/mxcOps/limits/cpus"


def test_limit_that_nothing_holds_loads_with_a_warning_when_best_effort() -> None:
    limits = Limits(cpus=0.5, best_effort=frozenset(["cpus"]))
    plan = make_plan(replace(REQUEST, limits=limits), USER_FACTS, FilesystemView())
    assert any("cpus is not held" in warning for warning in plan.warnings)


def test_root_without_a_recorded_uid_range_is_refused() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        make_plan(REQUEST, replace(ROOT_FACTS, uid_range=None), FilesystemView())
    assert "mxc-ops prep host" in caught.value.fix


@pytest.mark.parametrize("uid", [0, 65534])
def test_root_and_overflow_uid_are_refused_for_workloads(uid: int) -> None:
    with pytest.raises(PolicyRefused):
        make_plan(replace(REQUEST, user=uid), ROOT_FACTS, FilesystemView())


def test_a_user_cannot_name_another_uid() -> None:
    with pytest.raises(PolicyRefused):
        make_plan(replace(REQUEST, user=2000), USER_FACTS, FilesystemView())


def test_relative_working_directory_is_refused() -> None:
    with pytest.raises(PolicyRefused):
        make_plan(replace(REQUEST, cwd="work"), USER_FACTS, FilesystemView())


def test_read_only_remount_of_the_root_comes_last() -> None:
    plan = make_plan(*CASES["user-policy"])
    assert plan.options[-2:] == ("--remount-ro", "/")
