"""The version axis: config-schema.md §1, and what each version's document may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mxc_ops.config.document import RequestKind
from mxc_ops.config.loader import load
from mxc_ops.config.models.editions import CONTRACTS, EXACT
from tests.unit.config_cases import CONTRACT, RUN, accept, one_shot, problems, signs


@pytest.mark.parametrize(
    "version",
    [
        "0.4.0-alpha",
        "0.5.0",
        "0.6.0-alpha",
        "0.7.0-dev",
        "0.7.99-foo",
        "0.8.0-alpha",
        "0.9.0-dev",
        "0.9.0",
        "0.9.1-alpha",
    ],
)
def test_any_patch_and_label_of_the_ranged_line_is_read(version: str) -> None:
    document = load(json.dumps(one_shot(version)).encode())
    assert (document.declared_version, document.contract) == (version, None)


@pytest.mark.parametrize("version", [None, ""])
def test_the_version_may_be_null_or_empty_in_the_ranged_line(version: str | None) -> None:
    document = load(json.dumps({**RUN, "version": version}).encode())
    assert (document.declared_version, document.contract) == (None, None)


def test_the_version_may_be_absent_in_the_ranged_line() -> None:
    document = load(json.dumps(RUN).encode())
    assert (document.declared_version, document.warnings) == (None, ())


@pytest.mark.parametrize("version", EXACT)
def test_the_exact_contracts_are_told_by_their_whole_name(version: str) -> None:
    document = load(json.dumps(one_shot(version)).encode())
    assert (document.declared_version, document.contract) == (version, version)


@pytest.mark.parametrize(
    ("version", "code", "word"),
    [
        ("0.3.0-alpha", "unsupported_version", "older"),
        ("0.10.0", "unsupported_version", "newer"),
        ("1.0.1", "unsupported_version", "newer"),
        ("1.1.0", "unsupported_version", "newer"),
        ("99999999999999999999.0.0", "unsupported_version", "newer"),
        ("0.8", "invalid_version", "X.Y.Z"),
        ("v0.8.0", "invalid_version", "X.Y.Z"),
        ("0.08.0", "invalid_version", "X.Y.Z"),
        ("0.8.0-", "invalid_version", "X.Y.Z"),
        ("0.8.٣", "invalid_version", "X.Y.Z"),
        ("0.8.0 ", "invalid_version", "X.Y.Z"),
        (8, "wrong_type", "string"),
        (["1.0.0"], "wrong_type", "string"),
    ],
)
def test_another_version_is_refused_with_what_is_supported(version: Any, code: str, word: str) -> None:
    (problem,) = problems({**RUN, "version": version})
    assert (problem.code, problem.path) == (code, "/version")
    assert word in str(problem)


@pytest.mark.parametrize("version", CONTRACTS)
def test_a_minimal_document_satisfies_every_contract(version: str) -> None:
    assert accept(one_shot(version), **CONTRACT) == ()


@pytest.mark.parametrize("version", [None, "", "0.8.7", "2.0.0"])
def test_a_contract_must_be_named_exactly(version: str | None) -> None:
    assert {pointer for _code, pointer in signs({**RUN, "version": version}, **CONTRACT)} == {"/version"}


def test_null_stands_for_absent_in_the_ranged_line_only() -> None:
    nulls: dict[str, Any] = {"containerId": None, "ui": None, "filesystem": {"deniedPaths": None}}
    assert accept(one_shot("0.6.0-alpha", **nulls)) == ()
    assert signs(one_shot("1.0.0", **nulls)) == {
        ("wrong_type", "/containerId"),
        ("wrong_type", "/ui"),
        ("wrong_type", "/filesystem/deniedPaths"),
    }


def test_null_is_refused_where_something_is_required() -> None:
    network = {"egress": {"allow": [{"to": [{"cidr": None}]}]}}
    assert signs(one_shot(network=network)) == {("wrong_type", "/network/egress/allow/0/to/0/cidr")}


@pytest.mark.parametrize(
    ("version", "fields", "pointer"),
    [
        ("0.6.0-alpha", {"experimental": {"test": {}}}, "/experimental"),
        ("0.6.0-alpha", {"containment": "appcontainer"}, "/containment"),
        ("0.7.0-alpha", {"containment": "microvm"}, "/containment"),
        ("0.5.0-alpha", {"network": {"allowLocalNetwork": False}}, "/network/allowLocalNetwork"),
        ("0.4.0-alpha", {"$schema": "x"}, "/$schema"),
        (
            "0.7.0-alpha",
            {"containment": "process", "processContainer": {"learningMode": True}},
            "/processContainer/learningMode",
        ),
        ("0.7.3-foo", {"containment": "wslc"}, "/containment"),
        ("0.9.0-dev", {"containment": "process", "appContainer": {}}, "/appContainer"),
    ],
)
def test_what_the_declared_version_did_not_have_loads_with_one_warning(
    version: str, fields: dict[str, Any], pointer: str
) -> None:
    (warning,) = accept(one_shot(version, **fields))
    assert (warning.code, warning.path) == ("not_in_declared_version", pointer)
    assert f"is not in the schema of {version}" in warning.message


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (
            "0.5.0-alpha",
            {"experimental": {"macos_sandbox": {"mode": "inproc"}}, "containment": "macos_sandbox"},
        ),
        ("0.7.0-dev", {"experimental": {"seatbelt": {"guiAccess": True}}, "containment": "seatbelt"}),
        (
            "0.7.0-dev",
            {
                "containment": "isolation_session",
                "experimental": {"isolation_session": {"configurationId": "small"}},
            },
        ),
        (
            "0.7.0-dev",
            {
                "containment": "wslc",
                "experimental": {
                    "wslc": {"portMappings": [{"windowsPort": 1, "containerPort": 2, "protocol": "udp"}]}
                },
            },
        ),
    ],
)
def test_a_field_that_was_withdrawn_later_loads_in_the_version_that_had_it(
    version: str, fields: dict[str, Any]
) -> None:
    assert accept(one_shot(version, **fields)) == ()
    assert problems(one_shot("0.9.0-dev", **fields))


@pytest.mark.parametrize("version", [None, "0.6.0-alpha", "0.8.0-alpha", "0.9.0-dev"])
def test_seatbelt_settings_have_moved_out_of_experimental(version: str | None) -> None:
    document = one_shot(version, containment="seatbelt", experimental={"seatbelt": {}})
    assert signs(document) == {("moved_field", "/experimental/seatbelt")}


@pytest.mark.parametrize("version", [None, "0.4.0-alpha", "0.7.0-alpha", "0.9.0-dev", *EXACT])
@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"surprise": 1}, "/surprise"),
        ({"process": {"commandLine": "true", "args": []}}, "/process/args"),
        ({"network": {"egres": {}}}, "/network/egres"),
        ({"lifecycle": {"_comment": 1}}, "/lifecycle/_comment"),
        ({"ui": {"clip": "none"}}, "/ui/clip"),
        ({"mxcOps": {"limits": {"memory": 1}}}, "/mxcOps/limits/memory"),
    ],
)
def test_every_object_is_closed_in_every_version(
    version: str | None, fields: dict[str, Any], pointer: str
) -> None:
    assert signs(one_shot(version, **fields)) == {("unknown_field", pointer)}


def test_experimental_is_closed_too() -> None:
    experimental = {
        "telemetry": {"enable": True},
        "wslc": {"portMappings": [{"windowsPort": 1, "containerPort": 2, "x": 1}]},
    }
    assert signs(one_shot(containment="wslc", experimental=experimental)) == {
        ("unknown_field", "/experimental/telemetry/enable"),
        ("unknown_field", "/experimental/wslc/portMappings/0/x"),
    }


OPEN_NETWORK = {"egress": {"default": "allow"}, "ingress": {"default": "allow", "hostLoopback": "allow"}}


@pytest.mark.parametrize(
    ("version", "containments"),
    [
        ("0.9.0-alpha", {"appcontainer": True, "macos_sandbox": True, "vm": False, "wslc": True}),
        (
            "1.0.0",
            {"appcontainer": False, "macos_sandbox": False, "microvm": False, "isolation_session": True},
        ),
        ("1.1.0-alpha", {"appcontainer": False, "vm": True, "windows_sandbox": True, "hyperlight": True}),
    ],
)
def test_an_exact_contract_knows_its_containments_only(version: str, containments: dict[str, bool]) -> None:
    for containment, known in containments.items():
        # The one containment that wants something of another field: its open network acknowledged.
        acknowledged = {"network": OPEN_NETWORK} if containment == "isolation_session" else {}
        document = one_shot(version, containment=containment, **acknowledged)
        assert accept(document) == () if known else signs(document) == {("invalid_value", "/containment")}


@pytest.mark.parametrize("version", EXACT)
def test_an_exact_contract_takes_its_own_fields(version: str) -> None:
    document = one_shot(
        version,
        containment="wslc",
        telemetry={"enabled": False},
        wslc={"image": "alpine:latest", "cpuCount": 2},
        process={"commandLine": "true", "inheritDefaultEnv": True},
        network={"egress": {"default": "allow"}},
    )
    assert accept(document) == ()
    assert accept(document, **CONTRACT) == ()


def test_what_left_in_the_exact_contracts_is_refused_with_its_replacement() -> None:
    document = one_shot("1.0.0", network={"defaultPolicy": "block"}, experimental={}, appContainer={})
    fixes = {problem.path: problem.fix for problem in problems(document)}
    assert "network.egress.default" in fixes["/network/defaultPolicy"]
    assert "root" in fixes["/experimental"]
    assert "processContainer" in fixes["/appContainer"]


def test_fields_of_1_1_are_not_in_1_0() -> None:
    fields: dict[str, Any] = {"containment": "hyperlight", "hyperlight": {"runtime": "python"}}
    assert accept(one_shot("1.1.0-alpha", **fields)) == ()
    assert signs(one_shot("1.0.0", **fields)) == {
        ("invalid_value", "/containment"),
        ("unknown_field", "/hyperlight"),
    }


def test_the_kind_of_request_is_the_phase() -> None:
    stop = {"version": "0.8.0-alpha", "phase": "stop", "sandboxId": "iso:x"}
    assert load(json.dumps(stop).encode()).kind is RequestKind.STOP
    assert load(json.dumps({**RUN, "phase": None}).encode()).kind is RequestKind.ONE_SHOT
    assert signs(stop, one_shot_only=True) == {("lifecycle_request", "/phase")}
    assert ("invalid_value", "/phase") in signs({**stop, "phase": "pause"})


def test_the_body_is_the_document_as_it_was_written() -> None:
    document = one_shot("0.6.0-alpha", containment="appcontainer", appContainer={"capabilities": None})
    assert load(json.dumps(document).encode()).body == document
