"""A user's network where pasta is missing: slirp4netns carries it, IPv4 alone, and the same rules hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import User
from tests.e2e.test_network_rules import TABLE, hold
from tests.network.bed import Bed
from tests.network.cases import Policy
from tests.network.flavours import FLAVOURS
from tests.network.lab import Lab
from tests.security.network_attacks import front

pytest_plugins = ("tests.network.fixtures",)

SLIRP = shutil.which("slirp4netns")
pytestmark = pytest.mark.skipif(SLIRP is None, reason="needs slirp4netns: apt-get install slirp4netns")
AS_USER = pytest.mark.parametrize("flavour", FLAVOURS[1:2])
GATEWAY, RESOLVER = "10.0.2.2", "10.0.2.3"
"""What slirp4netns has in the sandbox's own network: its way to the host's loopback, and to its resolvers."""


@pytest.fixture
def without_pasta(bed: Bed, lab: Lab, as_user: User, tmp_path: Path) -> Iterator[Lab]:
    nothing = tmp_path / "pasta"
    nothing.write_text("")
    places = {path.resolve() for name in ("pasta", "passt") if (path := Path("/usr/bin", name)).exists()}
    with front(bed, as_user, [f"mount --bind {nothing} {place}" for place in places]) as own:
        yield Lab(bed, lab.flavour, own.link)


@pytest.mark.parametrize("policy", [pytest.param(policy, id=policy.name) for policy in TABLE])
@AS_USER
def test_the_rules_hold_for_ipv4(without_pasta: Lab, policy: Policy) -> None:
    expected = [(case.about, one) for case in policy.cases for one in case.expected if ":" not in one.address]
    hold(without_pasta, policy, expected)


@AS_USER
def test_neither_the_host_nor_ipv6_is_reached_whatever_is_allowed(without_pasta: Lab) -> None:
    lab = without_pasta
    lab.bed.on_host.ask("seen")
    closed = (GATEWAY, RESOLVER, "203.0.113.2", "127.0.0.1", "2001:db8:2::7")
    probes = [
        {"kind": "tcp", "to": one, "port": port, "reached": False} for one in closed for port in (8000, 53)
    ]
    document = lab.document({"network": {"egress": {"default": "allow"}}})
    ran = lab.run(document, [*probes, {"kind": "tcp", "to": "192.0.2.7", "port": 8000}])
    assert [told["reached"] for told in ran.probes] == [*[False] * len(probes), True], ran.probes
    assert lab.bed.on_host.ask("seen") == []
