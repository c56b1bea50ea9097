"""What is asked for against what a backend gives: all refusals at once, each with field, reason, way out."""

from __future__ import annotations

import pytest

from backends import registry
from backends.base import Environment, Limits, SandboxRequest, SecretSource
from backends.errors import PolicyRefused, Problem
from backends.features import Asked, Capabilities, Feature, Support
from backends.frozen import replace
from backends.network.policy import Direction, NetworkPolicy, PortMapping, Protocol, ProxyEndpoint
from mxc_ops.policy.features import check_features
from mxc_ops.policy.host_loopback import apart_from_ports

EGRESS = Asked(Feature.EGRESS, "/network/defaultPolicy", "allow")
UI = Asked(Feature.UI, "/ui/disable", "false")
SECTION = Asked(Feature.BACKEND_SECTION, "/experimental/wslc", "{}")


def backend(
    *limits: str, interactive_tty: bool = True, support: dict[Feature, Support] | None = None
) -> Capabilities:
    return Capabilities(
        containment="bubblewrap",
        support=support or {},
        reasons={Feature.EGRESS: "it has no network", Feature.UI: "no display is reachable"},
        limits=frozenset(limits),
        interactive_tty=interactive_tty,
    )


def refusals(request: SandboxRequest, capabilities: Capabilities) -> tuple[Problem, ...]:
    with pytest.raises(PolicyRefused) as caught:
        check_features(request, capabilities)
    return caught.value.problems


def test_nothing_asked_is_nothing_refused() -> None:
    assert check_features(SandboxRequest("bubblewrap", shell="true"), backend()) == ()


def test_a_given_feature_passes_without_a_word() -> None:
    given = backend(support={Feature.EGRESS: Support.GIVEN})
    assert check_features(SandboxRequest("bubblewrap", asked=(EGRESS,)), given) == ()


def test_a_feature_that_is_never_given_warns_with_field_backend_and_reason() -> None:
    capabilities = backend(support={Feature.UI: Support.NEVER_GIVEN})
    (warning,) = check_features(SandboxRequest("bubblewrap", asked=(UI,)), capabilities)
    assert warning == (
        "/ui/disable: false asks for a user interface, which bubblewrap never gives: no display is reachable"
    )


def test_a_refusal_names_field_backend_reason_and_who_could() -> None:
    request = SandboxRequest("bubblewrap", asked=(EGRESS,))
    (problem,) = refusals(request, backend(support={Feature.EGRESS: Support.REFUSED}))
    assert problem.path == "/network/defaultPolicy"
    assert problem.message == "allow asks for outbound network, which bubblewrap refuses: it has no network"
    assert "remove /network/defaultPolicy" in problem.fix
    assert "seatbelt, processcontainer" in problem.fix
    assert "bubblewrap" not in problem.fix


def test_a_feature_that_the_backend_does_not_mention_is_refused() -> None:
    assert [each.path for each in refusals(SandboxRequest("bubblewrap", asked=(UI,)), backend())] == [
        "/ui/disable"
    ]


def test_a_foreign_section_is_answered_with_the_containment_it_belongs_to() -> None:
    (problem,) = refusals(SandboxRequest("bubblewrap", asked=(SECTION,)), backend())
    assert problem.fix == "remove /experimental/wslc, or use a containment that can give it: wslc"


def test_nobody_is_sent_to_a_containment_that_refuses_it_here_too() -> None:
    kept = Asked(Feature.KEEP_CONTAINER, "/lifecycle/destroyOnExit", "false")
    (problem,) = refusals(SandboxRequest("bubblewrap", asked=(kept,)), backend())
    assert problem.fix.endswith("use a containment that can give it: processcontainer")


