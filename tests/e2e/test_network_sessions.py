"""Sandboxes that are kept: their network holds at once, for what is open, across starts, and in copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.network import in_session
from tests.network.flavours import FLAVOURS, PROBES
from tests.network.lab import Lab

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
SOURCE = Path(in_session.__file__).read_text()


def scripted(lab: Lab, function: str, **fields: Any) -> Any:
    """What the script tells of a session of this flavour."""
    flavour = lab.flavour
    given = {
        **fields,
        "containment": flavour.containment,
        "python_source": flavour.takes_source,
        "command": PROBES if flavour.takes_source else [flavour.interpreter, "-c", PROBES],
        "read_only": [] if flavour.python is None else [str(flavour.python)],
        "image": flavour.image,
        "env": dict(entry.split("=", 1) for entry in flavour.variables),
    }
    return lab.at_host.ask("script", source=SOURCE, function=function, given=given)


@ON_EACH
def test_an_owner_changes_what_is_reached_within_the_ceiling(lab: Lab) -> None:
    came = scripted(lab, "changes")
    # 192.0.2.7 port 8000, its port 8001, 192.0.2.8, 192.0.2.9, 2001:db8:2::7
    first = [True, False, False, False, True]
    opened = [True, False, True, False, True]
    denied = [False, False, False, False, True]
    assert came["at first"] == first
    assert came["allowed"] == came["after refusals"] == came["started again"] == opened
    assert came["beyond"] == [["beyond_ceiling"]] * 5
    assert came["all or nothing"] == ["beyond_ceiling"]
    assert came["revoked"] == first
    assert came["not there"] == ["not_allowed_before"]
    assert came["denied"] == came["denied and started again"] == denied
    expected = [
        ["allowed", "192.0.2.7", 8000, "egress.allow.0"],
        ["allowed", "192.0.2.8", 8000, "egress.allow.2"],
        ["allowed", "2001:db8:2::7", 8000, "egress.allow.1"],
        ["denied", "192.0.2.7", 8000, "egress.deny.0"],
        ["denied", "192.0.2.7", 8001, "egress.default"],
        ["denied", "192.0.2.8", 8000, "egress.default"],
        ["denied", "192.0.2.9", 8000, "egress.default"],
    ]
    assert [one for one in expected if one not in came["events"]] == []


@pytest.mark.parametrize("function", ["an_open_connection", "an_open_connection_by_name"])
@ON_EACH
def test_an_open_connection_stops_when_it_is_denied_and_others_go_on(lab: Lab, function: str) -> None:
    came = scripted(lab, function)
    assert came["denied"].startswith("False "), came
    assert came["kept"].startswith("True "), came
    assert came["new"] == "False", came


@ON_EACH
def test_while_rules_are_replaced_nothing_slips_by_and_nothing_breaks(lab: Lab, soak: bool) -> None:
    """Sets of ranges are empty in the kernel at the moment at which rules that name them come into use."""
    assert scripted(lab, "changed_often", times=200 if soak else 40) == "[]"
    assert [seen for seen in lab.bed.out_there.ask("seen") if seen[1] == "192.0.2.7"] == []


@ON_EACH
def test_copies_are_under_the_policy_of_their_original(lab: Lab) -> None:
    came = scripted(lab, "copies")
    assert came["original"] == [True, False, False]
    assert came["forks"] == [[True, True, False, False]] * 2
    assert came["one denied"] == [[False, True], [True, True], [True, True]]
    assert came["beyond"] == ["beyond_ceiling"]
    assert came["from snapshot"] == [True, False, False]
