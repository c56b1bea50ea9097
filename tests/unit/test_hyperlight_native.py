"""What the native driver of Hyperlight takes, refuses by name, and makes of limits and devices."""

from __future__ import annotations

import tomllib

import pytest

from backends.base import (
    Access,
    Environment,
    FilesystemView,
    Grant,
    Limits,
    SandboxRequest,
    SecretSource,
    Stdin,
    StdinMode,
    Timeout,
)
from backends.errors import BackendUnavailable, PolicyRefused
from backends.features import Asked, Feature
from backends.frozen import replace
from backends.hyperlight.native.device import device_group
from backends.hyperlight.native.facts import Device
from backends.hyperlight.native.guest_modules import missing_modules
from backends.hyperlight.native.limits import machine_size
from backends.hyperlight.native.plan import plan_native
from backends.hyperlight.native.refusals import native_problems
from backends.hyperlight.native.words import without_repeats
from backends.hyperlight.needs import REQUIREMENTS
from backends.hyperlight_settings import Driver, HyperlightSettings, Runtime
from backends.launched.identity import Identity
from backends.linux.cgroups import CgroupFacts
from backends.network.policy import Ceiling, NameRule, NetworkPolicy
from backends.virtual_machine import CommandKind, VirtualMachine
from tests.conftest import CHECKOUT
from tests.native_samples import ROOT_FACTS, USER_FACTS

PLAIN = SandboxRequest("hyperlight", shell="print(1)")
NAMED = replace(PLAIN, hyperlight=HyperlightSettings(driver=Driver.NATIVE))
EGRESS = Asked(Feature.EGRESS, "/network/egress/default", '"allow"')


def test_the_extra_is_what_prep_installs() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert tuple(project["optional-dependencies"]["hyperlight"]) == REQUIREMENTS


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"cwd": "/"},
        {"args": ("one",)},
        {"environment": Environment((("A", "b"),), (("S", SecretSource(fd=3)),))},
        {"stdin": Stdin(StdinMode.TEXT, "text")},
        {"grants": (Grant("/etc/shadow", Access.DENIED, "/filesystem/deniedPaths/0"),)},
        {"limits": Limits(60, 1, 0.5, 1, 1, 1, 1)},
        {"limits": Limits(memory_mib=16_000)},
        {"timeout": Timeout(1000, 10, "INT")},
        {"seccomp": "debug"},
        {"user": 1001, "group": 1001},
        {"vm": VirtualMachine()},
        {"asked": (Asked(Feature.UI, "/ui/disable", "false"),)},
    ],
)
def test_what_the_packages_can_hold_is_taken(change: dict[str, object]) -> None:
    assert native_problems(replace(PLAIN, **change)) == ()


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        *(
            ({"hyperlight": HyperlightSettings(runtime)}, "runtime_not_supported", "/hyperlight/runtime")
            for runtime in Runtime
            if runtime is not Runtime.PYTHON
        ),
        ({"shell": None, "args": ("/bin/true",)}, "args_not_supported", "/mxcOps/args"),
        ({"shell": "import datetime"}, "module_missing", "/process/commandLine"),
        ({"cwd": "/tmp"}, "cwd_not_supported", "/process/cwd"),
        ({"cwd": "relative"}, "cwd_not_supported", "/process/cwd"),
        ({"tty": True}, "tty_not_supported", "/mxcOps/tty"),
        ({"grants": (Grant("/a", Access.READ_ONLY, "/f/0"),)}, "grant_not_supported", "/f/0"),
        ({"grants": (Grant("/a", Access.READ_WRITE, "/f/1", True),)}, "grant_not_supported", "/f/1"),
        ({"network": NetworkPolicy(True)}, "network_not_supported", "/network"),
        (
            {"network": NetworkPolicy(True), "asked": (EGRESS,)},
            "network_not_supported",
            "/network/egress/default",
        ),
        (
            {"network": NetworkPolicy(names=(NameRule("names.0", "/n/0", "example.test"),))},
            "network_not_supported",
            "/network",
        ),
        (
            {"network": NetworkPolicy(ceiling=Ceiling(names=(NameRule("names.0", "/n/0", "*"),)))},
            "network_not_supported",
            "/network",
        ),
        ({"limits": Limits(memory_mib=59)}, "memory_not_supported", "/mxcOps/limits/memoryMib"),
        ({"limits": Limits(memory_mib=16_001)}, "memory_not_supported", "/mxcOps/limits/memoryMib"),
        ({"vm": VirtualMachine("python")}, "machine_not_supported", "/mxcOps/vm/image"),
        ({"vm": VirtualMachine(memory_mib=64)}, "machine_not_supported", "/mxcOps/vm/memoryMib"),
        ({"vm": VirtualMachine(cpus=1)}, "machine_not_supported", "/mxcOps/vm/cpus"),
        ({"vm": VirtualMachine(accelerator="kvm")}, "machine_not_supported", "/mxcOps/vm/accelerator"),
        ({"vm": VirtualMachine(machine="q35")}, "machine_not_supported", "/mxcOps/vm/machine"),
        (
            {"vm": VirtualMachine(command=CommandKind.SHELL)},
            "machine_not_supported",
            "/mxcOps/vm/command",
        ),
    ],
)
def test_what_they_cannot_is_refused_by_name(change: dict[str, object], code: str, pointer: str) -> None:
    request = replace(PLAIN, **change)
    (problem,) = native_problems(request)
    assert (problem.code, problem.path) == (code, pointer)
    assert "mxcOps.hyperlight.driver: qemu" in problem.fix
    with pytest.raises(PolicyRefused) as refused:
        plan_native(request, USER_FACTS, FilesystemView())
    assert [found.code for found in refused.value.problems] == [code]


