"""Networks by name, on every backend: through the filtering proxy, or through the caller's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.network.flavours import FLAVOURS, WEB_PROBES
from tests.network.lab import Lab, Ran
from tests.network.table_names import NAMES, NamePolicy, Try

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")
OWN_VALUES = ("http_proxy=http://192.0.2.9:1", "No_Proxy=*", "All_Proxy=socks5://192.0.2.9:2", "KEPT=kept")


def test_every_case_has_both_sides() -> None:
    cases = [case for policy in NAMES for case in policy.cases]
    one_sided = [case.about for case in cases if len({one.reached for one in case.tries}) < 2]
    assert one_sided == []


@pytest.mark.parametrize("policy", [pytest.param(policy, id=policy.name) for policy in NAMES])
@ON_EACH
def test_what_is_allowed_by_name_is_reached_and_nothing_else(lab: Lab, policy: NamePolicy) -> None:
    lab.bed.out_there.ask("asked")
    document = lab.document(policy.sections, source=WEB_PROBES)
    tries = [(case.about, one) for case in policy.cases for one in case.tries]
    ran = lab.run(document, [_trusting(lab, one.probe) for _, one in tries])
    wrong = [
        f"{about}: {dict(one.probe)}: expected {one.reached} {one.said!r} {one.reason}, got {fault}"
        for (about, one), told in zip(tries, ran.probes, strict=True)
        if (fault := _fault(one, told, ran))
    ]
    came = [address for _, address, _ in lab.bed.out_there.ask("seen")]
    assert not wrong, "\n".join([*wrong, lab.rules(document)])
    assert sorted({*came} & {*policy.untouched}) == []
    assert lab.bed.on_host.ask("seen") == []
    assert sorted({*lab.bed.out_there.ask("asked")} & {*policy.unasked}) == []


def _trusting(lab: Lab, probe: Mapping[str, Any]) -> dict[str, Any]:
    return {"trusts": lab.bed.certificate, **probe}


def _fault(one: Try, told: Mapping[str, Any], ran: Ran) -> str:
    if told["reached"] is not one.reached or one.said not in told["said"]:
        return f"{told['reached']}: {told['said']}"
    reasons = {event.get("reason") for event in ran.events if event["verdict"] == "denied"}
    return f"{told['said']}; denied were {reasons}" if one.reason and one.reason not in reasons else ""


@ON_EACH
def test_events_tell_names_and_who_decided(lab: Lab) -> None:
    names = [{"name": "web.example.test", "addresses": ["192.0.2.0/24", "2001:db8:2::/64"]}]
    document = lab.document({"mxcOps": {"network": {"names": names}}}, source=WEB_PROBES)
    probes = [
        {"kind": "url", "url": "http://web.example.test/secret?path"},
        {"kind": "url", "url": "http://second.test/", "reached": False},
    ]
    ran = lab.run(document, probes)
    assert [told["reached"] for told in ran.probes] == [True, False], ran.probes
    fields = ("source", "verdict", "name", "port", "rule", "reason", "method")
    told = [{name: event.get(name) for name in fields} for event in ran.events if event["protocol"] == "http"]
    begun = {"source": "proxy", "name": "web.example.test", "port": 80, "rule": "names.0", "method": "GET"}
    refused = {"source": "proxy", "name": "second.test", "port": 80, "rule": "names.default", "method": "GET"}
    assert {**begun, "verdict": "allowed", "reason": None} in told
    assert {**refused, "verdict": "denied", "reason": "name_not_allowed"} in told
    assert [one["name"] for one in ran.result["denials"]] == ["second.test"]
    assert "secret" not in json.dumps(ran.result["network"])


# --- variables, and a proxy of the caller's ---------------------------------------------------------


@ON_EACH
def test_the_variables_name_the_proxy_in_place_of_the_callers_own(lab: Lab) -> None:
    names = [{"name": "web.example.test"}]
    document = lab.document({"mxcOps": {"network": {"names": names}}}, source=WEB_PROBES, env=OWN_VALUES)
    _check_variables(lab, lab.run(document, [{"kind": "variables"}]))


def _check_variables(lab: Lab, ran: Ran) -> None:
    found = json.loads(ran.probes[0]["said"])
    url = found["HTTP_PROXY"]
    given = {name: url for upper in VARIABLES for name in (upper, upper.lower())}
    empty = {"NO_PROXY": "", "no_proxy": ""} if lab.flavour.containment == "lxc" else {}
    assert found == {**given, **empty}
    assert url.startswith("http://") and "192.0.2.9" not in url


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:3128", "http://localhost:3128", "http://[::1]:3128"])
@ON_EACH
def test_beside_a_proxy_of_the_callers_nothing_is_reachable(lab: Lab, proxy: str) -> None:
    document = lab.document({"runtimeConfig": {"networkProxy": proxy}}, source=WEB_PROBES, env=OWN_VALUES)
    denied: list[dict[str, Any]] = [
        *({"kind": "tcp", "to": to, "port": 8000} for to in ("203.0.113.2", "10.187.0.1", "192.0.2.80")),
        *({"kind": "tcp", "to": to, "port": 8000} for to in ("::1", "2001:db8:113::2", "2001:db8:2::80")),
        *({"kind": "tcp", "to": "127.0.0.1", "port": port} for port in (22, 8000)),
        {"kind": "udp", "to": "192.0.2.80", "port": 8000},
        {"kind": "icmp", "to": "192.0.2.80"},
        {"kind": "lookup", "name": "web.example.test"},
        {"kind": "url", "url": "http://192.0.2.80/", "direct": True},
    ]
    allowed = [
        {"kind": "variables"},
        {"kind": "url", "url": "http://anything.test/at-all"},
        {"kind": "tunnel", "by": "connect", "name": "192.0.2.80", "port": 8000, "speak": "greeting"},
        {"kind": "url", "url": "https://web.example.test/", "trusts": lab.bed.certificate},
    ]
    ran = lab.run(document, [*allowed, *({**probe, "reached": False} for probe in denied)])
    assert [told["reached"] for told in ran.probes] == [True] * 4 + [False] * len(denied), ran.probes
    _check_variables(lab, ran)
    assert json.loads(ran.probes[1]["said"])["proxy"] == "the caller's"
    assert ran.probes[2]["said"] == "tcp 192.0.2.80 8000"
    assert {port for _, _, port in lab.bed.on_host.ask("seen")} == {3128}
