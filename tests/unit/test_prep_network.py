"""Bridges and images, as far as they can be told without a host."""

from __future__ import annotations

import shutil
import subprocess
from importlib import import_module
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import registry
from backends.lxc.needs import NEEDS
from backends.needs import FEATURES, NeedKind
from backends.network.facts import BRIDGE
from backends.network.needs import ADDRESS, ADDRESS6, TABLE
from mxc_ops.prep.decision import Decision
from mxc_ops.prep.rules.boot import BOOT
from mxc_ops.prep.rules.bridge import bring_up
from mxc_ops.prep.rules.network import RULES
from vm_images.sources import IMAGES

ARGUMENTS: dict[str, Any] = {
    "bridge": BRIDGE,
    "address": ADDRESS,
    "address6": ADDRESS6,
    "table": TABLE,
    "manager": "none",
}
OURS = IPv4Network("10.187.0.0/22")
networks = st.tuples(
    st.one_of(st.integers(1 << 24, (1 << 32) - 1), st.integers(int(OURS[0]) - 2000, int(OURS[-1]) + 2000)),
    st.integers(1, 32),
).map(lambda parts: IPv4Network(parts, strict=False))


def decide(**seen: Any) -> Decision:
    """On a host that has nothing but what is given."""
    answers: dict[str, Any] = {
        "device": None,
        "subnets": [],
        "listed": "",
        "chains": [],
        "texts": {},
        "existing": [],
        "forwards6": False,
    }
    return RULES["bridge"].decide(*(answers | seen).values(), **ARGUMENTS)


@given(networks)
def test_addresses_are_refused_exactly_when_somebody_has_one_of_them(network: IPv4Network) -> None:
    taken = network.broadcast_address >= OURS[0] and network.network_address <= OURS[-1]
    decision = decide(subnets=[{"subnet": str(network), "device": "theirs"}])
    assert bool(decision.refusal) == taken
    assert bool(decision.commands) != taken


def test_the_bridges_own_route_is_in_nobodys_way() -> None:
    assert not decide(subnets=[{"subnet": str(OURS), "device": BRIDGE}]).refusal


@pytest.mark.parametrize("manager", BOOT)
def test_what_runs_at_boot_is_what_ran_now(manager: str) -> None:
    answers: tuple[Any, ...] = (None, [], "", [], {}, [], False)
    decision = RULES["bridge"].decide(*answers, **{**ARGUMENTS, "manager": manager})
    script = next(text for path, text in decision.made["files"].items() if path.endswith(".sh"))
    assert script.endswith(bring_up(BRIDGE, ADDRESS, ADDRESS6, TABLE))
    assert not decision.notice


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "mxc-ops-test.service"
    unit.write_text(BOOT["systemd"].file("mxc-ops-test", "a test", "/bin/true").text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_makes_the_bridge_comes_before_it() -> None:
    order = [need.identifier for need in NEEDS]
    for earlier in ("package", "sysctl.ip-forward", "sysctl.ipv6-forward"):
        assert order.index(f"lxc.network.{earlier}") < order.index("lxc.network.bridge")
    assert order.index("lxc.package.image-tools") < order.index("lxc.image.base")


FORWARDING = {"key": "net.ipv6.conf.all.forwarding", "wanted": "1", "kernel_default": "0"}
routes = st.fixed_dictionaries(
    {
        "leads": st.booleans(),
        "advertised": st.dictionaries(st.sampled_from(["eth0", "eth1"]), st.sampled_from(["0", "1", ""])),
    }
)


@given(st.sampled_from([None, "0", "1"]), routes)
def test_ipv6_is_forwarded_only_where_there_is_a_way_out_that_stays(
    seen: str | None, told: dict[str, Any]
) -> None:
    decision = RULES["ipv6_forwarding"].decide(seen, [], {}, [], told, **FORWARDING)
    stays = told["leads"] and not told["advertised"]
    assert bool(decision.commands) == (seen is not None and stays)
    assert not decision.refusal
    assert bool(decision.notice) == (seen == "0" and told["leads"] and bool(told["advertised"]))
    assert all(name in decision.notice for name in told["advertised"] if decision.notice)


def test_every_image_that_a_backend_needs_can_be_had() -> None:
    modules = [entry.needs for entry in registry.CONTAINMENTS.values() if entry.needs]
    wanted = {
        need.data["image"]
        for module in modules
        for need in import_module(module).needs(FEATURES)
        if need.kind is NeedKind.IMAGE
    }
    assert wanted and wanted <= {*IMAGES}
