"""`migrate`: the same meaning in an exact contract, or less, with every loss named."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError
from mxc_ops.config.document import Document, RequestKind
from mxc_ops.config.loader import load
from mxc_ops.config.migrate import TARGETS, Severity, migrate
from mxc_ops.config.request import build_request
from tests.unit.documents import FILESYSTEMS, LEGACY_NETWORKS, loaded, ranged_bodies, reloaded
from tests.unit.networks import without_pointers


def losses(document: Document, to: str = "1.1.0-alpha") -> dict[str, str]:
    return {loss.pointer: str(loss.severity) for loss in migrate(document, to).losses}


def test_a_document_of_the_target_version_is_left_alone() -> None:
    document = loaded(version="1.0.0", _comment=None, containment="bubblewrap")
    migration = migrate(document, "1.0.0")
    assert migration.body == document.body
    assert migration.losses == ()


def test_a_target_that_is_no_exact_contract_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        migrate(loaded(version="1.0.0"), "0.8.0-alpha")
    assert caught.value.problems[0].code == "unsupported_version"
    assert "1.0.0" in caught.value.problems[0].expected


def test_a_fifth_line_document_reads_as_one_of_the_first_contract() -> None:
    document = loaded(
        version="0.5.0-alpha",
        containment="appcontainer",
        appContainer={"capabilities": ["internetClient"]},
        filesystem={"readonlyPaths": ["C:\\data"], "deniedPaths": None},
        network={"defaultPolicy": "block", "allowedHosts": ["192.0.2.0/24"]},
        mxcOps={"limits": {"memoryMib": 64}},
    )
    assert migrate(document, "1.0.0").body == {
        "version": "1.0.0",
        "containment": "processcontainer",
        "process": {"commandLine": "true"},
        "filesystem": {"readonlyPaths": ["C:\\data"]},
        "network": {"egress": {"default": "deny", "allow": [{"to": [{"cidr": "192.0.2.0/24"}]}]}},
        "mxcOps": {"limits": {"memoryMib": 64}},
        "processContainer": {"capabilities": ["internetClient"]},
    }
    assert losses(document, "1.0.0") == {}


def test_a_comment_stays_and_the_old_schema_reference_goes() -> None:
    document = loaded(**{"$schema": "0.7.json", "_comment": {"why": None}, "version": "0.7.0-alpha"})
    migration = migrate(document, "1.0.0")
    assert migration.body["_comment"] == {"why": None}
    assert "$schema" not in migration.body
    assert losses(document) == {"/$schema": "dropped default"}


@pytest.mark.parametrize("containment", ["vm", "windows_sandbox", "microvm", "hyperlight"])
def test_a_containment_that_the_target_lacks_is_a_refusal(containment: str) -> None:
    document = loaded(version="0.9.0-dev", containment=containment)
    refused = migrate(document, "1.0.0")
    assert (refused.refused, refused.body) == (True, {})
    assert losses(document, "1.0.0") == {"/containment": "refused"}
    assert migrate(document, "1.1.0-alpha").body["containment"] == containment


def test_settings_of_the_newest_contract_have_no_place_in_the_one_before() -> None:
    document = loaded(version="1.1.0-alpha", test={"message": "m"})
    assert losses(document, "1.0.0") == {"/test": "lossy"}
    assert migrate(document, "1.0.0").body == {"version": "1.0.0", "process": {"commandLine": "true"}}


def test_an_incomplete_lxc_section_is_left_out_and_still_fails_at_run_time() -> None:
    document = loaded(version="0.8.0-alpha", containment="lxc", lxc={"distribution": "alpine"})
    assert "lxc" not in migrate(document, "1.0.0").body
    assert losses(document, "1.0.0") == {"/lxc": "lossy"}


def test_capabilities_that_newer_versions_reserve_are_not_carried_over() -> None:
    names = ["internetClient", "a,b", "permissiveLearningMode", "LEARNINGmodeLOGGING"]
    document = loaded(
        version="0.7.0-alpha", containment="processcontainer", appContainer={"capabilities": names}
    )
    body = migrate(document, "1.0.0").body
    assert body["processContainer"] == {"capabilities": ["internetClient"], "learningMode": True}
    assert losses(document, "1.0.0") == {
        "/appContainer/capabilities/1": "lossy",
        "/appContainer/capabilities/2": "lossy",
        "/appContainer/capabilities/3": "dropped default",
    }


def test_a_process_containers_proxy_does_not_open_inbound_traffic() -> None:
    document = loaded(
        version="0.6.0-alpha", containment="processcontainer", network={"proxy": {"localhost": 8080}}
    )
    migration = migrate(document, "1.0.0")
    assert "runtimeConfig" not in migration.body
    assert migration.body["network"] == {"egress": {"default": "deny"}}
    assert [(loss.pointer, loss.value) for loss in migration.losses] == [("/network/proxy/localhost", 8080)]


def test_an_isolation_session_that_acknowledges_no_open_network_is_a_refusal() -> None:
    document = loaded(
        version="0.9.0-dev", containment="isolation_session", network={"defaultPolicy": "allow"}
    )
    assert migrate(document, "1.0.0").body == {}
    assert losses(document, "1.0.0") == {"/network": "refused"}
    said = {"defaultPolicy": "allow", "allowLocalNetwork": True}
    acknowledged = loaded(version="0.9.0-dev", containment="isolation_session", network=said)
    assert migrate(acknowledged, "1.0.0").losses == ()
    assert reloaded(migrate(acknowledged, "1.0.0").body).contract == "1.0.0"


def test_lost_credentials_are_not_in_the_report() -> None:
    url = "http://me:hunter2@proxy.example:8080"
    document = loaded(version="0.7.0-alpha", network={"proxy": {"url": url}})
    migration = migrate(document, "1.0.0")
    assert "hunter2" not in repr(migration)
    assert migration.losses[0].value == "http://***@proxy.example:8080"


# --- lifecycle -------------------------------------------------------------------------------------


def test_the_acknowledgement_of_an_isolation_session_is_said_in_the_new_words() -> None:
    document = loaded(
        version="0.9.0-dev",
        phase="provision",
        containment="isolation_session",
        network={"defaultPolicy": "allow", "allowLocalNetwork": True},
        experimental={"isolation_session": {"provision": {"appId": "a"}}},
    )
    assert migrate(document, "1.0.0").body == {
        "version": "1.0.0",
        "phase": "provision",
        "containment": "isolation_session",
        "network": {"egress": {"default": "allow"}, "ingress": {"default": "allow", "hostLoopback": "allow"}},
        "isolationSession": {"provision": {"appId": "a"}},
    }
    assert losses(document, "1.0.0") == {}


def test_a_provision_request_that_the_target_lacks_is_a_refusal() -> None:
    document = loaded(version="0.9.0-dev", phase="provision", containment="windows_sandbox")
    assert losses(document, "1.0.0") == {"/phase": "refused"}
    assert migrate(document, "1.1.0-alpha").body["containment"] == "windows_sandbox"


def test_an_exec_request_keeps_its_command_and_loses_what_meant_nothing() -> None:
    document = loaded(
        version="0.9.0-dev",
        phase="exec",
        sandboxId="wslc:0123",
        process={"commandLine": "true"},
        correlationVector="cv",
        network={"proxy": {"url": "http://proxy.example:8080"}},
    )
    assert migrate(document, "1.0.0").body == {
        "version": "1.0.0",
        "phase": "exec",
        "sandboxId": "wslc:0123",
        "process": {"commandLine": "true"},
        "network": {"egress": {"default": "deny"}},
        "runtimeConfig": {"networkProxy": "http://proxy.example:8080"},
    }
    assert losses(document, "1.0.0") == {"/correlationVector": "lossy"}


def test_names_keep_their_meaning_in_our_own_field() -> None:
    network = {"allowedHosts": ["Api.Example.com.", "192.0.2.7"], "blockedHosts": ["192.0.2.0/28"]}
    document = loaded(version="0.7.0-alpha", containment="lxc", network=network)
    body = migrate(document, "1.0.0").body
    assert losses(document, "1.0.0") == {}
    everywhere = [{"port": 1, "endPort": 65535}]
    assert body["mxcOps"] == {"network": {"names": [{"name": "api.example.com", "ports": everywhere}]}}
    assert without_pointers(build_request(reloaded(body)).network) == without_pointers(
        build_request(document).network
    )


def test_the_network_of_a_command_in_a_foreign_sandbox_gets_no_field_of_ours() -> None:
    network = {"allowedHosts": ["a.test"]}
    document = loaded(
        version="0.9.0-dev",
        phase="exec",
        sandboxId="wslc:0",
        process={"commandLine": "true"},
        network=network,
    )
    assert "mxcOps" not in migrate(document, "1.0.0").body
    assert losses(document, "1.0.0") == {"/network/allowedHosts/0": "lossy"}


# --- upstream's own documents ----------------------------------------------------------------------


def upstream_documents(shared_dir: Path) -> Iterator[tuple[Path, Document]]:
    samples = shared_dir / "mxc-samples"
    files = [*samples.glob("examples/*.json"), *samples.glob("contract-fixtures/**/valid/*.json")]
    for file in sorted(files):
        try:
            yield file, load(file.read_bytes())
        except ConfigError:
            continue  # which ones load is tested where documents are loaded


@pytest.mark.parametrize("to", TARGETS)
def test_what_upstreams_samples_become_loads_again_or_is_refused_by_name(shared_dir: Path, to: str) -> None:
    documents = list(upstream_documents(shared_dir))
    assert len(documents) > 60
    for file, document in documents:
        migration = migrate(document, to)
        if migration.refused:
            assert to != "1.1.0-alpha", file
            assert migration.body == {}
            continue
        again = reloaded(migration.body)
        assert (again.contract, again.kind) == (to, document.kind), file
        for name in ("filesystem", "lifecycle", "fallback", "ui"):
            assert migration.body.get(name) == document.body.get(name), (file, name)


# --- properties ------------------------------------------------------------------------------------

ADDRESSES = ("10.1.2.3", "10.200.0.1", "192.0.2.7", "203.0.113.9", "127.0.0.1", "2001:db8::1", "2001:db9::1")


def network_of(text: str, *, strict: bool) -> Any:
    """What upstream reads as an address; None for a name."""
    if "%" in text or ("/" in text and not text.partition("/")[2].isdigit()):
        return None
    try:
        return ip_network(text, strict=strict)
    except ValueError:
        return None


def legacy_reaches(network: dict[str, Any], address: str) -> bool:
    """Whether the legacy form surely permits direct traffic: a blocked name may have any address."""
    target = ip_address(address)
    hosts: list[str] = network.get("blockedHosts") or []
    blocked = [network_of(host, strict=False) for host in hosts]
    if any(block is not None and target in block for block in blocked):
        return False
    allowed = [network_of(host, strict=True) for host in network.get("allowedHosts") or ()]
    listed = any(target in allow for allow in allowed if allow is not None)
    return None not in blocked and (listed or network.get("defaultPolicy") == "allow")


def reaches_by_name(body: dict[str, Any], name: str) -> bool:
    """Whether the filtering proxy takes connections to a host that is called so."""
    said: dict[str, Any] = body.get("mxcOps", {}).get("network", {})
    named = {field: {entry["name"] for entry in said.get(field, ())} for field in ("names", "deniedNames")}
    return name not in named["deniedNames"] and bool({name, "*"} & named["names"])


def directional_reaches(body: dict[str, Any], address: str) -> bool:
    egress: dict[str, Any] = body.get("network", {}).get("egress", {})
    target = ip_address(address)

    def listed(kind: str) -> bool:
        return any(target in ip_network(peer["cidr"]) for rule in egress.get(kind, ()) for peer in rule["to"])

    return not listed("deny") and (listed("allow") or egress.get("default") == "allow")


@given(LEGACY_NETWORKS, st.sampled_from([None, "bubblewrap", "processcontainer", "wslc"]))
def test_the_network_never_gets_wider(network: dict[str, Any], containment: str | None) -> None:
    document = loaded(version="0.7.0-alpha", containment=containment, network=network)
    body = migrate(document, "1.0.0").body
    for address in ADDRESSES:
        if directional_reaches(body, address):
            assert legacy_reaches(network, address)
    ingress = body.get("network", {}).get("ingress", {})
    assert ingress.get("default") != "allow" or network.get("allowLocalNetwork")
    assert "hostLoopback" not in ingress
    for name in ("api.example.com", "localhost", "other.example"):
        if reaches_by_name(body, name):
            assert name not in network.get("blockedHosts", ())
            assert network.get("defaultPolicy") == "allow" or name in network.get("allowedHosts", ())
            assert not network.get("proxy")
    endpoint = body.get("runtimeConfig", {}).get("networkProxy")
    if endpoint is not None:
        assert network.get("proxy")
        assert not network.get("blockedHosts")
        assert network.get("defaultPolicy") == "allow" or not network.get("allowedHosts")
        assert not any(directional_reaches(body, address) for address in ADDRESSES)


@given(LEGACY_NETWORKS)
def test_a_network_of_addresses_alone_keeps_its_meaning_without_a_loss(network: dict[str, Any]) -> None:
    network.pop("proxy", None)
    for name in ("allowedHosts", "blockedHosts"):
        network[name] = [host for host in network.get(name, ()) if network_of(host, strict=True) is not None]
    document = loaded(version="0.7.0-alpha", network=network)
    migration = migrate(document, "1.0.0")
    for address in ADDRESSES:
        assert directional_reaches(migration.body, address) == legacy_reaches(network, address)
    lossy = {loss.pointer for loss in migration.losses if loss.severity is not Severity.DROPPED_DEFAULT}
    assert lossy <= {"/network/allowLocalNetwork"}


@given(FILESYSTEMS)
def test_grants_and_denials_are_carried_over_as_they_are(filesystem: dict[str, Any]) -> None:
    document = loaded(version="0.8.0-alpha", filesystem=filesystem)
    said = {name: paths for name, paths in filesystem.items() if paths is not None}
    assert migrate(document, "1.0.0").body["filesystem"] == said


@given(ranged_bodies(), st.sampled_from(TARGETS))
def test_what_comes_out_loads_and_migrates_to_itself(body: dict[str, Any], to: str) -> None:
    document = reloaded(body)
    migration = migrate(document, to)
    assert not migration.refused
    again = reloaded(migration.body)
    assert (again.contract, again.kind) == (to, RequestKind.ONE_SHOT)
    assert migrate(again, to).losses == ()
    for name, value in body["ui"].items():
        assert migration.body["ui"].get(name) == value
