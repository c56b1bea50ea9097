"""From document to request: every field, with defaults, and everything it asks for by the user's spelling."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from backends.base import Access, Grant, Limits, SandboxRequest, SecretSource, Stdin, StdinMode, Timeout
from backends.errors import ConfigError, PolicyRefused, UnsupportedContainment
from backends.features import Feature
from mxc_ops.config.asked import asked_features
from mxc_ops.config.canonical import canonicalise
from mxc_ops.config.document import Document, RequestKind
from mxc_ops.config.request import build_request
from tests.unit.documents import loaded, look_up, ranged_bodies


def request(*, platform: str = "linux", **fields: Any) -> SandboxRequest:
    return build_request(loaded(**fields), platform=platform)


def asked(**fields: Any) -> list[tuple[Feature, str, str]]:
    return [(each.feature, each.pointer, each.value) for each in request(**fields).asked]


# --- fields ----------------------------------------------------------------------------------------


def test_the_least_document_asks_for_nothing() -> None:
    least = request()
    assert (least.containment, least.shell, least.args, least.cwd) == ("bubblewrap", "true", (), "/")
    assert dict(least.environment.entries).keys() == {"PATH", "TERM"}
    assert (least.grants, least.asked, least.limits, least.warnings) == ((), (), Limits(), ())
    assert (least.timeout, least.stdin, least.tty) == (Timeout(), Stdin(), False)
    assert (least.seccomp, least.user, least.group) == ("default", None, None)


def test_every_field_arrives() -> None:
    full = request(
        version="1.1.0-alpha",
        containerId="box",
        containment="bubblewrap",
        process={"cwd": "/srv", "env": ["A=1"], "timeout": 1500},
        filesystem={"readwritePaths": ["/w"], "readonlyPaths": ["/r", "/o"], "deniedPaths": ["/d"]},
        mxcOps={
            "limits": {"memoryMib": 64, "cpus": 1.5, "tmpMib": 8},
            "user": 4000,
            "group": 4001,
            "seccomp": "strict",
            "args": ["id", "-u"],
            "stdin": {"text": "hello"},
            "tty": True,
            "timeout": {"graceMs": 200, "signal": "INT"},
            "optionalPaths": ["/o"],
            "env": {"TOKEN": {"fd": 3}},
        },
    )
    assert (full.containment, full.container_id) == ("bubblewrap", "box")
    assert (full.shell, full.args, full.cwd) == (None, ("id", "-u"), "/srv")
    assert full.environment.entries == (("A", "1"),)
    assert full.environment.secrets == (("TOKEN", SecretSource(fd=3)),)
    assert full.grants == (
        Grant("/w", Access.READ_WRITE, "/filesystem/readwritePaths/0"),
        Grant("/r", Access.READ_ONLY, "/filesystem/readonlyPaths/0"),
        Grant("/o", Access.READ_ONLY, "/filesystem/readonlyPaths/1", optional=True),
        Grant("/d", Access.DENIED, "/filesystem/deniedPaths/0"),
    )
    assert full.limits == Limits(memory_mib=64, cpus=1.5, tmp_mib=8)
    assert full.timeout == Timeout(1500, 200, "INT")
    assert full.stdin == Stdin(StdinMode.TEXT, "hello")
    assert (full.tty, full.seccomp, full.user, full.group) == (True, "strict", 4000, 4001)


@pytest.mark.parametrize(
    ("stdin", "meaning"),
    [
        ("inherit", Stdin(StdinMode.INHERIT)),
        ("none", Stdin(StdinMode.NONE)),
        ({"file": "/srv/in"}, Stdin(StdinMode.FILE, "/srv/in")),
    ],
)
def test_standard_input_comes_from_where_it_is_said_to(stdin: Any, meaning: Stdin) -> None:
    assert request(mxcOps={"stdin": stdin}).stdin == meaning


def test_the_group_follows_the_user() -> None:
    assert request(mxcOps={"user": 4000}).group == 4000


@pytest.mark.parametrize(
    ("best_effort", "names"),
    [(True, {"pids", "cpus"}), (False, set[str]()), (["cpus"], {"cpus"})],
)
def test_best_effort_names_limits_or_means_all_that_are_asked_for(best_effort: Any, names: set[str]) -> None:
    limits = request(mxcOps={"limits": {"pids": 8, "cpus": 1, "bestEffort": best_effort}}).limits
    assert limits.best_effort == names


@pytest.mark.parametrize(
    ("platform", "containment"),
    [("linux", "bubblewrap"), ("win32", "processcontainer"), ("darwin", "seatbelt")],
)
def test_an_omitted_containment_is_the_platforms_own(platform: str, containment: str) -> None:
    assert request(platform=platform).containment == containment
    assert request(platform=platform, containment="process").containment == containment


def test_default_environment_is_layered_only_when_asked() -> None:
    process = {"commandLine": "true", "env": ["A=1"], "inheritDefaultEnv": True}
    layered = request(version="1.0.0", process=process)
    assert dict(layered.environment.entries).keys() == {"PATH", "TERM", "A"}
    assert request(process={"commandLine": "true", "env": []}).environment.entries == ()


def test_warnings_of_document_environment_and_grants_come_together() -> None:
    warned = request(
        version="0.6.0-alpha",
        process={"commandLine": "true", "env": ["A=1", "A=2"]},
        filesystem={"readonlyPaths": ["/srv"], "deniedPaths": ["/srv/"]},
        experimental={},
    )
    assert len(warned.warnings) == 3
    assert "/experimental" in warned.warnings[0]
    assert "/process/env/1" in warned.warnings[1]
    assert "/filesystem/readonlyPaths/0" in warned.warnings[2]
    assert [each.access for each in warned.grants] == [Access.DENIED]


def test_a_lifecycle_document_is_not_a_one_shot() -> None:
    document = loaded(version="1.0.0", phase="stop", sandboxId="wslc:01")
    with pytest.raises(ConfigError, match=r"state-aware lifecycle request.*sessions") as caught:
        build_request(document)
    assert caught.value.problems[0].code == "unsupported_phase"
    assert caught.value.path == "/phase"


def test_an_unknown_containment_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedContainment, match="jail"):
        build_request(Document(None, None, RequestKind.ONE_SHOT, {"containment": "jail"}))


def test_a_secret_counts_by_its_source() -> None:
    hashes = {request(mxcOps={"env": {"T": source}}).document_hash for source in ({"fd": 3}, {"file": "/t"})}
    assert len(hashes) == 2


# --- what is asked for -----------------------------------------------------------------------------


def test_what_only_tightens_is_not_asked_for() -> None:
    quiet = asked(
        version="0.7.0-alpha",
        network={
            "defaultPolicy": "block",
            "blockedHosts": ["10.0.0.1", "x.example"],
            "allowLocalNetwork": False,
        },
        ui={"disable": True, "clipboard": "none", "injection": False},
        fallback={"allowDaclMutation": False},
        lifecycle={"destroyOnExit": True, "preservePolicy": False},
    )
    assert quiet == []
    egress: dict[str, Any] = {"default": "deny", "deny": [{}], "allow": []}
    assert asked(version="1.0.0", network={"egress": egress, "ingress": {"hostLoopback": "deny"}}) == []


@pytest.mark.parametrize(
    ("section", "fields", "expected"),
    [
        ("ui", {"disable": False}, (Feature.UI, "/ui/disable", "false")),
        ("ui", {"clipboard": "read"}, (Feature.CLIPBOARD, "/ui/clipboard", "read")),
        ("ui", {"injection": True}, (Feature.INPUT_INJECTION, "/ui/injection", "true")),
        (
            "fallback",
            {"allowDaclMutation": True},
            (Feature.DACL_FALLBACK, "/fallback/allowDaclMutation", "true"),
        ),
        (
            "lifecycle",
            {"preservePolicy": True},
            (Feature.PRESERVE_POLICY, "/lifecycle/preservePolicy", "true"),
        ),
        (
            "lifecycle",
            {"destroyOnExit": False},
            (Feature.KEEP_CONTAINER, "/lifecycle/destroyOnExit", "false"),
        ),
        ("telemetry", {"enabled": True}, (Feature.TELEMETRY, "/telemetry/enabled", "true")),
    ],
)
def test_each_switch_that_opens_something_is_asked_for(
    section: str, fields: dict[str, Any], expected: tuple[Feature, str, str]
) -> None:
    assert asked(version="1.0.0", **{section: fields}) == [expected]


def test_directional_openings_are_asked_for_one_by_one() -> None:
    rule = {"to": [{"cidr": "192.0.2.0/24"}]}
    found = asked(
        version="1.0.0",
        network={
            "egress": {"default": "deny", "allow": [rule, {}]},
            "ingress": {"default": "allow", "hostLoopback": "allow"},
        },
    )
    assert [(feature, pointer) for feature, pointer, _ in found] == [
        (Feature.EGRESS, "/network/egress/allow/0"),
        (Feature.EGRESS, "/network/egress/allow/1"),
        (Feature.INGRESS, "/network/ingress/default"),
        (Feature.HOST_LOOPBACK, "/network/ingress/hostLoopback"),
    ]
    assert found[0][2] == '{"to": [{"cidr": "192.0.2.0/24"}]}'


def test_names_later_openings_and_mapped_ports_are_asked_for_one_by_one() -> None:
    port = {"hostPort": 1, "sandboxPort": 1}
    found = asked(
        version="1.0.0",
        network={"ingress": {"default": "allow", "hostLoopback": "allow"}},
        mxcOps={
            "network": {
                "names": [{"name": "a.test"}],
                "deniedNames": [{"name": "b.test"}],
                "ceiling": {"names": [{"name": "c.test"}]},
            },
            "portMappings": [
                {"direction": "toSandbox", **port},
                {"direction": "toSandbox", "hostAddress": "192.0.2.1", **port},
                {"direction": "toHost", "hostPort": 1, "sandboxPort": 2},
            ],
        },
    )
    assert [(feature, pointer) for feature, pointer, _ in found[2:]] == [
        (Feature.EGRESS, "/mxcOps/network/names/0"),
        (Feature.EGRESS, "/mxcOps/network/ceiling"),
        (Feature.HOST_LOOPBACK, "/mxcOps/portMappings/0"),
        (Feature.INGRESS, "/mxcOps/portMappings/1"),
        (Feature.HOST_LOOPBACK, "/mxcOps/portMappings/2"),
    ]


def test_legacy_openings_are_asked_for_in_the_users_own_spelling() -> None:
    network = {"allowedHosts": ["10.0.0.0/8", "api.example.com"], "allowLocalNetwork": True}
    assert asked(version="0.6.0-alpha", network=network) == [
        (Feature.EGRESS, "/network/allowedHosts/0", "10.0.0.0/8"),
        (Feature.INGRESS, "/network/allowLocalNetwork", "true"),
        (Feature.EGRESS, "/network/allowedHosts/1", "api.example.com"),
    ]


def test_an_open_default_with_a_blocked_name_is_still_an_opening() -> None:
    network = {"defaultPolicy": "allow", "blockedHosts": ["x.example"]}
    assert asked(version="0.6.0-alpha", network=network) == [
        (Feature.EGRESS, "/network/defaultPolicy", "allow")
    ]


@pytest.mark.parametrize(
    ("proxy", "place", "value"),
    [
        ({"localhost": 8080}, "localhost", "8080"),
        ({"builtinTestServer": True}, "builtinTestServer", "true"),
        ({"url": "http://me:word@proxy.example:8080"}, "url", "http://***@proxy.example:8080"),
        ({"url": "http://me:word@localhost:8080"}, "url", "http://***@localhost:8080"),
    ],
)
def test_a_proxy_is_asked_for_without_its_credentials(proxy: dict[str, Any], place: str, value: str) -> None:
    document = loaded(version="0.7.0-alpha", network={"proxy": proxy})
    (found,) = asked_features(canonicalise(document), document.body, "bubblewrap")
    assert (found.feature, found.pointer, found.value) == (
        Feature.NETWORK_PROXY,
        f"/network/proxy/{place}",
        value,
    )


def test_the_section_of_another_backend_is_asked_for_by_its_old_name_too() -> None:
    found = asked(version="0.6.0-alpha", appContainer={"leastPrivilege": True})
    assert found == [(Feature.BACKEND_SECTION, "/appContainer", '{"leastPrivilege": true}')]
    on_windows = request(platform="win32", version="0.6.0-alpha", appContainer={"leastPrivilege": True})
    assert on_windows.asked == ()


def test_withdrawn_and_experimental_settings_are_asked_for() -> None:
    assert asked(experimental={"test": {"message": "m"}}) == [
        (Feature.EXPERIMENTAL, "/experimental/test", '{"message": "m"}')
    ]
    seatbelt = asked(version="0.7.0-alpha", containment="seatbelt", seatbelt={"launchMethod": "open"})
    assert seatbelt == [(Feature.EXPERIMENTAL, "/seatbelt/launchMethod", "open")]


def test_control_characters_in_an_asked_value_are_escaped_and_long_values_cut() -> None:
    ((_, _, value),) = asked(experimental={"test": {"message": "\x1b[31m\u202e" + "x" * 500}})
    shown = value.removesuffix("…")
    assert shown.startswith('{"message": "\\u001b[31m\\u202exxx')
    assert shown.isascii()
    assert len(shown) == 100


@given(ranged_bodies())
def test_every_document_that_loads_makes_a_request_or_names_what_cannot_be_held(body: dict[str, Any]) -> None:
    try:
        built = build_request(Document(None, None, RequestKind.ONE_SHOT, body), platform="linux")
    except PolicyRefused as refused:
        for problem in refused.problems:
            assert problem.path.startswith("/network/")
            look_up(body, problem.path)
        return
    assert str(built.document_hash).startswith("sha256:")
    for each in built.asked:
        look_up(body, each.pointer)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"process": {"commandLine": "é" * 2**16}}, "/process/commandLine"),
        ({"process": {}, "mxcOps": {"args": ["true", "x" * 2**17]}}, "/mxcOps/args/1"),
    ],
)
def test_a_command_that_no_kernel_starts_is_refused(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        request(version="1.1.0-alpha", **fields)
    assert [(problem.code, problem.path) for problem in caught.value.problems] == [
        ("command_too_long", pointer)
    ]
