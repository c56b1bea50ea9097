"""A bridge of ours on a host of the test's own: made, mended, kept and taken back, for real."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from backends.network.facts import BRIDGE
from backends.network.needs import ADDRESS, ADDRESS6, TABLE
from tests.prep.lxc_host import EARLIER, Host, host

pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make network namespaces"),
    pytest.mark.skipif(
        shutil.which("ip") is None or shutil.which("nft") is None,
        reason="needs ip and nft: apt-get install iproute2 nftables",
    ),
]

OPERATION = "network.bridge"
UNATTENDED = {
    "bridge": BRIDGE,
    "address": ADDRESS,
    "address6": ADDRESS6,
    "table": TABLE,
    "manager": "none",
}
IPV6 = "/proc/sys/net/ipv6/conf"
FORWARDS_IPV6 = f"echo 1 > {IPV6}/all/forwarding"
THEIRS = "ip link add name theirs type bridge"
SYSTEMCTL = """#!/bin/sh
wants=/etc/systemd/system/multi-user.target.wants
case "$*" in
    daemon-reload) ;;
    "enable --now "*)
        mkdir -p $wants
        ln -sf "/etc/systemd/system/$3" "$wants/$3"
        sh -c "$(sed -n s/^ExecStart=//p "$wants/$3")" ;;
    "disable --now "*) rm "$wants/$3"; rmdir $wants ;;
    *) exit 64 ;;
esac
"""
RC_UPDATE = """#!/bin/sh
case "$1 $3" in
    "add default") ln -s "/etc/init.d/$2" "/etc/runlevels/default/$2" ;;
    "del default") rm "/etc/runlevels/default/$2" ;;
    *) exit 64 ;;
