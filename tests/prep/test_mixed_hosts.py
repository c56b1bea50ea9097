"""Several hosts in one run that differ in what they are prepared for, and in whether they can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.prep.private_host import PrivateHost, Reported, missing

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
BUBBLEWRAP = {"mxc_backends": ["bubblewrap"]}
MICROVM = {"mxc_backends": ["microvm"]}
ABSENT = ("@chroot/nowhere", BUBBLEWRAP)
PACKAGE = "bubblewrap.package.bwrap"
IDS = "bubblewrap.ids.workloads"


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    """Nothing here changes what it has installed."""
    with PrivateHost() as made:
        yield made


def prep(host: PrivateHost, hosts: list[tuple[str, Mapping[str, Any]]], *options: str) -> Reported:
    path: Path = host.inventory("mixed.py", f"hosts = {hosts!r}\n")
    return host.prep("host", "--inventory", path, *options)


def states(told: Reported) -> dict[str, str]:
    return {each["name"]: each["state"] for each in told.report["hosts"]}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"mxc_features": ["netwrok"]}, "mxc_features in the inventory: nothing is called 'netwrok'"),
        ({"mxc_backend": ["lxc"]}, "mxc_backend in the inventory: nothing is called so; did you mean mxc_b"),
        ({"mxc_bridges": {"mxcbr0": "10.999.0.1/22"}}, "mxc_bridges.mxcbr0 in the inventory: 10.999.0.1/22"),
    ],
    ids=["name", "key", "address"],
)
def test_data_of_one_host_that_cannot_be_meant_are_its_failure_and_no_wrong_command_line(
    host: PrivateHost, data: Mapping[str, Any], problem: str
) -> None:
    wrong = {**BUBBLEWRAP, **data}
    debian = f"@chroot/{host.debian}"
    told = prep(host, [("@local", wrong), (debian, BUBBLEWRAP)], "--item", IDS, "--yes")
    assert (told.exit_code, told.report["problem"]) == (1, ""), told
    assert states(told) == {"@local": "failed", debian: "ready"}
    assert told.host["problem"].startswith(problem)
    assert told.host["fix"] == "see inventories/fleet.py for what it may be"


def test_a_host_that_needs_no_item_of_those_named_has_nothing_to_do(host: PrivateHost) -> None:
    debian = f"@chroot/{host.debian}"
    told = prep(host, [("@local", MICROVM), (debian, BUBBLEWRAP)], "--item", "bubblewrap.ids.*", "--yes")
    assert (told.exit_code, told.report["problem"]) == (0, ""), told
    assert states(told) == {"@local": "nothing to do here", debian: "ready"}
    assert (told.host["problem"], told.host["exitCode"]) == (
        "nothing of what was asked for is needed here",
        0,
    )


def test_an_item_that_no_host_has_is_a_wrong_command_line_and_nothing_is_changed(host: PrivateHost) -> None:
    before = host.differences()
    options = ["--item", PACKAGE, "--item", "bubblewrap.pakcage.*", "--yes"]
    told = prep(host, [("@local", BUBBLEWRAP), (f"@chroot/{host.debian}", MICROVM)], *options)
    assert told.exit_code == told.report["exitCode"] == 64, told
    assert told.report["problem"] == "no item of what is to be prepared is called 'bubblewrap.pakcage.*'"
    assert PACKAGE in told.report["fix"]
    assert [event for event in told.events if event["event"] in ("ask", "started")] == []
    assert host.differences() == before


def test_a_host_that_cannot_be_reached_is_told_even_if_the_others_lack_the_item(host: PrivateHost) -> None:
    told = prep(host, [("@local", MICROVM), ABSENT], "--item", PACKAGE)
    assert told.exit_code == 1, told
    assert states(told) == {"@local": "nothing to do here", "@chroot/nowhere": "unreachable"}
