"""What documents and policies say of virtual machines, and the request that comes of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import SandboxRequest
from backends.errors import PolicyRefused
from backends.features import Feature
from backends.frozen import replace
from backends.registry import get
from mxc_ops import CommandKind, ConfigError, Policy, VirtualMachine
from mxc_ops.config.loader import load
from mxc_ops.config.request import build_request
from mxc_ops.config.schema_export import schema_for
from mxc_ops.policy import machine
from mxc_ops.policy.command import MAX_SOURCE_BYTES
from mxc_ops.policy.features import check_features
from tests.unit.config_cases import accept, one_shot, signs
from tests.unit.documents import loaded
from tests.unit.machines import put_in_place

SHELL, ARGS, PYTHON, NODE = CommandKind.SHELL, CommandKind.ARGS, CommandKind.PYTHON, CommandKind.NODE
FULL = {
    "image": "my-python.3_11",
    "memoryMib": 512,
    "cpus": 2,
    "accel": "kvm",
    "machine": "q35",
    "command": "shell",
}
OF_MACHINES = [name for name in machine.CONTAINMENTS if name not in machine.OF_RUNTIMES]
CONTAINMENTS = st.sampled_from(OF_MACHINES)
IMAGES = st.from_regex(machine.IMAGE_NAME, fullmatch=True)
MACHINES = st.builds(
    VirtualMachine,
    image_name=st.sampled_from(["", "base", "python", "tiny"]) | IMAGES,
    memory_mib=st.none() | st.integers(*machine.VM_RANGES["memoryMib"]),
    cpus=st.none() | st.integers(*machine.VM_RANGES["cpus"]),
    accelerator=st.sampled_from(["", "kvm", "tcg"]),
    machine=st.sampled_from(["", *machine.MACHINES]),
    command=st.none() | st.sampled_from(CommandKind),
)


def request(containment: str = "vm", platform: str = "linux", **fields: Any) -> SandboxRequest:
    return build_request(loaded(containment=containment, **fields), platform=platform)


def test_everything_that_is_said_arrives() -> None:
    assert request(mxcOps={"vm": FULL}).vm == VirtualMachine(
        image_name="my-python.3_11",
        memory_mib=512,
        cpus=2,
        accelerator="kvm",
        machine="q35",
        command=SHELL,
    )
    assert request(mxcOps={"vm": {"accel": "auto"}}).vm == request().vm


@pytest.mark.parametrize(
    ("containment", "ours", "kind", "image"),
    [
        ("microvm", {}, PYTHON, "python"),
        ("microvm", {"vm": {"command": "shell"}}, SHELL, "python"),
        ("microvm", {"args": ["id"]}, ARGS, "python"),
        ("microvm", {"args": ["id"], "vm": {"command": "args", "image": "tiny"}}, ARGS, "tiny"),
        ("vm", {}, SHELL, "base"),
        ("vm", {"vm": {}}, SHELL, "base"),
        ("vm", {"vm": {"command": "python"}}, PYTHON, "python"),
        ("vm", {"vm": {"command": "python", "image": "mine"}}, PYTHON, "mine"),
        ("vm", {"vm": {"command": "node"}}, NODE, "node"),
        ("microvm", {"vm": {"command": "node"}}, NODE, "node"),
        ("vm", {"vm": {"command": "node", "image": "mine"}}, NODE, "mine"),
        ("vm", {"args": ["id"]}, ARGS, "base"),
    ],
)
def test_the_containment_decides_what_the_command_is_unless_it_is_said(
    containment: str, ours: dict[str, Any], kind: CommandKind, image: str
) -> None:
    process = {} if "args" in ours else {"commandLine": "print(1)"}
    made = request(containment, mxcOps=ours, process=process)
    assert made.vm is not None
    assert (made.vm.command, made.vm.image_name) == (kind, image)
    assert (made.shell, made.args) == ((None, ("id",)) if kind is ARGS else ("print(1)", ()))


@pytest.mark.parametrize(
    ("containment", "platform"), [("bubblewrap", "linux"), ("process", "linux"), ("vm", "win32")]
)
def test_other_containments_have_no_machine_and_are_asked_whether_they_take_the_section(
    containment: str, platform: str
) -> None:
    made = request(containment, platform, mxcOps={"vm": {"cpus": 2}})
    assert made.vm is None
    [asked] = made.asked
    assert (asked.feature, asked.pointer, asked.value) == (
        Feature.BACKEND_SECTION,
        "/mxcOps/vm",
        '{"cpus": 2}',
    )


def test_bubblewrap_refuses_it_by_name_and_says_who_takes_it() -> None:
    backend = get("bubblewrap").capabilities
    with pytest.raises(PolicyRefused, match=r"^/mxcOps/vm: .*microvm, vm, hyperlight, wslc$"):
        check_features(request("bubblewrap", mxcOps={"vm": {}}), backend)
    policy = Policy(vm=VirtualMachine(cpus=2, command=PYTHON))
    with pytest.raises(PolicyRefused) as caught:
        check_features(policy.request("true"), backend)
    assert [problem.path for problem in caught.value.problems] == ["vm.cpus", "vm.command"]
    assert all(problem.fix.endswith("microvm, vm, hyperlight, wslc") for problem in caught.value.problems)


@pytest.mark.parametrize("containment", OF_MACHINES)
@pytest.mark.parametrize("section", ["windowsSandbox", "hyperlight"])
def test_what_upstream_has_for_other_machines_is_not_passed_over(containment: str, section: str) -> None:
    document = one_shot("1.1.0-alpha", containment=containment, **{section: {}})
    if containment == "vm" and section == "windowsSandbox":
        [asked] = build_request(load(json.dumps(document).encode()), platform="linux").asked
        assert (asked.feature, asked.pointer) == (Feature.BACKEND_SECTION, "/windowsSandbox")
    else:
        assert signs(document) == {("foreign_section", f"/{section}")}


BAD: list[tuple[dict[str, Any], str, str]] = [
    *(
        ({"image": name}, "invalid_value", "/image")
        for name in ("/etc/x", "../x", "a/b", ".x", "X", "a b", "ü", "a\n")
    ),
    ({"image": ""}, "empty_value", "/image"),
    ({"image": None}, "wrong_type", "/image"),
    ({"memoryMib": 95}, "out_of_range", "/memoryMib"),
    ({"memoryMib": 65537}, "out_of_range", "/memoryMib"),
    ({"memoryMib": 96.5}, "wrong_type", "/memoryMib"),
    ({"cpus": 0}, "out_of_range", "/cpus"),
    ({"cpus": 65}, "out_of_range", "/cpus"),
    ({"cpus": 0.5}, "wrong_type", "/cpus"),
    ({"accel": "whpx"}, "invalid_value", "/accel"),
    ({"machine": "pc"}, "invalid_value", "/machine"),
    ({"command": "exec"}, "invalid_value", "/command"),
    ({"command": "args"}, "conflicting_fields", "/command"),
    ({"kernel": "/boot/vmlinuz"}, "unknown_field", "/kernel"),
]


@pytest.mark.parametrize(("vm", "code", "where"), BAD)
@pytest.mark.parametrize("version", ["0.7.0-dev", "1.1.0-alpha"])
def test_a_bad_field_of_it_is_named(version: str, vm: dict[str, Any], code: str, where: str) -> None:
    document = one_shot(version, containment="vm", mxcOps={"vm": vm})
    assert signs(document) == {(code, f"/mxcOps/vm{where}")}


@pytest.mark.parametrize("kind", ["shell", "python"])
def test_arguments_are_no_line_and_no_source(kind: str) -> None:
    document: dict[str, Any] = {"version": "1.0.0", "mxcOps": {"args": ["true"], "vm": {"command": kind}}}
    assert signs(document) == {("conflicting_fields", "/mxcOps/vm/command")}
    document["mxcOps"] = {"args": "true", "vm": {"command": "args"}}
    assert signs(document) == {("wrong_type", "/mxcOps/args")}


@given(st.text(st.characters(codec="ascii"), max_size=4) | IMAGES)
def test_the_schema_takes_the_names_that_the_rules_take(name: str) -> None:
    schema = schema_for("1.1.0-alpha", with_extension=True)["$defs"]["MxcOpsVm"]["properties"]["image"]
    in_schema = re.search(schema["pattern"].replace("$", r"\Z"), name) is not None
    assert in_schema is machine.is_image_name(name)
    assert in_schema is (not name.startswith((".", "_", "-")) and bool(re.fullmatch(r"[a-z0-9._-]+", name)))


@given(containment=CONTAINMENTS, vm=MACHINES)
def test_what_is_said_comes_back_from_what_is_made_of_it(containment: str, vm: VirtualMachine) -> None:
    has_args = vm.command is ARGS
    made = machine.complete(containment, vm, has_args=has_args)
    assert made is not None
    less = machine.without_defaults(containment, made)
    assert machine.complete(containment, less, has_args=has_args) == made
    assert dict(machine.said(less or VirtualMachine())).items() <= dict(machine.said(vm)).items()


@given(containment=CONTAINMENTS, vm=st.none() | MACHINES)
def test_a_policy_and_the_document_it_writes_ask_for_the_same_machine(
    containment: str, vm: VirtualMachine | None
) -> None:
    policy = Policy(containment=containment, vm=vm)
    command = ["id", "-u"] if vm is not None and vm.command is ARGS else "print(1)"
    of_policy = policy.request(command)
    of_document = build_request(load(json.dumps(policy.as_config(command)).encode()))
    assert of_policy.vm is not None
    assert (of_policy.vm, of_policy.document_hash) == (of_document.vm, of_document.document_hash)
    assert (of_policy.shell, of_policy.args) == (of_document.shell, of_document.args)


@pytest.mark.parametrize(
    ("containment", "ours", "said"),
    [
        ("microvm", {}, None),
        ("microvm", {"vm": {"command": "shell"}}, VirtualMachine(command=SHELL)),
        ("vm", {"vm": {"command": "python", "image": "base"}}, VirtualMachine("base", command=PYTHON)),
        ("vm", {"vm": {"image": "base", "machine": "q35"}}, VirtualMachine(machine="q35")),
    ],
)
def test_a_document_becomes_a_policy_that_says_no_more_than_it(
    monkeypatch: pytest.MonkeyPatch, containment: str, ours: dict[str, Any], said: VirtualMachine | None
) -> None:
    put_in_place(monkeypatch)
    document = one_shot("1.1.0-alpha", containment=containment, mxcOps=ours)
    policy = Policy.from_config(document)
    assert policy.vm == said
    assert policy.request("true").vm == build_request(load(json.dumps(document).encode())).vm


WRONG: list[tuple[VirtualMachine, str]] = [
    (VirtualMachine(image_name="../x"), "vm.image_name"),
    (VirtualMachine(image_name=b"base"), "vm.image_name"),  # type: ignore[arg-type]
    (VirtualMachine(memory_mib=95), "vm.memory_mib"),
    (VirtualMachine(memory_mib=True), "vm.memory_mib"),
    (VirtualMachine(cpus=65), "vm.cpus"),
    (VirtualMachine(cpus=0.5), "vm.cpus"),  # type: ignore[arg-type]
    (VirtualMachine(accelerator="auto"), "vm.accelerator"),
    (VirtualMachine(machine="pc"), "vm.machine"),
    (VirtualMachine(command="shell"), "vm.command"),  # type: ignore[arg-type]
    ("q35", "vm"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("vm", "pointer"), WRONG)
def test_a_malformed_machine_of_a_policy_is_refused_by_name(vm: VirtualMachine, pointer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Policy(containment="vm", vm=vm)
    assert [problem.path for problem in caught.value.problems] == [pointer]


def test_an_image_is_not_handed_to_a_policy() -> None:
    from tests.unit.machines import IMAGE

    with pytest.raises(ConfigError, match=r"^vm\.image: "):
        Policy(containment="vm", vm=replace(VirtualMachine(), image=IMAGE))


@pytest.mark.parametrize(
    ("kind", "command"), [(ARGS, "true"), (SHELL, ["true"]), (PYTHON, ["print(1)"]), (NODE, ["1"])]
)
def test_a_command_of_another_kind_than_the_machine_is_told_is_refused(
    kind: CommandKind, command: Any
) -> None:
    policy = Policy(containment="vm", vm=VirtualMachine(command=kind))
    with pytest.raises(ConfigError, match=rf"^vm\.command: the command is said to be '{kind.value}'"):
        policy.request(command)


def test_source_may_be_longer_than_what_the_kernel_takes_as_one_argument() -> None:
    policy = Policy(containment="microvm")
    assert policy.request("#" * MAX_SOURCE_BYTES).shell
    with pytest.raises(ConfigError, match=r"^command: longer than the 1048576 bytes"):
        policy.request("#" * (MAX_SOURCE_BYTES + 1))
    document = one_shot("1.1.0-alpha", process={"commandLine": "#" * 2**18})
    assert build_request(load(json.dumps({**document, "containment": "microvm"}).encode())).shell
    with pytest.raises(ConfigError, match="131072"):
        build_request(load(json.dumps({**document, "containment": "vm"}).encode()))


def test_every_version_takes_it() -> None:
    for version in (None, "0.4.0-alpha", "0.8.0-alpha", "1.0.0", "1.1.0-alpha"):
        assert accept(one_shot(version, mxcOps={"vm": FULL})) == ()
