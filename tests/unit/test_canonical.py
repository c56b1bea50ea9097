"""One spelling for every version: `canonicalise`, the hash over it, and what the legacy network becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given

from mxc_ops.config.canonical import canonicalise, policy_hash
from mxc_ops.config.document import Document, RequestKind
from mxc_ops.config.loader import load
from tests.unit.documents import loaded, look_up, ranged_bodies


def canonical_network(**network: Any) -> dict[str, Any]:
    return canonicalise(loaded(version="0.7.0-alpha", network=network))


def legacy_pointers(canonical: dict[str, Any], severity: str) -> set[str]:
    return {pointer for pointer, loss in canonical.get("legacy", {}).items() if loss["severity"] == severity}


def test_old_names_are_folded() -> None:
    document = loaded(
        version="0.5.0-alpha", containment="appcontainer", appContainer={"leastPrivilege": True}
    )
    canonical = canonicalise(document)
    assert canonical["containment"] == "processcontainer"
    assert canonical["processContainer"] == {"leastPrivilege": True}
    assert canonical["origins"]["/processContainer"] == "/appContainer"
    assert "legacy" not in canonical


def test_nulls_and_annotations_go_and_the_version_is_the_newest() -> None:
    document = loaded(
        **{"$schema": "x", "_comment": None, "version": "0.8.0-alpha", "containerId": None},
        process={"commandLine": "true", "cwd": None},
    )
    assert canonicalise(document) == {"version": "1.1.0-alpha", "process": {"commandLine": "true"}}


def test_the_document_itself_stays_as_written() -> None:
    body = {
        "version": "0.7.0-alpha",
        "process": {"commandLine": "true"},
        "network": {"defaultPolicy": "allow", "allowedHosts": ["10.0.0.0/8"]},
        "experimental": {"telemetry": {"enabled": None}},
    }
    document = load(json.dumps(body).encode())
    canonicalise(document)
    assert document.body == body


def test_experimental_settings_stand_at_the_root() -> None:
    canonical = canonicalise(
        loaded(
            containment="wslc",
            experimental={"telemetry": {"enabled": True}, "test": {"message": "m"}, "wslc": {"gpu": True}},
        )
    )
    assert canonical["telemetry"] == {"enabled": True}
    assert canonical["test"] == {"message": "m"}
    assert canonical["wslc"] == {"gpu": True}
    assert "experimental" not in canonical


def test_an_experimental_seatbelt_of_the_seventh_line_is_promoted_without_its_mode() -> None:
    document = Document(
        "0.5.0-alpha",
        None,
        RequestKind.ONE_SHOT,
        {"containment": "macos_sandbox", "experimental": {"macos_sandbox": {"mode": "inproc"}}},
    )
    canonical = canonicalise(document)
    assert (canonical["containment"], canonical["seatbelt"]) == ("seatbelt", {})
    assert legacy_pointers(canonical, "lossy") == {"/experimental/macos_sandbox/mode"}


def test_a_udp_port_mapping_stays_closed() -> None:
    mappings = [
        {"windowsPort": 53, "containerPort": 53, "protocol": "udp"},
        {"windowsPort": 80, "containerPort": 80},
    ]
    canonical = canonicalise(
        Document(
            "0.7.0-dev",
            None,
            RequestKind.ONE_SHOT,
            {"containment": "wslc", "experimental": {"wslc": {"portMappings": mappings}}},
        )
    )
    assert canonical["wslc"]["portMappings"] == [{"windowsPort": 80, "containerPort": 80}]
    assert legacy_pointers(canonical, "lossy") == {"/experimental/wslc/portMappings/0"}


def test_a_withdrawn_token_is_kept_out_of_the_canonical_form() -> None:
    user = {"upn": "a@example.com", "wamToken": "hunter2"}
    canonical = canonicalise(
        loaded(
            version="0.7.0-dev",
            phase="provision",
            containment="isolation_session",
            network={"defaultPolicy": "allow", "allowLocalNetwork": True},
            experimental={"isolation_session": {"provision": {"user": user}}},
        )
    )
    assert "/experimental/isolation_session/provision/user" in canonical["legacy"]
    assert "hunter2" not in repr(canonical)
    assert "a@example.com" not in repr(canonical)


# --- the legacy network ----------------------------------------------------------------------------


def test_a_default_of_block_is_a_default_of_deny() -> None:
    canonical = canonical_network(defaultPolicy="block")
    assert canonical["network"] == {"egress": {"default": "deny"}}
    assert canonical["origins"]["/network/egress/default"] == "/network/defaultPolicy"


def test_allowed_addresses_become_rules_and_names_names_on_every_port() -> None:
    canonical = canonical_network(allowedHosts=["api.example.com", "10.1.2.3", "192.0.2.0/24"])
    rules = [{"to": [{"cidr": "10.1.2.3/32"}]}, {"to": [{"cidr": "192.0.2.0/24"}]}]
    assert canonical["network"] == {"egress": {"default": "deny", "allow": rules}}
    assert canonical["origins"]["/network/egress/allow/1"] == "/network/allowedHosts/2"
    everywhere = [{"port": 1, "endPort": 65535}]
    assert canonical["mxcOps"]["network"] == {"names": [{"name": "api.example.com", "ports": everywhere}]}
    assert canonical["origins"]["/mxcOps/network/names/0"] == "/network/allowedHosts/0"
    assert "legacy" not in canonical


def test_names_come_after_those_that_the_document_has_in_our_own_field() -> None:
    own = {"name": "a.test", "ports": [443]}
    document = loaded(
        version="0.7.0-alpha",
        network={"allowedHosts": ["b.test"]},
        mxcOps={"network": {"names": [own]}, "tty": False},
    )
    canonical = canonicalise(document)
    assert [entry["name"] for entry in canonical["mxcOps"]["network"]["names"]] == ["a.test", "b.test"]
    assert canonical["origins"]["/mxcOps/network/names/1"] == "/network/allowedHosts/0"
    assert document.body["mxcOps"]["network"] == {"names": [own]}


@pytest.mark.parametrize("containment", ["processcontainer", "seatbelt", "wslc", "hyperlight"])
def test_names_are_kept_aside_for_containments_that_do_not_know_our_field(containment: str) -> None:
    network = {"allowedHosts": ["api.example.com", "10.1.2.3"]}
    canonical = canonicalise(loaded(version="0.9.0-dev", containment=containment, network=network))
    assert "mxcOps" not in canonical
    assert legacy_pointers(canonical, "lossy") == {"/network/allowedHosts/0"}


def test_an_allowed_address_with_host_bits_grants_nothing() -> None:
    canonical = canonical_network(allowedHosts=["10.1.2.3/8"])
    assert canonical["network"] == {"egress": {"default": "deny"}}
    assert legacy_pointers(canonical, "lossy") == {"/network/allowedHosts/0"}


def test_a_blocked_address_with_host_bits_blocks_the_whole_network() -> None:
    canonical = canonical_network(defaultPolicy="allow", blockedHosts=["10.1.2.3/8"])
    rules = [{"to": [{"cidr": "10.0.0.0/8"}]}]
    assert canonical["network"] == {"egress": {"default": "allow", "deny": rules}}


def test_a_blocked_name_closes_direct_traffic_and_leaves_names_to_the_proxy() -> None:
    canonical = canonical_network(defaultPolicy="allow", blockedHosts=["evil.example.com"])
    assert canonical["network"] == {"egress": {"default": "deny"}}
    assert canonical["mxcOps"]["network"] == {
        "names": [{"name": "*", "ports": [{"port": 1, "endPort": 65535}]}],
        "deniedNames": [{"name": "evil.example.com"}],
    }
    assert legacy_pointers(canonical, "lossy") == {"/network/defaultPolicy"}


@pytest.mark.parametrize(
    ("containment", "blocked"), [("seatbelt", "evil.example.com"), ("bubblewrap", "*.example.com")]
)
def test_a_blocked_name_that_nothing_can_hold_closes_all_outbound_traffic(
    containment: str, blocked: str
) -> None:
    network = {"defaultPolicy": "allow", "blockedHosts": [blocked]}
    own = {"network": {"names": [{"name": "*"}]}}
    canonical = canonicalise(
        loaded(version="0.8.0-alpha", containment=containment, network=network, mxcOps=own)
    )
    assert canonical["network"] == {"egress": {"default": "deny"}}
    assert canonical["mxcOps"] == {}
    assert legacy_pointers(canonical, "lossy") == {
        "/network/defaultPolicy",
        "/network/blockedHosts/0",
        "/mxcOps/network",
    }


def test_local_network_opens_what_the_mapped_ports_need() -> None:
    loopback = {"direction": "toSandbox", "hostPort": 8080, "sandboxPort": 80}
    other = {"hostAddress": "192.0.2.1", **loopback}
    for mappings, opened in (
        ([loopback], {"hostLoopback"}),
        ([loopback, other], {"hostLoopback", "default"}),
    ):
        document = loaded(
            version="0.7.0-alpha", network={"allowLocalNetwork": True}, mxcOps={"portMappings": mappings}
        )
        canonical = canonicalise(document)
        assert canonical["network"]["ingress"] == dict.fromkeys(opened, "allow")
        assert "legacy" not in canonical
        assert {canonical["origins"][f"/network/ingress/{field}"] for field in opened} == {
            "/network/allowLocalNetwork"
        }


def test_local_network_opens_inbound_traffic_but_not_the_hosts_loopback() -> None:
    canonical = canonical_network(allowLocalNetwork=True)
    assert canonical["network"] == {"ingress": {"default": "allow"}}


@pytest.mark.parametrize(
    ("proxy", "endpoint"),
    [
        ({"localhost": 8080}, "http://127.0.0.1:8080"),
        ({"url": "https://LocalHost:3128/"}, "https://LocalHost:3128"),
        ({"url": "http://[::1]:8080"}, "http://[::1]:8080"),
    ],
)
def test_a_loopback_proxy_becomes_the_runtime_proxy(proxy: dict[str, Any], endpoint: str) -> None:
    canonical = canonical_network(proxy=proxy)
    assert canonical["runtimeConfig"] == {"networkProxy": endpoint}
    assert canonical["network"] == {"egress": {"default": "deny"}}


@pytest.mark.parametrize(
    "proxy",
    [
        {"builtinTestServer": True},
        {"url": "http://proxy.example:8080"},
        {"url": "http://127.0.0.1.evil.example:8080"},
        {"url": "http://127.0.0.1:80@evil.example:8080"},
    ],
)
def test_a_proxy_elsewhere_is_dropped_and_nothing_is_opened_instead(proxy: dict[str, Any]) -> None:
    canonical = canonical_network(defaultPolicy="allow", proxy=proxy)
    assert "runtimeConfig" not in canonical
    assert canonical["network"] == {"egress": {"default": "deny"}}
    assert legacy_pointers(canonical, "lossy") == {
        "/network/defaultPolicy",
        f"/network/proxy/{next(iter(proxy))}",
    }


def test_blocked_hosts_cannot_be_reached_through_a_kept_proxy() -> None:
    canonical = canonical_network(blockedHosts=["10.0.0.0/8"], proxy={"localhost": 8080})
    assert "runtimeConfig" not in canonical


def test_a_kept_proxy_does_not_reach_more_than_the_allowed_hosts() -> None:
    canonical = canonical_network(allowedHosts=["192.0.2.7"], proxy={"localhost": 8080})
    assert "runtimeConfig" not in canonical
    assert legacy_pointers(canonical, "lossy") == {"/network/allowedHosts/0", "/network/proxy/localhost"}
    opened = canonical_network(defaultPolicy="allow", allowedHosts=["192.0.2.7"], proxy={"localhost": 8080})
    assert opened["runtimeConfig"] == {"networkProxy": "http://127.0.0.1:8080"}


def test_wsl_containers_keep_a_proxy_elsewhere() -> None:
    canonical = canonicalise(
        loaded(
            version="0.8.0-alpha",
            containment="wslc",
            network={"proxy": {"url": "http://proxy.example:8080"}},
        )
    )
    assert canonical["runtimeConfig"] == {"networkProxy": "http://proxy.example:8080"}


# --- properties ------------------------------------------------------------------------------------


@given(ranged_bodies())
def test_canonicalising_again_changes_nothing(body: dict[str, Any]) -> None:
    once = canonicalise(Document(None, None, RequestKind.ONE_SHOT, body))
    once.pop("legacy", None)
    once.pop("origins", None)
    twice = canonicalise(Document("1.1.0-alpha", "1.1.0-alpha", RequestKind.ONE_SHOT, once))
    assert twice == once
    as_ranged = canonicalise(Document(None, None, RequestKind.ONE_SHOT, once))
    assert as_ranged == once


@given(ranged_bodies())
def test_every_origin_and_every_loss_points_into_the_document(body: dict[str, Any]) -> None:
    canonical = canonicalise(Document(None, None, RequestKind.ONE_SHOT, body))
    for pointer in (*canonical.get("origins", {}).values(), *canonical.get("legacy", {})):
        look_up(body, pointer)


# --- hash ------------------------------------------------------------------------------------------


def test_the_hash_is_the_same_for_every_spelling_of_a_policy() -> None:
    old = loaded(version="0.5.0-alpha", containment="appcontainer", appContainer={}, containerId=None)
    new = loaded(version="1.0.0", containment="processcontainer", processContainer={})
    assert policy_hash(canonicalise(old)) == policy_hash(canonicalise(new))


def test_the_hash_differs_when_a_grant_or_an_environment_value_differs() -> None:
    hashes = {
        policy_hash(canonicalise(loaded(version="1.0.0", **fields)))
        for fields in (
            {"filesystem": {"readonlyPaths": ["/srv"]}},
            {"filesystem": {"deniedPaths": ["/srv"]}},
            {"process": {"commandLine": "true", "env": ["A=1"]}},
            {"process": {"commandLine": "true", "env": ["A=2"]}},
        )
    }
    assert len(hashes) == 4
    assert all(each.startswith("sha256:") and len(each) == 71 for each in hashes)


def test_what_got_lost_counts_in_the_hash() -> None:
    one = loaded(version="0.7.0-alpha", network={"allowedHosts": ["*.a.example"]})
    other = loaded(version="0.7.0-alpha", network={"allowedHosts": ["*.b.example"]})
    assert policy_hash(canonicalise(one)) != policy_hash(canonicalise(other))


def test_the_hot_path_imports_no_pydantic() -> None:
    source = (
        "import sys\nfrom mxc_ops.config.request import build_request\n"
        "from mxc_ops.config.document import Document, RequestKind\n"
        "build_request(Document(None, None, RequestKind.ONE_SHOT, {'process': {'commandLine': 'true'}}))\n"
        "denied = {'egress': {'default': 'deny'}, 'ingress': {'default': 'deny', 'hostLoopback': 'deny'}}\n"
        "body = {'process': {'commandLine': 'true'}, 'network': denied}\n"
        "build_request(Document('1.0.0', '1.0.0', RequestKind.ONE_SHOT, body))\n"
        "heavy = ('pydantic', 'ipaddress', 'hashlib', 'asyncio', 'mxc_ops.policy.network')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