esac
"""


@pytest.fixture
def machine() -> Iterator[Host]:
    with host() as made:
        yield made


def test_a_bridge_is_made_once_and_taken_back_to_the_last_rule(machine: Host) -> None:
    before = machine.state()
    assert machine.apply(OPERATION, UNATTENDED).commands
    again = machine.decide(OPERATION, UNATTENDED)
    assert (again.commands, again.refusal) == ((), "")
    assert not machine.undo().refusal
    assert machine.state() == before


def test_without_a_service_manager_no_boot_file_is_written_and_the_plan_says_so(machine: Host) -> None:
    decision = machine.apply(OPERATION, UNATTENDED)
    assert "will not come back after a restart" in decision.notice
    assert machine.run("find /etc /usr/local -xdev -type f") == ""


@pytest.mark.parametrize(
    "drift",
    [
        f"ip address flush dev {BRIDGE}",
        f"ip address add 192.0.2.1/24 dev {BRIDGE}",
        f"ip link set dev {BRIDGE} down",
        f"ip link delete dev {BRIDGE}",
        f"nft delete table inet {TABLE}",
        f"nft flush table inet {TABLE}",
        f"nft add rule inet {TABLE} forward accept",
        f"nft flush chain inet {TABLE} postrouting",
        f"echo 0 > /proc/sys/net/ipv6/conf/{BRIDGE}/disable_ipv6",
        "nft flush ruleset",
    ],
)
def test_drift_is_noticed_and_mended(machine: Host, drift: str) -> None:
    before = machine.state()
    machine.apply(OPERATION, UNATTENDED)
    machine.run(drift)
    assert machine.apply(OPERATION, UNATTENDED).commands
    assert not machine.decide(OPERATION, UNATTENDED).commands
    assert not machine.undo().refusal
    assert machine.state() == before


def test_a_bridge_of_an_earlier_version_is_mended(machine: Host) -> None:
    machine.run(EARLIER)
    machine.run(FORWARDS_IPV6)
    mended = machine.apply(OPERATION, UNATTENDED)
    assert f"has no address {ADDRESS6}, another NAT" in mended.before
    assert not machine.decide(OPERATION, UNATTENDED).commands
    assert "chain input" in machine.run(f"nft list table inet {TABLE}")


def test_a_host_that_forwards_ipv6_has_it_on_the_bridge_and_believes_no_router_there(machine: Host) -> None:
    before = machine.state()
    machine.apply(OPERATION, UNATTENDED)
    assert "inet6" not in machine.run(f"ip address show dev {BRIDGE}")
    machine.run(FORWARDS_IPV6)
    machine.apply(OPERATION, UNATTENDED)
    assert f"inet6 {ADDRESS6}" in machine.run(f"ip address show dev {BRIDGE}")
    assert machine.run(f"cat /proc/sys/net/ipv6/conf/{BRIDGE}/accept_ra") == "0\n"
    assert not machine.decide(OPERATION, UNATTENDED).commands
    machine.run(f"echo 1 > /proc/sys/net/ipv6/conf/{BRIDGE}/accept_ra")
    assert "believes router advertisements" in machine.apply(OPERATION, UNATTENDED).before
    machine.run(FORWARDS_IPV6.replace("1", "0", 1))
    machine.apply(OPERATION, UNATTENDED)
    assert "inet6" not in machine.run(f"ip address show dev {BRIDGE}")
    assert not machine.undo().refusal
    assert machine.state() == before


def test_where_ipv6_is_switched_off_the_bridge_has_none(machine: Host) -> None:
    machine.run(f"{FORWARDS_IPV6}; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    machine.apply(OPERATION, UNATTENDED)
    assert "inet6" not in machine.run(f"ip address show dev {BRIDGE}")
    assert not machine.decide(OPERATION, UNATTENDED).commands


def test_an_address_that_was_chosen_before_goes_when_another_is(machine: Host) -> None:
    before = machine.state()
    machine.apply(OPERATION, {**UNATTENDED, "address": "10.99.0.1/22"})
    machine.apply(OPERATION, UNATTENDED)
    assert machine.run(f"ip -4 -br address show dev {BRIDGE}").split()[2:] == [ADDRESS]
    assert not machine.undo().refusal
    assert machine.state() == before


def test_addresses_that_go_with_one_that_is_removed_hold_nothing_up(machine: Host) -> None:
    machine.apply(OPERATION, UNATTENDED)
    others = [ADDRESS.replace(".1/", f".{last}/") for last in (5, 1, 9)]
    machine.run(f"ip address flush dev {BRIDGE}; echo 0 > /proc/sys/net/ipv4/conf/all/promote_secondaries")
    for address in others:
        machine.run(f"ip address add {address} dev {BRIDGE}")
    machine.apply(OPERATION, UNATTENDED)
    assert machine.run(f"ip -4 -br address show dev {BRIDGE}").split()[2:] == [ADDRESS]
    assert not machine.undo().refusal


def test_a_bridge_that_was_killed_in_the_making_is_made_again(machine: Host) -> None:
    machine.run(f"ip link add name {BRIDGE}-new type bridge")
    machine.apply(OPERATION, UNATTENDED)
    assert not machine.decide(OPERATION, UNATTENDED).commands
    assert f"{BRIDGE}-new" not in machine.run("ip -o link")


def test_what_a_kill_in_the_making_has_left_goes_with_undo(machine: Host) -> None:
    before = machine.state()
    machine.apply(OPERATION, UNATTENDED)
    machine.run(f"ip link delete dev {BRIDGE}; nft delete table inet {TABLE}")
    machine.run(f"ip link add name {BRIDGE}-new type bridge")
    assert not machine.undo().refusal
    assert machine.state() == before


def test_a_bridge_that_was_there_before_is_refused_and_left_alone(machine: Host) -> None:
    machine.run(f"ip link add name {BRIDGE} type bridge")
    before = machine.state()
    decision = machine.decide(OPERATION, UNATTENDED)
    assert "not of our making" in decision.refusal
    assert not decision.commands
    assert machine.state() == before
    machine.run(decision.fix.partition(": ")[2])
    assert machine.apply(OPERATION, UNATTENDED).commands


def test_a_table_that_was_there_before_is_refused(machine: Host) -> None:
    machine.run(f"nft 'table inet {TABLE} {{ chain theirs {{ counter; }}; }}'")
    decision = machine.decide(OPERATION, UNATTENDED)
    assert f"table inet {TABLE}" in decision.refusal
    assert not decision.commands


@pytest.mark.parametrize(
    "theirs",
    [
        "ip address add 10.187.1.9/24 dev theirs",
        "ip link set theirs up; ip route add 10.0.0.0/8 dev theirs",
        "ip link set theirs up; ip route add 10.187.2.0/24 dev theirs table 7",
    ],
    ids=["an address", "a wider route", "a narrower route elsewhere"],
)
def test_addresses_that_somebody_has_are_refused(machine: Host, theirs: str) -> None:
    machine.run(f"{THEIRS}; {theirs}")
    decision = machine.decide(OPERATION, UNATTENDED)
    assert "overlaps" in decision.refusal and "by theirs" in decision.refusal
    assert not decision.commands


@pytest.mark.parametrize("theirs", ["default via 192.0.2.2", "unreachable 10.0.0.0/8"])
def test_a_default_route_and_one_that_leads_nowhere_are_in_nobodys_way(machine: Host, theirs: str) -> None:
    machine.run(
        f"{THEIRS}; ip address add 192.0.2.1/24 dev theirs; ip link set theirs up; ip route add {theirs}"
    )
    assert not machine.decide(OPERATION, UNATTENDED).refusal


def test_without_iproute2_the_plan_still_sees_whose_addresses_they_are(machine: Host) -> None:
    machine.run(f"{THEIRS}; ip link set theirs up; ip route add 10.187.0.0/16 dev theirs")
    machine.run("mkdir /usr/local/sbin; ln -s /bin/false /usr/local/sbin/ip")
    assert "10.187.0.0/16" in machine.decide(OPERATION, UNATTENDED).refusal


def test_while_something_is_attached_the_way_back_names_it(machine: Host) -> None:
    machine.apply(OPERATION, UNATTENDED)
    machine.run(
        f"ip link add name veth-busy type veth peer name other; ip link set veth-busy master {BRIDGE}"
    )
    refused = machine.undo()
    assert f"veth-busy is attached to {BRIDGE}" in refused.refusal
    assert BRIDGE in machine.run("ip -o link")
    assert machine.receipt() is not None


def test_a_table_that_cannot_be_seen_any_more_keeps_its_record(machine: Host) -> None:
    before = machine.state()
    machine.apply(OPERATION, UNATTENDED)
    machine.run("mount --bind /dev/null $(command -v nft)")
    refused = machine.undo()
    assert f"whether table inet {TABLE} is there cannot be told" in refused.refusal
    assert "mxc-ops prep host" in refused.fix
    assert machine.receipt() is not None
    machine.run("umount /usr/sbin/nft")
    assert not machine.undo().refusal
    assert machine.state() == before


def test_what_others_added_is_taken_along_only_when_the_user_insists(machine: Host) -> None:
    before = machine.state()
    machine.apply(OPERATION, UNATTENDED)
    machine.run(f"nft add rule inet {TABLE} forward counter; ip address add 192.0.2.1/24 dev {BRIDGE}")
    refused = machine.undo()
    assert "has rules that are not ours" in refused.refusal and "192.0.2.1/24" in refused.refusal
    machine.undo(insist=True)
    assert machine.state() == before


# --- over restarts


@pytest.fixture
def with_systemd(machine: Host) -> Host:
    """systemctl's part in it: links for enabled units, and their ExecStart= run."""
    machine.run("mkdir -p /usr/local/bin /etc/systemd/system")
    machine.run(f"cat > /usr/local/bin/systemctl <<'END'\n{SYSTEMCTL}END\nchmod 755 /usr/local/bin/systemctl")
    return machine