def test_a_place_that_the_document_has_is_named() -> None:
    pointers = {"cwd": "cwd=", "runtime": "hyperlight.runtime"}
    request = replace(PLAIN, cwd="/x", hyperlight=HyperlightSettings(Runtime.BASH), pointers=pointers)
    assert [problem.path for problem in native_problems(request)] == ["hyperlight.runtime", "cwd="]


def test_who_names_the_driver_sees_for_themselves_which_modules_are_missing() -> None:
    assert native_problems(replace(NAMED, shell="import datetime")) == ()


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("import json, re\nfrom collections import abc\nimport os.path as p", ()),
        ("import datetime", ("datetime",)),
        ("import json, datetime , string", ("datetime", "string")),
        ("  from urllib.parse import quote", ("urllib.parse",)),
        ("x = 1; import threading", ("threading",)),
        ("if True: import threading", ("threading",)),
        ("from __future__ import annotations", ("__future__",)),
        ("print('to import datetime')", ()),
        ("important = from_here = 1", ()),
        ("import " + "json," * 10_000, ()),
        ("import" + " " * 100_000, ()),
    ],
)
def test_missing_modules_are_found_in_the_text(source: str, missing: tuple[str, ...]) -> None:
    assert missing_modules(source) == missing


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (replace(USER_FACTS, why="no hypervisor"), "native_not_working"),
        (replace(USER_FACTS, packages=None), "native_not_working"),
        (replace(USER_FACTS, helper=None), "native_not_working"),
        (replace(ROOT_FACTS, uid_range=None), "no_uid_range"),
    ],
)
def test_no_plan_is_made_without_what_it_takes(facts: object, code: str) -> None:
    with pytest.raises(BackendUnavailable) as missing:
        plan_native(PLAIN, facts, FilesystemView())  # type: ignore[arg-type]
    assert missing.value.problems[0].code == code


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(PolicyRefused, match="no seccomp profile is called 'other'"):
        plan_native(replace(PLAIN, seccomp="other"), USER_FACTS, FilesystemView())


def test_a_share_of_the_processors_needs_a_control_group() -> None:
    request = replace(PLAIN, limits=Limits(cpus=0.5))
    with pytest.raises(PolicyRefused, match="cpus"):
        plan_native(request, USER_FACTS, FilesystemView())
    groups = CgroupFacts("v2", {"cpu": "/cg", "memory": "/cg", "pids": "/cg"})
    plan = plan_native(request, replace(ROOT_FACTS, cgroups=groups), FilesystemView())
    assert plan.limits.cgroup["cpu"] == {"cpu.max": "50000 100000"}


@pytest.mark.parametrize("memory_mib", [None, 60, 61, 1000, 16_000])
def test_a_machine_is_as_large_as_its_limit(memory_mib: int | None) -> None:
    size = machine_size(Limits(memory_mib=memory_mib))
    assert size.total == (memory_mib or 60)
    assert size.heap >= 25 and size.stack >= 35


RANGE = Identity("range", 1_900_000_000, 1_900_000_000, 4096)
KVM = Device("/dev/kvm", 0, 107, 0o660, 0, usable=True, made="")


@pytest.mark.parametrize(
    ("device", "identity", "group"),
    [
        (KVM, RANGE, 107),
        (replace(KVM, mode=0o666), RANGE, None),
        (replace(KVM, mode=0o666, gid=0), RANGE, None),
        (replace(KVM, mode=0o660), Identity("named", 1001, 107), None),
        (replace(KVM, mode=0o666), Identity("named", 1001, 1001), None),
        (KVM, Identity("caller", 1001, 1001), None),
    ],
)
def test_a_worker_opens_the_device_with_no_more_than_it_takes(
    device: Device, identity: Identity, group: int | None
) -> None:
    assert device_group(device, identity, "/mxcOps/user") == group


@pytest.mark.parametrize(
    ("device", "identity", "error"),
    [
        (replace(KVM, mode=0o600), RANGE, BackendUnavailable),
        (replace(KVM, gid=0), RANGE, BackendUnavailable),
        (replace(KVM, mode=0o640), RANGE, BackendUnavailable),
        (KVM, Identity("named", 1001, 1001), PolicyRefused),
        (replace(KVM, mode=0o606), Identity("named", 1001, 107), PolicyRefused),
        (replace(KVM, usable=False), Identity("caller", 1001, 1001), BackendUnavailable),
    ],
)
def test_who_may_not_open_the_device_is_told(
    device: Device, identity: Identity, error: type[Exception]
) -> None:
    with pytest.raises(error, match="/dev/kvm is of uid 0, gid"):
        device_group(device, identity, "/mxcOps/user")


def test_plans_show_no_values_of_the_environment() -> None:
    plan = plan_native(
        replace(PLAIN, environment=Environment((("A", "hunter2"),))), USER_FACTS, FilesystemView()
    )
    assert "hunter2" not in repr(plan) and "'A'" in repr(plan)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("a: b: c: b: c: c", "a: b: c"),
        ("  one\n line ", "one line"),
        ("", ""),
        ("x" * 1000, "x" * 200 + " … " + "x" * 200),
    ],
)
def test_each_cause_is_told_once(said: str, told: str) -> None:
    assert without_repeats(said) == told