@pytest.mark.parametrize("containment", registry.available())
@pytest.mark.parametrize(
    "feature", [Feature.EGRESS, Feature.INGRESS, Feature.HOST_LOOPBACK, Feature.NETWORK_PROXY]
)
def test_who_cannot_give_a_network_is_sent_to_those_who_can(containment: str, feature: Feature) -> None:
    assert registry.get(containment).capabilities.support[feature] is Support.GIVEN
    asked = Asked(feature, "/network", "allow")
    other = Capabilities("isolation_session", {}, {}, frozenset(), interactive_tty=False)
    (problem,) = refusals(SandboxRequest("isolation_session", asked=(asked,)), other)
    assert containment in problem.fix


def test_a_way_that_no_named_port_uses_is_refused_with_what_to_write() -> None:
    loopback = Asked(Feature.HOST_LOOPBACK, "/network/ingress/hostLoopback", "allow")
    lan = Asked(Feature.INGRESS, "/network/ingress/default", "allow")
    given = backend(support={Feature.HOST_LOOPBACK: Support.GIVEN, Feature.INGRESS: Support.GIVEN})
    request = SandboxRequest("bubblewrap", asked=(loopback, lan))
    first, second = refusals(request, given)
    assert {first.code, second.code} == {"allow_without_mapping"}
    assert '"mxcOps": {"portMappings": [{"direction": "toSandbox", "hostPort"' in first.fix
    assert '"hostAddress": "192.0.2.10"' in second.fix
    (left,) = refusals(apart_from_ports(request), given)
    assert left.path == "/network/ingress/default", "a session opens ports of the loopback later"
    port = PortMapping("", "", Direction.TO_SANDBOX, Protocol.TCP, "127.0.0.1", 8080, 80)
    mapped = replace(request, network=NetworkPolicy(mappings=(port,)))
    assert [each.path for each in refusals(mapped, given)] == ["/network/ingress/default"]
    both = replace(request, network=NetworkPolicy(mappings=(port, replace(port, host_address="192.0.2.1"))))
    assert check_features(both, given) == ()


def test_the_fix_for_a_mere_acknowledgement_is_to_leave_it() -> None:
    asked = Asked(Feature.INGRESS, "/network/allowLocalNetwork", "true")
    given = backend(support={Feature.INGRESS: Support.GIVEN})
    (problem,) = refusals(SandboxRequest("bubblewrap", asked=(asked,)), given)
    assert problem.fix.startswith("set network.allowLocalNetwork to false")
    assert "portMappings" in problem.fix


@pytest.mark.parametrize("name", ["HTTP_PROXY", "no_proxy", "All_Proxy"])
def test_a_secret_does_not_name_another_proxy(name: str) -> None:
    request = SandboxRequest(
        "bubblewrap",
        environment=Environment(secrets=((name, SecretSource(fd=3)), ("TOKEN", SecretSource(fd=4)))),
        network=NetworkPolicy(proxy=ProxyEndpoint("", "http", "127.0.0.1", 3128)),
    )
    (problem,) = refusals(request, backend())
    assert (problem.code, problem.path) == ("proxy_variable_taken", f"/mxcOps/env/{name}")
    assert check_features(replace(request, network=NetworkPolicy()), backend()) == ()


def test_all_refusals_come_at_once() -> None:
    request = SandboxRequest("bubblewrap", asked=(EGRESS, UI, SECTION), limits=Limits(cpus=1.0), tty=True)
    paths = [each.path for each in refusals(request, backend(interactive_tty=False))]
    assert paths == [
        "/network/defaultPolicy",
        "/ui/disable",
        "/experimental/wslc",
        "/mxcOps/limits/cpus",
        "/mxcOps/tty",
    ]


def test_a_limit_that_the_backend_does_not_hold_is_refused_by_name_unless_it_may_lapse() -> None:
    request = SandboxRequest("bubblewrap", limits=Limits(memory_mib=64, pids=8))
    (problem,) = refusals(request, backend("memoryMib"))
    assert (problem.code, problem.path) == ("limit_not_supported", "/mxcOps/limits/pids")
    lenient = SandboxRequest("bubblewrap", limits=Limits(pids=8, best_effort=frozenset({"pids"})))
    (warning,) = check_features(lenient, backend())
    assert "/mxcOps/limits/pids" in warning
    assert "not enforced" in warning