@pytest.fixture
def with_openrc(machine: Host) -> Host:
    machine.run("mkdir -p /usr/local/bin /etc/init.d /etc/runlevels/default")
    machine.run(f"cat > /usr/local/bin/rc-update <<'END'\n{RC_UPDATE}END\nchmod 755 /usr/local/bin/rc-update")
    return machine


def _restart(machine: Host) -> None:
    """What a restart takes away."""
    machine.run(f"ip link delete dev {BRIDGE}; nft flush ruleset")


def test_with_systemd_the_bridge_comes_back_after_a_restart(with_systemd: Host) -> None:
    before = with_systemd.state()
    managed = {**UNATTENDED, "manager": "systemd"}
    with_systemd.apply(OPERATION, managed)
    assert not with_systemd.decide(OPERATION, managed).commands
    _restart(with_systemd)
    unit = f"/etc/systemd/system/multi-user.target.wants/mxc-ops-{BRIDGE}.service"
    with_systemd.run(f'sh -c "$(sed -n s/^ExecStart=//p {unit})"')
    assert not with_systemd.decide(OPERATION, managed).commands
    assert not with_systemd.undo().refusal
    assert with_systemd.state() == before


def test_with_openrc_the_bridge_comes_back_after_a_restart(with_openrc: Host) -> None:
    before = with_openrc.state()
    managed = {**UNATTENDED, "manager": "openrc"}
    with_openrc.apply(OPERATION, managed)
    assert not with_openrc.decide(OPERATION, managed).commands
    _restart(with_openrc)
    link = f"/etc/runlevels/default/mxc-ops-{BRIDGE}"
    with_openrc.run(f"test -x {link}; ebegin() {{ :; }}; eend() {{ return $1; }}; . {link}; start")
    assert not with_openrc.decide(OPERATION, managed).commands
    assert not with_openrc.undo().refusal
    assert with_openrc.state() == before


@pytest.mark.parametrize(
    "drift",
    [
        f"rm /usr/local/lib/mxc-ops/network/{BRIDGE}.sh",
        f"echo >> /etc/systemd/system/mxc-ops-{BRIDGE}.service",
        f"rm /etc/systemd/system/multi-user.target.wants/mxc-ops-{BRIDGE}.service",
    ],
)
def test_what_brings_it_back_is_mended_too(with_systemd: Host, drift: str) -> None:
    managed = {**UNATTENDED, "manager": "systemd"}
    with_systemd.apply(OPERATION, managed)
    with_systemd.run(drift)
    assert "not kept over restarts" in with_systemd.decide(OPERATION, managed).before
    with_systemd.apply(OPERATION, managed)
    assert not with_systemd.decide(OPERATION, managed).commands


def test_a_unit_that_somebody_changed_is_not_removed(with_systemd: Host) -> None:
    with_systemd.apply(OPERATION, {**UNATTENDED, "manager": "systemd"})
    unit = f"/etc/systemd/system/mxc-ops-{BRIDGE}.service"
    with_systemd.run(f"echo '# theirs' >> {unit}")
    assert unit in with_systemd.undo().refusal
    assert "# theirs" in with_systemd.run(f"cat {unit}")
