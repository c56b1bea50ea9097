"""What a plan of a virtual machine refuses, chooses and keeps to itself."""

from __future__ import annotations

import json

import pytest

from backends.base import Environment, FilesystemView, Limits, SandboxRequest, SecretSource
from backends.errors import BackendUnavailable, ConfigError, MxcError, PolicyRefused
from backends.frozen import replace
from backends.qemu.machine import MachineKind
from backends.virtual_machine import CommandKind, VirtualMachine
from backends.vm.facts import VmFacts
from backends.vm.plan import VmPlan, make_plan
from tests.vm_samples import IMAGE, ROOT_FACTS, TINY, USER_FACTS

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

VM = VirtualMachine("python", IMAGE)
NODE = VirtualMachine("node", replace(IMAGE, name="node", zygote="node"), command=CommandKind.NODE)
OPTIONS = Environment((("NODE_OPTIONS", "--frozen-intrinsics"),))
REQUEST = SandboxRequest("vm", shell="echo hello", vm=VM)


def planned(request: SandboxRequest = REQUEST, facts: VmFacts = USER_FACTS) -> VmPlan:
    return make_plan(request, facts, FilesystemView())


@pytest.mark.parametrize(
    ("request_", "error", "code", "path"),
    [
        (replace(REQUEST, cwd="work"), PolicyRefused, "relative_cwd", "/process/cwd"),
        (replace(REQUEST, seccomp="lax"), PolicyRefused, "unknown_seccomp_profile", "/mxcOps/seccomp"),
        (
            replace(REQUEST, vm=VirtualMachine("tiny", TINY, command=CommandKind.PYTHON)),
            PolicyRefused,
            "image_without_python",
            "/mxcOps/vm/image",
        ),
        (  # another interpreter waits in it
            replace(REQUEST, vm=replace(VM, command=CommandKind.NODE)),
            PolicyRefused,
            "image_without_node",
            "/mxcOps/vm/image",
        ),
        (
            replace(REQUEST, vm=NODE, environment=OPTIONS),
            PolicyRefused,
            "variable_unheeded",
            "/process/env",
        ),
        (
            replace(REQUEST, vm=replace(VM, memory_mib=64)),
            PolicyRefused,
            "memory_too_small",
            "/mxcOps/vm/memoryMib",
        ),
        (
            replace(REQUEST, limits=Limits(memory_mib=512)),
            PolicyRefused,
            "memory_beyond_machine",
            "/mxcOps/limits/memoryMib",
        ),
        (
            replace(REQUEST, limits=Limits(pids=0)),
            PolicyRefused,
            "limit_not_enforceable",
            "/mxcOps/limits/pids",
        ),
        (replace(REQUEST, user=2000), PolicyRefused, "user_refused", "/mxcOps/user"),
        (replace(REQUEST, user=0), PolicyRefused, "user_refused", "/mxcOps/user"),
        (replace(REQUEST, vm=None), ConfigError, "image_missing", "/mxcOps/vm/image"),
        (replace(REQUEST, vm=VirtualMachine("mine")), ConfigError, "image_missing", "/mxcOps/vm/image"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    request_: SandboxRequest, error: type[MxcError], code: str, path: str
) -> None:
    with pytest.raises(error) as caught:
        planned(request_)
    assert [(problem.code, problem.path) for problem in caught.value.problems] == [(code, path)]
    assert not caught.value.retryable


def test_everything_that_is_wrong_is_said_at_once() -> None:
    vm = VirtualMachine("tiny", TINY, memory_mib=1, command=CommandKind.PYTHON)
    with pytest.raises(PolicyRefused) as caught:
        planned(replace(REQUEST, cwd="work", seccomp="lax", vm=vm))
    assert len(caught.value.problems) == 4


def test_pointers_name_the_field_that_the_user_wrote() -> None:
    with pytest.raises(PolicyRefused) as caught:
        planned(replace(REQUEST, cwd="work", pointers={"cwd": "cwd="}))
    assert caught.value.path == "cwd="


def test_root_without_a_recorded_uid_range_is_refused() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        planned(facts=replace(ROOT_FACTS, uid_range=None))
    assert "mxc-ops prep host" in caught.value.fix


def test_a_machine_is_as_big_as_asked_for_or_as_its_image_says() -> None:
    clone = planned().template.clone
    assert (clone.memory_mib, clone.cpus) == (IMAGE.memory_mib, 1)
    clone = planned(replace(REQUEST, vm=replace(VM, memory_mib=512, cpus=4))).template.clone
    assert (clone.memory_mib, clone.cpus) == (512, 4)


def test_the_template_depends_on_the_host_and_the_machine_and_on_no_policy() -> None:
    """Else a pool would need a template for each tenant."""
    key = planned().template.key
    for request in (
        replace(REQUEST, shell="other"),
        replace(REQUEST, limits=Limits(memory_mib=64), cwd="/tmp", tty=True, seccomp="strict"),
        replace(REQUEST, environment=Environment((("A", "b"),))),
        replace(REQUEST, containment="microvm", vm=replace(VM, command=CommandKind.PYTHON)),
    ):
        assert planned(request).template.key == key
    assert planned(facts=ROOT_FACTS).template.key == key
    assert planned(facts=replace(USER_FACTS, kind=MachineKind.Q35)).template.key != key


@pytest.mark.parametrize(
    ("request_", "args", "zygote"),
    [
        (REQUEST, ("/bin/sh", "-c", "echo hello"), None),
        (replace(REQUEST, shell=None, args=("printf", "x")), ("printf", "x"), None),
        (
            replace(REQUEST, shell="1", vm=replace(VM, command=CommandKind.SHELL)),
            ("/bin/sh", "-c", "1"),
            None,
        ),
        (
            replace(REQUEST, shell="print(1)", vm=replace(VM, command=CommandKind.PYTHON)),
            ("-c",),
            "print(1)",
        ),
        (replace(REQUEST, shell="let a = 1", vm=NODE), ("node",), "let a = 1"),
        (
            replace(REQUEST, shell="1", vm=replace(NODE, command=CommandKind.SHELL), environment=OPTIONS),
            ("/bin/sh", "-c", "1"),
            None,
        ),
    ],
)
def test_a_command_is_what_its_kind_says(
    request_: SandboxRequest, args: tuple[str, ...], zygote: str | None
) -> None:
    command = planned(request_).command
    assert (command.args, command.zygote) == (args, zygote)


@pytest.mark.parametrize("facts", [USER_FACTS, ROOT_FACTS])
def test_no_workload_is_root_in_its_guest_or_privileged(facts: VmFacts) -> None:
    command = planned(facts=facts).command
    assert not command.privileged
    assert 0 not in command.user
    assert command.timeout is None, "the host's clock counts: a guest's can be stopped"


def test_qemu_runs_under_a_uid_of_its_own_when_root_starts_it() -> None:
    identity = planned(facts=ROOT_FACTS).confinement.identity
    assert (identity.kind, identity.uid, identity.count) == ("range", 1_900_000_000, 4096)
    assert planned().confinement.identity.uid == 1001


def test_plan_never_shows_environment_values() -> None:
    entries = (("A", "secret value"), ("B", "other value"))
    secrets = (("TOKEN", SecretSource(file="/run/token")),)
    plan = planned(replace(REQUEST, environment=Environment(entries, secrets)))
    assert plan.as_dict()["environment"] == ["A", "B", "TOKEN"]
    for text in (json.dumps(plan.as_dict()), repr(plan)):
        assert "secret value" not in text
        assert "other value" not in text


def test_what_is_enforced_is_said() -> None:
    enforced = dict(planned().enforced)
    assert "microvm, tcg" in enforced["isolation"]
    assert "without a way out" in enforced["network"]
    assert enforced["system calls"].endswith("profile default")
