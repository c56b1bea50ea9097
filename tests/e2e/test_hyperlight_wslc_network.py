"""Networks of Hyperlight and of containers: what holds of a machine's holds of theirs.

A part of the tables that the other containments go through whole: the machine below is the same one.
"""

from __future__ import annotations

import pytest

from tests.e2e.test_network_names import (
    test_what_is_allowed_by_name_is_reached_and_nothing_else as names_hold,
)
from tests.e2e.test_network_ports import (
    test_the_hosts_loopback_leads_to_the_named_ports_of_the_sandbox as ports_lead_in,
)
from tests.e2e.test_network_ports import (
    test_the_sandbox_is_given_the_named_ports_of_the_hosts_loopback as ports_lead_out,
)
from tests.e2e.test_network_rules import TABLE, hold
from tests.e2e.test_network_sessions import scripted
from tests.network.cases import Policy
from tests.network.flavours import ENGINE_USERS
from tests.network.lab import Lab
from tests.network.table_names import NAMES, NamePolicy

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", ENGINE_USERS)
BY_DEFAULT = ("exceptions", "denials", "mapped", "explicit")


def _shown(policies: tuple[Policy, ...] | tuple[NamePolicy, ...]) -> list[object]:
    """Those of the newest version, whose documents name both."""
    return [
        pytest.param(policy, id=policy.name, marks=() if policy.name in BY_DEFAULT else (pytest.mark.soak,))
        for policy in policies
        if "version" not in policy.sections
    ]


@pytest.mark.parametrize("policy", _shown(TABLE))
@ON_EACH
def test_what_is_allowed_is_reached_and_nothing_else(lab: Lab, policy: Policy) -> None:
    hold(lab, policy, [(case.about, one) for case in policy.cases for one in case.expected])


@pytest.mark.parametrize("policy", _shown(NAMES))
@ON_EACH
def test_what_is_allowed_by_name_is_reached_and_nothing_else(lab: Lab, policy: NamePolicy) -> None:
    names_hold(lab, policy)


@ON_EACH
def test_named_ports_lead_in_and_out(lab: Lab) -> None:
    ports_lead_in(lab)
    ports_lead_out(lab)


@pytest.mark.parametrize("function", ["an_open_connection", "an_open_connection_by_name"])
@pytest.mark.parametrize("flavour", ENGINE_USERS[1:])
def test_an_owner_denies_what_a_container_has_open(lab: Lab, function: str) -> None:
    came = scripted(lab, function)
    assert came["denied"].startswith("False "), came
    assert came["kept"].startswith("True "), came
    assert came["new"] == "False", came
