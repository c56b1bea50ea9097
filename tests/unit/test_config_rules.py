"""Rules between fields: config-schema.md §3.3 to §3.11 and §4."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.config_cases import CONTRACT, accept, one_shot, signs

LXC = {"distribution": "alpine", "release": "3.20"}
PROXY = {"networkProxy": "http://127.0.0.1:8080"}


BAD_RULES: list[tuple[dict[str, Any], str, str]] = [
    ({"to": []}, "empty_value", "/to"),
    ({"ports": []}, "empty_value", "/ports"),
    ({"to": [{}]}, "missing_field", "/to/0/cidr"),
    ({"to": [{"cidr": "10.0.0.1/8"}]}, "invalid_value", "/to/0/cidr"),
    ({"to": [{"cidr": "example.org"}]}, "invalid_value", "/to/0/cidr"),
    ({"to": [{"cidr": "10.0.0.0/255.0.0.0"}]}, "invalid_value", "/to/0/cidr"),
    ({"to": [{"cidr": "10.0.0.0/08"}]}, "invalid_value", "/to/0/cidr"),
    ({"to": [{"cidr": "fe80::1%eth0"}]}, "invalid_value", "/to/0/cidr"),
    ({"to": [{"cidr": ""}]}, "invalid_value", "/to/0/cidr"),
    ({"to": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/24"]}]}, "invalid_value", "/to/0/except/0"),
    ({"to": [{"cidr": "10.0.0.0/8", "except": ["::/0"]}]}, "invalid_value", "/to/0/except/0"),
    ({"to": [{"cidr": "10.0.0.0/24", "except": ["10.0.0.0/8"]}]}, "invalid_value", "/to/0/except/0"),
    ({"ports": [{"port": 0}]}, "out_of_range", "/ports/0/port"),
    ({"ports": [{"port": 65536}]}, "out_of_range", "/ports/0/port"),
    ({"ports": [{"endPort": 1}]}, "missing_field", "/ports/0/port"),
    ({"ports": [{"port": 2, "endPort": 1}]}, "out_of_range", "/ports/0/endPort"),
    ({"ports": [{"protocol": "icmp", "port": 1}]}, "conflicting_fields", "/ports/0"),
    ({"ports": [{"protocol": "sctp"}]}, "invalid_value", "/ports/0/protocol"),
]
DIRECT_TRAFFIC: list[dict[str, Any]] = [{"default": "allow"}, {"allow": [{}]}, {"deny": [{}]}]


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"process": {}}, "missing_field", "/process/commandLine"),
        ({"process": None}, "missing_field", "/process"),
        ({"process": {"commandLine": ""}}, "empty_value", "/process/commandLine"),
        ({"process": {"commandLine": " \t\n"}}, "empty_value", "/process/commandLine"),
        ({"process": {"commandLine": "a", "timeout": 2**32}}, "out_of_range", "/process/timeout"),
        ({"process": {"commandLine": "a", "timeout": -1}}, "out_of_range", "/process/timeout"),
        ({"process": {"commandLine": "a", "timeout": 5.0}}, "wrong_type", "/process/timeout"),
        ({"process": {"commandLine": "a", "timeout": True}}, "wrong_type", "/process/timeout"),
        ({"process": {"commandLine": "a", "timeout": "5"}}, "wrong_type", "/process/timeout"),
        ({"process": {"commandLine": "a", "env": ["A=b", "PATH"]}}, "invalid_value", "/process/env/1"),
        ({"process": {"commandLine": "a", "env": ["=x"]}}, "invalid_value", "/process/env/0"),
        ({"process": {"commandLine": "a", "env": [1]}}, "wrong_type", "/process/env/0"),
        ({"filesystem": {"readonlyPaths": ["/a", ""]}}, "invalid_value", "/filesystem/readonlyPaths/1"),
        ({"filesystem": {"deniedPaths": ["  "]}}, "invalid_value", "/filesystem/deniedPaths/0"),
        ({"filesystem": {"readwritePaths": ['/a"b']}}, "invalid_value", "/filesystem/readwritePaths/0"),
        ({"lifecycle": {"destroyOnExit": 1}}, "wrong_type", "/lifecycle/destroyOnExit"),
        ({"ui": {"clipboard": "copy"}}, "invalid_value", "/ui/clipboard"),
    ],
)
def test_a_bad_process_path_or_value_is_named(fields: dict[str, Any], code: str, pointer: str) -> None:
    assert signs(one_shot(**fields)) == {(code, pointer)}


def test_relative_paths_are_left_to_the_policy() -> None:
    assert accept(one_shot(filesystem={"readonlyPaths": ["~", "relative", "C:\\temp"]})) == ()


@pytest.mark.parametrize(
    ("containment", "fields", "foreign"),
    [
        ("bubblewrap", {"lxc": LXC}, ["/lxc"]),
        ("bubblewrap", {"processContainer": {}}, ["/processContainer"]),
        ("lxc", {"seatbelt": {}, "appContainer": {}}, ["/appContainer", "/seatbelt"]),
        ("process", {"lxc": {}}, ["/lxc"]),
        (None, {"experimental": {"wslc": {}}}, ["/experimental/wslc"]),
        ("seatbelt", {"experimental": {"windows_sandbox": {}}}, ["/experimental/windows_sandbox"]),
        ("process", {"processContainer": {}, "seatbelt": {}}, ["/seatbelt"]),
    ],
)
def test_only_the_section_of_the_containment_asked_for_may_be_there(
    containment: str | None, fields: dict[str, Any], foreign: list[str]
) -> None:
    found = signs(one_shot(containment=containment, **fields))
    assert found == {("foreign_section", pointer) for pointer in foreign}


@pytest.mark.parametrize(
    ("containment", "fields"),
    [
        ("process", {"processContainer": {}}),
        (None, {"seatbelt": {}}),
        ("appcontainer", {"processContainer": {}}),
        ("lxc", {"lxc": LXC}),
        ("lxc", {"lxc": {}}),
        ("vm", {"experimental": {"windows_sandbox": {}}}),
        ("bubblewrap", {"lxc": None, "experimental": {"wslc": None, "telemetry": {"enabled": False}}}),
    ],
)
def test_the_section_of_the_containment_is_taken(containment: str | None, fields: dict[str, Any]) -> None:
    accept(one_shot(containment=containment, **fields))


@pytest.mark.parametrize(
    ("name", "old"), [("processContainer", "appContainer"), ("seatbelt", "macos_sandbox")]
)
def test_a_section_under_both_its_names_is_a_duplicate(name: str, old: str) -> None:
    sections: dict[str, Any] = {name: {}, old: {}}
    document = one_shot(containment="process", **sections)
    assert signs(document) == {("duplicate_key", f"/{old}")}
    assert ("duplicate_key", f"/{old}") in signs(document, **CONTRACT)


@pytest.mark.parametrize(
    ("capability", "code"),
    [
        ("a,b", "invalid_value"),
        ("LearningModeLogging", "reserved_name"),
        ("permissiveLearningMode", "reserved_name"),
    ],
)
def test_reserved_and_packed_capabilities_are_refused_from_0_8_on(capability: str, code: str) -> None:
    fields: dict[str, Any] = {
        "containment": "process",
        "processContainer": {"capabilities": ["ok", capability]},
    }
    assert signs(one_shot("0.8.0-alpha", **fields)) == {(code, "/processContainer/capabilities/1")}
    assert signs(one_shot("1.0.0", **fields)) == {(code, "/processContainer/capabilities/1")}
    assert accept(one_shot("0.7.0-alpha", **fields)) == ()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("denials.json", "relative_path"),
        ("C:x", "relative_path"),
        ("/", "invalid_value"),
        ("C:\\", "invalid_value"),
    ],
)
def test_the_denial_record_is_an_absolute_file(path: str, code: str) -> None:
    fields: dict[str, Any] = {"processContainer": {"captureDenials": {"outputPath": path}}}
    assert signs(one_shot(containment="process", **fields)) == {
        (code, "/processContainer/captureDenials/outputPath")
    }


def test_the_denial_record_may_be_on_any_system() -> None:
    for path in ("/tmp/a.json", "C:\\a.json", "\\\\host\\share\\a.json"):
        accept(one_shot(containment="process", processContainer={"captureDenials": {"outputPath": path}}))


def test_a_windows_port_is_mapped_once_per_protocol() -> None:
    mappings = [{"windowsPort": 80, "containerPort": port} for port in (1, 2)]
    document = one_shot(containment="wslc", experimental={"wslc": {"portMappings": mappings}})
    assert signs(document) == {("duplicate_value", "/experimental/wslc/portMappings/1/windowsPort")}
    document = one_shot("1.0.0", containment="wslc", wslc={"portMappings": mappings})
    assert signs(document) == {("duplicate_value", "/wslc/portMappings/1/windowsPort")}


def test_the_two_network_shapes_do_not_mix() -> None:
    document = one_shot(network={"defaultPolicy": "block", "allowedHosts": [], "egress": {}})
    assert signs(document) == {
        ("conflicting_fields", "/network/defaultPolicy"),
        ("conflicting_fields", "/network/allowedHosts"),
    }
    assert signs(one_shot(network={"defaultPolicy": "block"}, runtimeConfig=PROXY)) == {
        ("conflicting_fields", "/network/defaultPolicy")
    }


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"network": {"egress": {}}}, "/network/egress"),
        ({"network": {"ingress": {"default": "deny"}}}, "/network/ingress"),
        ({"runtimeConfig": PROXY}, "/runtimeConfig"),
        ({"containment": "process", "processContainer": {"network": {}}}, "/processContainer/network"),
    ],
)
def test_the_directional_shape_needs_0_8(fields: dict[str, Any], pointer: str) -> None:
    for version in ("0.4.0-alpha", "0.7.0-alpha"):
        assert ("needs_newer_version", pointer) in signs(one_shot(version, **fields))
    for version in (None, "0.8.0-alpha", "0.9.0-dev"):
        accept(one_shot(version, **fields))


@pytest.mark.parametrize(("rule", "code", "where"), BAD_RULES)
def test_a_bad_rule_is_named_to_the_field(rule: dict[str, Any], code: str, where: str) -> None:
    document = one_shot("1.0.0", network={"egress": {"allow": [{}], "deny": [rule]}})
    assert signs(document) == {(code, f"/network/egress/deny/0{where}")}


def test_good_rules_are_taken() -> None:
    rules = [
        {},
        {
            "to": [
                {"cidr": "192.0.2.1"},
                {"cidr": "::1"},
                {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "10.1.2.3"]},
            ]
        },
        {"ports": [{"protocol": "icmp"}, {"port": 1, "endPort": 1}, {"protocol": "udp", "port": 65535}]},
    ]
    assert accept(one_shot(network={"egress": {"default": "deny", "allow": rules}})) == ()


@pytest.mark.parametrize(
    ("proxy", "code", "where"),
    [
        ({}, "missing_field", ""),
        ({"builtinTestServer": False}, "invalid_value", "/builtinTestServer"),
        ({"builtinTestServer": True, "localhost": 1}, "conflicting_fields", ""),
        ({"localhost": 0}, "out_of_range", "/localhost"),
        ({"url": "ftp://a:1"}, "invalid_value", "/url"),
        ({"url": "http://a"}, "invalid_value", "/url"),
        ({"url": "http://:1"}, "invalid_value", "/url"),
        ({"url": "http://a:99999"}, "invalid_value", "/url"),
        ({"url": "http://[::1"}, "invalid_value", "/url"),
        ({"url": "http://a b:1"}, "invalid_value", "/url"),
    ],
)
def test_a_bad_legacy_proxy_is_refused(proxy: dict[str, Any], code: str, where: str) -> None:
    assert signs(one_shot("0.6.0-alpha", network={"proxy": proxy})) == {(code, f"/network/proxy{where}")}


def test_a_local_proxy_goes_before_an_address_with_a_warning() -> None:
    (warning,) = accept(one_shot("0.7.0-alpha", network={"proxy": {"localhost": 1, "url": "http://a:1"}}))
    assert (warning.code, warning.path) == ("ignored_field", "/network/proxy/url")


@pytest.mark.parametrize("url", ["http://localhost:1", "https://127.0.0.1:8080", "http://[::1]:3128"])
def test_a_runtime_proxy_on_this_host_is_taken(url: str) -> None:
    assert accept(one_shot("1.0.0", runtimeConfig={"networkProxy": url})) == ()


def test_a_runtime_proxy_elsewhere_is_for_wsl_containers_of_the_exact_contracts() -> None:
    fields: dict[str, Any] = {"runtimeConfig": {"networkProxy": "http://proxy.example:1"}}
    refused = {("invalid_value", "/runtimeConfig/networkProxy")}
    assert signs(one_shot("1.0.0", **fields)) == refused
    assert signs(one_shot("0.8.0-alpha", containment="wslc", **fields)) == refused
    assert accept(one_shot("1.0.0", containment="wslc", **fields)) == ()


@pytest.mark.parametrize("egress", DIRECT_TRAFFIC)
def test_a_proxy_excludes_direct_traffic(egress: dict[str, Any]) -> None:
    document = one_shot(network={"egress": egress}, runtimeConfig=PROXY)
    assert signs(document) == {("conflicting_fields", "/runtimeConfig/networkProxy")}


@pytest.mark.parametrize(
    ("ingress", "peer", "pointers"),
    [
        ({"default": "allow", "hostLoopback": "allow"}, None, []),
        ({"default": "allow", "hostLoopback": "allow"}, "  ", []),
        ({"default": "allow"}, "app", []),
        ({"hostLoopback": "allow"}, None, ["/network/ingress/default"]),
        ({"default": "allow"}, None, ["/network/ingress/hostLoopback"]),
        ({"default": "allow", "hostLoopback": "allow"}, "app", ["/network/ingress/hostLoopback"]),
    ],
)
def test_a_process_container_proxy_needs_matching_inbound_rules(
    ingress: dict[str, str], peer: str | None, pointers: list[str]
) -> None:
    document = one_shot(
        containment="processcontainer",
        network={"ingress": ingress},
        runtimeConfig=PROXY,
        processContainer={"network": {"allowedProxyPeer": peer}},
    )
    if pointers:
        assert signs(document) == {("conflicting_fields", pointer) for pointer in pointers}
    else:
        accept(document)


def test_a_proxy_peer_needs_a_proxy_and_a_name_that_is_not_reserved() -> None:
    document = one_shot(
        containment="process", processContainer={"network": {"allowedProxyPeer": "mxc-LOOPBACK"}}
    )
    assert signs(document) == {
        ("missing_field", "/runtimeConfig/networkProxy"),
        ("reserved_name", "/processContainer/network/allowedProxyPeer"),
    }


def test_a_contract_of_0_7_wants_the_containment_beside_a_section() -> None:
    assert signs(one_shot("0.7.0-alpha", processContainer={}), **CONTRACT) == {
        ("foreign_section", "/processContainer")
    }
    assert accept(one_shot("0.7.0-alpha", processContainer={}, containment="process"), **CONTRACT) == ()


def test_a_contract_does_not_apply_the_rules_of_parsers() -> None:
    document = one_shot(
        process={"commandLine": " ", "env": ["A"]}, network={"egress": {}, "defaultPolicy": "block"}
    )
    assert accept(document, **CONTRACT) == ()


OPEN: dict[str, Any] = {
    "egress": {"default": "allow"},
    "ingress": {"default": "allow", "hostLoopback": "allow"},
}


@pytest.mark.parametrize("version", ["0.9.0-alpha", "1.0.0", "1.1.0-alpha"])
def test_the_exact_contracts_want_an_isolation_sessions_open_network_acknowledged(version: str) -> None:
    accept(one_shot(version, containment="isolation_session", network=OPEN))
    rule: dict[str, Any] = {**OPEN, "egress": {"default": "allow", "deny": [{}]}}
    lacking: list[dict[str, Any]] = [{}, {"network": {}}, {"network": rule}]
    for fields in (*lacking, {"network": OPEN, "runtimeConfig": PROXY}):
        document = one_shot(version, containment="isolation_session", **fields)
        assert ("missing_acknowledgement", "/network") in signs(document)
        # The contract's own table asks for no network here (config-schema §8): it is the parser that does.
        accept(document, **CONTRACT)
    accept(one_shot("0.9.0-dev", containment="isolation_session"))


def test_a_blank_proxy_peer_is_none_in_the_ranged_line_and_refused_by_the_exact_contracts() -> None:
    fields = {"containment": "processcontainer", "processContainer": {"network": {"allowedProxyPeer": " "}}}
    accept(one_shot("0.9.0-dev", **fields))
    pointer = "/processContainer/network/allowedProxyPeer"
    assert signs(one_shot("1.0.0", **fields)) == {("empty_value", pointer)}


@pytest.mark.parametrize("path", ["", " ", 'a"b'])
def test_paths_to_enumerate_are_checked_as_all_paths(path: str) -> None:
    container = {"filesystem": {"enumeratePaths": ["/a", path]}}
    document = one_shot("1.0.0", containment="processcontainer", processContainer=container)
    assert signs(document) == {("invalid_value", "/processContainer/filesystem/enumeratePaths/1")}
