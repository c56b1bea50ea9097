"""What is asked for against what a backend gives: all refusals at once, each with field, reason, way out."""

from __future__ import annotations

import pytest

from backends import registry
from backends.base import Limits, SandboxRequest
from backends.errors import PolicyRefused, Problem
from backends.features import Asked, Capabilities, Feature, Support
from mxc_ops.policy.features import check_features

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
    for containment in ("bubblewrap", "lxc", "vm"):
        capabilities = registry.get(containment).capabilities
        (problem,) = refusals(SandboxRequest(containment, asked=(EGRESS,)), capabilities)
        assert "seatbelt" in problem.fix
        assert not [name for name in registry.available() if name in problem.fix]


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
