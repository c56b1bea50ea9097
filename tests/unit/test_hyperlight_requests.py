"""What documents and policies say of Hyperlight, and the request and the places that come of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Access, Grant, HostPath, ObjectKind, PathState, SandboxRequest
from backends.errors import PolicyRefused
from backends.features import Feature
from backends.guest_files.places import GuestPlaces
from backends.hyperlight.places import at_host
from backends.hyperlight_settings import RUNTIMES
from mxc_ops import CommandKind, ConfigError, Driver, HyperlightSettings, Policy, Runtime, VirtualMachine
from mxc_ops.config.loader import load
from mxc_ops.config.migrate import migrate
from mxc_ops.config.request import build_request
from mxc_ops.session.documents import command_request, policy_document
from tests.unit.config_cases import accept, one_shot, signs
from tests.unit.documents import loaded

SETTINGS = st.builds(HyperlightSettings, st.sampled_from(Runtime), st.none() | st.sampled_from(Driver))
NAMES = st.sampled_from(["a", "b", "data", "out"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


def request(version: str = "1.1.0-alpha", **fields: Any) -> SandboxRequest:
    document = loaded(**{"version": version, "containment": "hyperlight", **fields})
    return build_request(document, platform="linux")


@pytest.mark.parametrize("version", ["0.7.0-dev", "0.8.0-alpha", "0.9.0-dev"])
def test_before_runtimes_had_names_a_command_is_python(version: str) -> None:
    made = request(version)
    assert made.hyperlight == HyperlightSettings(Runtime.PYTHON)
    assert made.vm == VirtualMachine("python", command=CommandKind.PYTHON)


@pytest.mark.parametrize("section", [{}, {"hyperlight": {}}])
def test_without_a_name_it_is_the_runtime_of_agents_since_then(section: dict[str, Any]) -> None:
    made = request(**section)
    assert made.hyperlight == HyperlightSettings(Runtime.AGENT)
    assert made.vm == VirtualMachine("agent", command=CommandKind.SHELL)


@pytest.mark.parametrize("runtime", Runtime)
def test_a_runtime_is_an_image_and_a_kind_of_command(runtime: Runtime) -> None:
    made = request(hyperlight={"runtime": runtime.value}, mxcOps={"vm": {"memoryMib": 512}})
    assert made.hyperlight == HyperlightSettings(runtime)
    kind = RUNTIMES[runtime]
    assert made.vm == VirtualMachine(kind.image, memory_mib=512, command=kind.command)
    assert request(mxcOps={"vm": {"image": "mine"}}).vm == VirtualMachine("mine", command=CommandKind.SHELL)


def test_a_document_that_moves_to_the_newest_version_keeps_its_runtime() -> None:
    old = load(json.dumps(one_shot("0.8.0-alpha", containment="hyperlight")).encode())
    moved = migrate(old, "1.1.0-alpha")
    assert (moved.body["hyperlight"], moved.losses) == ({"runtime": "python"}, ())
    assert migrate(old, "1.0.0").refused


def test_the_driver_is_asked_for_in_any_version_and_of_no_other_containment() -> None:
    for version in ("0.8.0-alpha", "1.1.0-alpha"):
        for name, driver in (("native", Driver.NATIVE), ("qemu", Driver.QEMU), ("auto", None)):
            settings = request(version, mxcOps={"hyperlight": {"driver": name}}).hyperlight
            assert settings is not None and settings.driver is driver
    document = loaded(version="1.0.0", containment="lxc", mxcOps={"hyperlight": {"driver": "qemu"}})
    (asked,) = build_request(document, platform="linux").asked
    assert (asked.feature, asked.pointer) == (Feature.BACKEND_SECTION, "/mxcOps/hyperlight")
    bad = one_shot("1.1.0-alpha", containment="hyperlight", mxcOps={"hyperlight": {"driver": "whp"}})
    assert signs(bad) == {("invalid_value", "/mxcOps/hyperlight/driver")}


def test_what_a_command_is_nothing_but_the_runtime_says() -> None:
    for field, pointer in (
        ({"vm": {"command": "shell"}}, "/mxcOps/vm/command"),
        ({"args": ["ls"]}, "/mxcOps/args"),
    ):
        fields: dict[str, Any] = {"mxcOps": field} | ({"process": {}} if "args" in field else {})
        accept({**one_shot("1.1.0-alpha", containment="hyperlight"), **fields})
        with pytest.raises(ConfigError) as caught:
            request(**fields)
        assert [(each.code, each.path) for each in caught.value.problems] == [("conflicting_fields", pointer)]
    with pytest.raises(ConfigError, match="argument vector"):
        Policy(containment="hyperlight").request(["ls"])
    with pytest.raises(ConfigError, match=r"vm\.command"):
        Policy(containment="hyperlight", vm=VirtualMachine(command=CommandKind.SHELL)).request("ls")


@given(SETTINGS)
def test_a_policy_and_the_document_it_writes_ask_for_the_same(settings: HyperlightSettings) -> None:
    policy = Policy(containment="hyperlight", hyperlight=settings)
    document = load(json.dumps(policy.as_config("print(1)")).encode())
    of_policy, of_document = policy.request("print(1)"), build_request(document)
    assert (of_policy.hyperlight, of_policy.vm) == (of_document.hyperlight, of_document.vm)
    assert str(of_policy.document_hash) == str(of_document.document_hash)


def test_a_policy_says_what_is_wrong_with_its_settings() -> None:
    with pytest.raises(ConfigError) as caught:
        Policy(hyperlight=HyperlightSettings(runtime="python", driver="qemu"))  # type: ignore[arg-type]
    assert [each.path for each in caught.value.problems] == ["hyperlight.runtime", "hyperlight.driver"]
    (asked,) = Policy(hyperlight=HyperlightSettings()).request("ls").asked
    assert (asked.feature, asked.pointer) == (Feature.BACKEND_SECTION, "hyperlight")


def test_a_session_keeps_its_runtime() -> None:
    provision = loaded(
        version="1.1.0-alpha", phase="provision", containment="hyperlight", hyperlight={"runtime": "bash"}
    )
    policy = Policy.from_config(policy_document(provision))
    assert policy.hyperlight == HyperlightSettings(Runtime.BASH)
    later = loaded(
        version="1.1.0-alpha", phase="exec", sandboxId=f"hl:{'0' * 32}", process={"commandLine": "x"}
    )
    command = command_request(later, "hyperlight", policy.as_config("true"))
    assert command.vm is not None and command.vm.command is CommandKind.BASH


# --- /host/<last name> -----------------------------------------------------------------------------


def found(path: str, access: Access, canonical: str = "") -> HostPath:
    grant = Grant(path, access, f"/{path}")
    return HostPath(grant, PathState.OBJECT, canonical or path, ObjectKind.DIRECTORY)


def test_a_grant_is_called_as_it_was_written() -> None:
    paths = (
        found("/srv/current", Access.READ_ONLY, "/srv/releases/5"),
        found("/srv/data/", Access.READ_WRITE, "/srv/data"),
        found("/srv/data/secret", Access.DENIED),
    )
    places = at_host(paths)
    assert places.roots == (("/srv/releases/5", "/host/current"), ("/srv/data", "/host/data"))
    assert places.of("/srv/releases/5/bin") == ("/host/current/bin",)
    assert places.of("/srv/releases") == ()


def test_what_lies_in_another_grant_is_in_both_places() -> None:
    places = at_host((found("/srv/data", Access.READ_ONLY), found("/srv/data/out", Access.READ_WRITE)))
    assert places.of("/srv/data/out/x") == ("/host/data/out/x", "/host/out/x")


@given(st.lists(st.tuples(PATHS, st.sampled_from(Access)), max_size=6))
def test_no_two_objects_have_one_name(written: list[tuple[str, Access]]) -> None:
    paths = [found(path, access) for path, access in written]
    granted = [path for path in paths if path.grant.access is not Access.DENIED]
    names: dict[str, set[str]] = {}
    for path in granted:
        names.setdefault(path.canonical.rpartition("/")[2], set()).add(path.canonical)
    if all(len(objects) == 1 for objects in names.values()):
        places = at_host(paths)
        for path in granted:
            assert f"/host/{path.canonical.rpartition('/')[2]}" in places.of(path.canonical)
        assert {place for _, place in places.roots or ()} == {f"/host/{name}" for name in names}
        return
    with pytest.raises(PolicyRefused) as caught:
        at_host(paths)
    assert {each.code for each in caught.value.problems} == {"host_name_collision"}


def test_elsewhere_a_path_is_where_it_is() -> None:
    assert GuestPlaces().of("/srv/data") == ("/srv/data",)
