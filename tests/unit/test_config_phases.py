"""Lifecycle requests: lifecycle.md §3 and the closed contracts of config-schema.md §8."""

from __future__ import annotations

from typing import Any

import pytest

from mxc_ops.config.models.editions import EXACT
from tests.unit.config_cases import CONTRACT, accept, signs

RUN = {"commandLine": "true"}
OPEN = {
    "egress": {"default": "allow"},
    "ingress": {"default": "allow", "hostLoopback": "allow"},
}


def request(phase: str, version: str = "0.8.0-alpha", **fields: Any) -> dict[str, Any]:
    return {"version": version, "phase": phase, **fields}


@pytest.mark.parametrize("version", ["0.6.0-alpha", "0.8.0-alpha", "0.9.0-dev"])
def test_each_phase_of_the_ranged_line_is_taken(version: str) -> None:
    accept(request("provision", version, containment="wslc", filesystem={"readonlyPaths": ["/a"]}))
    accept(request("exec", version, sandboxId="wslc:x", process=RUN))
    for phase in ("start", "stop", "deprovision"):
        accept(request(phase, version, sandboxId="wslc:x", experimental={"telemetry": {"enabled": False}}))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (request("provision"), {("missing_field", "/containment")}),
        (request("provision", containment="wslc", sandboxId="wslc:x"), {("foreign_field", "/sandboxId")}),
        (request("provision", containment="wslc", process=RUN), {("foreign_field", "/process")}),
        (request("start"), {("missing_field", "/sandboxId")}),
        (request("start", sandboxId="iso:x", containment="wslc"), {("foreign_field", "/containment")}),
        (request("stop", sandboxId="iso:x", process=RUN), {("foreign_field", "/process")}),
        (request("stop", sandboxId="iso:x", filesystem={}), {("foreign_field", "/filesystem")}),
        (request("deprovision", sandboxId="iso:x", network={}), {("foreign_field", "/network")}),
        (request("exec", sandboxId="iso:x"), {("missing_field", "/process")}),
        (
            request("exec", sandboxId="iso:x", process={"commandLine": ""}),
            {("empty_value", "/process/commandLine")},
        ),
        (
            request("exec", sandboxId="iso:x", process=RUN, containment="wslc"),
            {("foreign_field", "/containment")},
        ),
        *(
            ({**request("provision", containment="wslc"), section: {}}, {("foreign_field", f"/{section}")})
            for section in ("seatbelt", "processContainer", "lxc", "lifecycle", "appContainer")
        ),
    ],
)
def test_what_belongs_to_another_phase_is_refused_not_ignored(
    document: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    assert signs(document) == expected


def test_settings_of_another_backend_or_phase_are_refused() -> None:
    foreign = request("provision", containment="wslc", experimental={"isolation_session": {}})
    assert signs(foreign) == {("foreign_section", "/experimental/isolation_session")}
    misplaced = request("provision", containment="wslc", experimental={"wslc": {"image": "a"}})
    assert signs(misplaced) == {("foreign_field", "/experimental/wslc/image")}
    late = request("start", sandboxId="wslc:x", experimental={"wslc": {"provision": {"image": "a"}}})
    assert signs(late) == {("foreign_field", "/experimental/wslc/provision")}
    accept(request("provision", containment="wslc", experimental={"wslc": {"provision": {"image": "a"}}}))


@pytest.mark.parametrize("network", [{"defaultPolicy": "allow", "allowLocalNetwork": True}, OPEN])
def test_an_isolation_session_acknowledges_the_open_network(network: dict[str, Any]) -> None:
    accept(request("provision", containment="isolation_session", network=network))


@pytest.mark.parametrize("network", [None, {}, {"defaultPolicy": "allow"}, {"egress": {"default": "allow"}}])
def test_an_isolation_session_without_the_acknowledgement_is_refused(network: dict[str, Any] | None) -> None:
    document = request("provision", containment="isolation_session", network=network)
    assert signs(document) == {("missing_acknowledgement", "/network")}


@pytest.mark.parametrize(
    ("containment", "section"),
    [
        ("isolation_session", "filesystem"),
        ("isolation_session", "ui"),
        ("windows_sandbox", "network"),
        ("windows_sandbox", "ui"),
    ],
)
def test_a_backend_takes_only_its_own_policy_when_provisioned(containment: str, section: str) -> None:
    fields: dict[str, Any] = {"network": {"defaultPolicy": "allow", "allowLocalNetwork": True}}
    if containment == "windows_sandbox":
        fields = {}
    document: dict[str, Any] = {**request("provision", containment=containment, **fields), section: {}}
    assert ("foreign_field", f"/{section}") in signs(document)


@pytest.mark.parametrize("version", EXACT)
def test_each_request_of_an_exact_contract_is_closed(version: str) -> None:
    good = [
        request(
            "provision",
            version,
            containment="isolation_session",
            network=OPEN,
            isolationSession={"provision": {"appId": "a"}},
        ),
        request("provision", version, containment="wslc", wslc={"provision": {"image": "a"}}, network={}),
        request("start", version, sandboxId="iso:x", telemetry={}),
        request(
            "exec",
            version,
            sandboxId="wslc:x",
            process=RUN,
            runtimeConfig={"networkProxy": "http://a.example:1"},
        ),
        request("stop", version, sandboxId="iso:x", _comment=None),
        request("deprovision", version, sandboxId="iso:x"),
    ]
    for document in good:
        assert accept(document) == ()
        assert accept(document, **CONTRACT) == ()
        assert ("unknown_field", "/lifecycle") in signs({**document, "lifecycle": {}})
        assert ("unknown_field", "/experimental") in signs({**document, "experimental": {}})


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (request("start", "1.0.0"), {("missing_field", "/sandboxId")}),
        (request("exec", "1.0.0", sandboxId="x"), {("missing_field", "/process")}),
        (request("provision", "1.0.0"), {("missing_field", "/containment")}),
        (request("provision", "1.0.0", containment="windows_sandbox"), {("invalid_value", "/containment")}),
        (request("provision", "1.0.0", containment="isolation_session"), {("missing_field", "/network")}),
        (
            request(
                "provision",
                "1.0.0",
                containment="isolation_session",
                network={**OPEN, "egress": {"default": "deny"}},
            ),
            {("invalid_value", "/network/egress/default")},
        ),
        (request("frob", "1.0.0"), {("invalid_value", "/phase")}),
        (
            request("stop", "1.0.0", sandboxId="x", correlationVector="a"),
            {("unknown_field", "/correlationVector")},
        ),
    ],
)
def test_an_exact_contract_refuses_what_its_table_lacks(
    document: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    assert signs(document) == expected


@pytest.mark.parametrize("containment", ["process", "bubblewrap", "lxc", "microvm", "vm"])
def test_every_ranged_version_provisions_what_has_sessions_here(containment: str) -> None:
    for version in ("0.6.0-alpha", "0.7.0-alpha", "0.8.0-alpha", "0.9.0-dev"):
        accept(
            request("provision", version, containment=containment, filesystem={"readonlyPaths": ["/a"]})
            | {"mxcOps": {"limits": {"pids": 9}}}
        )


@pytest.mark.parametrize(
    ("version", "containments"),
    [
        ("0.9.0-alpha", ("process", "bubblewrap", "lxc")),
        ("1.0.0", ("process", "bubblewrap", "lxc")),
        ("1.1.0-alpha", ("process", "bubblewrap", "lxc", "microvm", "vm")),
    ],
)
def test_in_the_exact_contracts_it_is_our_extension(version: str, containments: tuple[str, ...]) -> None:
    for containment in containments:
        document = request("provision", version, containment=containment, network={}, filesystem={})
        assert accept(document) == ()
        assert signs(document, **CONTRACT) == {("invalid_value", "/containment")}
        assert signs({**document, "process": RUN}) == {("unknown_field", "/process")}
        assert signs({**document, "lxc": {}}) == {("unknown_field", "/lxc")}
        assert signs({**document, "sandboxId": "x"}) == {("unknown_field", "/sandboxId")}


@pytest.mark.parametrize("containment", ["microvm", "vm", "hyperlight", "seatbelt"])
def test_what_a_version_cannot_run_it_cannot_provision(containment: str) -> None:
    document = request("provision", "1.0.0", containment=containment)
    assert signs(document) == {("invalid_value", "/containment")}


@pytest.mark.parametrize("version", ["0.8.0-alpha", "1.0.0"])
def test_a_provision_request_runs_nothing(version: str) -> None:
    document = request("provision", version, containment="bubblewrap", mxcOps={"args": ["ls"]})
    assert signs(document) == {("foreign_field", "/mxcOps/args")}


@pytest.mark.parametrize(
    ("identifier", "backend"), [("bwrap:x", "wslc"), ("lxc:x", "wslc"), ("vm:x", "windows_sandbox")]
)
def test_experimental_settings_are_foreign_to_the_sandboxes_here(identifier: str, backend: str) -> None:
    document = request("start", sandboxId=identifier, experimental={backend: {}})
    assert signs(document) == {("foreign_section", f"/experimental/{backend}")}


def test_windows_sandbox_is_provisioned_from_1_1_on() -> None:
    assert accept(request("provision", "1.1.0-alpha", containment="windows_sandbox", filesystem={})) == ()


@pytest.mark.parametrize("field", ["sandboxId", "correlationVector"])
def test_a_one_shot_takes_no_lifecycle_field(field: str) -> None:
    assert signs({"version": "0.9.0-dev", "process": RUN, field: "x"}) == {("foreign_field", f"/{field}")}
