"""A real libvirt daemon as host of virtual machines: prepared, mended, used, taken back, for real.

One host for all tests of this file, because its first connection takes seconds; each test leaves it empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.vm.needs import NAME, NEEDS
from mxc_ops.prep.undoing import Verdict
from tests.prep.libvirt_host import VmHost, argument_of, missing, vm_host

pytestmark = [pytest.mark.backend("vm"), pytest.mark.skipif(bool(missing()), reason=missing())]

NETWORK, POOL = argument_of("vm.network"), argument_of("vm.pool")
BRIDGE = "mxcvirbr0"
PREPARE = "mxc-ops prep host --backend vm --feature libvirt --yes"
DIRECTORY = POOL[1]["path"]
BOTH = pytest.mark.parametrize("operation, arguments", [NETWORK, POOL], ids=["network", "pool"])
# A domain that is off the network until it is given an interface.
DOMAIN = """\
<domain type="qemu"><name>{name}</name><memory unit="MiB">32</memory>
<os><type arch="x86_64">hvm</type></os>
<devices><controller type="usb" model="none"/><memballoon model="none"/>
<interface type="network"><source network="mxc-ops"/></interface></devices></domain>
"""
CLEAN = """
for t in c.listAllDomains() + c.listAllNetworks() + c.listAllStoragePools():
    persistent = t.isPersistent()
    t.destroy() if t.isActive() else None
    t.undefine() if persistent else None
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmHost]:
    with vm_host(tmp_path_factory.mktemp("host")) as made:
        for name in ("vm.service.log", "vm.service.qemu"):
            made.apply(*argument_of(name))
            made.run("rm -r /var/lib/mxc-ops")
        yield made


@pytest.fixture
def machine(running: VmHost) -> Iterator[VmHost]:
    yield running
    running.libvirt(CLEAN)
    running.run("rm -rf /var/lib/mxc-ops /srv/mxc-ops; ip link delete dev mxcothers 2>/dev/null || true")


def running_domain(name: str) -> str:
    return f"c.createXML('''{DOMAIN.format(name=name)}''', 1)"


def theirs(xml: str) -> str:
    """The same definition, of somebody else's making."""
    return re.sub("<uuid>.*</uuid>", "", xml)


@BOTH
def test_it_is_made_once_and_taken_back(machine: VmHost, operation: str, arguments: dict[str, str]) -> None:
    before = machine.state()
    assert machine.apply(operation, arguments).before == "not defined"
    again = machine.decide(operation, arguments)
    assert (again.before, again.commands, again.refusal) == ("active, started with libvirt", (), "")
    assert machine.verify() is Verdict.AS_RECORDED
    assert not machine.undo().refusal
    assert machine.state() == before


def test_the_network_gives_addresses_and_the_pool_takes_volumes(machine: VmHost) -> None:
    machine.apply(*NETWORK)
    machine.apply(*POOL)
    assert "10.187.4.1/24" in machine.run(f"ip -br address show dev {BRIDGE}")
    assert machine.run(f"stat -c '%a %u' {DIRECTORY}") == "711 0\n"
    volume = "<volume><name>v</name><capacity>4096</capacity></volume>"
    machine.libvirt(f"c.storagePoolLookupByName('{NAME}').createXML('{volume}', 0)")
    assert machine.run(f"stat -c %s {DIRECTORY}/v") == "4096\n"


CHANGED_NETWORK = NETWORK[1]["xml"].replace("10.187.4", "198.51.100")
RANGE = '<range start="10.187.4.2" end="10.187.4.{}"/>'
NETWORK_DRIFTS = {
    "stopped": ("n.destroy()", "not active, started with libvirt"),
    "not started with libvirt": ("n.setAutostart(0)", "active, not started with libvirt"),
    "undefined": ("n.destroy(); n.undefine()", "not defined"),
    "transient": ("n.undefine()", "it is gone after a restart of libvirt"),
    "another address": (
        f"n.destroy(); n = c.networkDefineXML('''{CHANGED_NETWORK}'''); n.create()",
        "network ip address is 198.51.100.1, not 10.187.4.1",
    ),
    "another address from the next start on": (
        f"c.networkDefineXML('''{CHANGED_NETWORK}''')",
        "network ip address is 198.51.100.1, not 10.187.4.1",
    ),
    "other addresses until the next start": (
        # libvirt: virNetworkUpdateFlags, virNetworkUpdateSection; remove, add, only what is in force.
        f"n.update(2, 5, 0, '{RANGE.format(254)}', 1); n.update(3, 5, 0, '{RANGE.format(9)}', 1)",
        "network ip dhcp range end is 10.187.4.9, not 10.187.4.254",
    ),
}


@pytest.mark.parametrize("change, seen", NETWORK_DRIFTS.values(), ids=NETWORK_DRIFTS)
def test_a_changed_network_of_ours_is_noticed_and_mended(machine: VmHost, change: str, seen: str) -> None:
    machine.apply(*NETWORK)
    untouched = machine.state()
    machine.libvirt(f"n = c.networkLookupByName('{NAME}'); {change}")
    assert machine.verify() in (Verdict.DRIFTED, Verdict.MISSING)
    assert seen in machine.apply(*NETWORK).before
    assert machine.verify() is Verdict.AS_RECORDED
    assert machine.state() == untouched
    machine.undo()
    assert NAME not in machine.libvirt("print(c.listNetworks(), c.listDefinedNetworks())")


OTHER_PLACE = POOL[1]["xml"].replace(DIRECTORY, "/srv/mxc-ops")
POOL_DRIFTS = {
    "stopped": ("p.destroy()", "not active, started with libvirt"),
    "not started with libvirt": ("p.setAutostart(0)", "active, not started with libvirt"),
    "undefined": ("p.destroy(); p.undefine()", "not defined"),
    "another directory": (
        f"p.destroy(); p = c.storagePoolDefineXML('''{OTHER_PLACE}'''); p.build(); p.create()",
        f"pool target path is /srv/mxc-ops, not {DIRECTORY}",
    ),
    "no directory": (f"import os; os.rmdir('{DIRECTORY}')", f"{DIRECTORY} is not there"),
}


@pytest.mark.parametrize("change, seen", POOL_DRIFTS.values(), ids=POOL_DRIFTS)
def test_a_changed_pool_of_ours_is_noticed_and_mended(machine: VmHost, change: str, seen: str) -> None:
    before = machine.state()
    machine.apply(*POOL)
    untouched = machine.state()
    machine.libvirt(f"p = c.storagePoolLookupByName('{NAME}'); {change}")
    assert machine.verify() in (Verdict.DRIFTED, Verdict.MISSING)
    assert seen in machine.apply(*POOL).before
    assert machine.verify() is Verdict.AS_RECORDED
    assert machine.state() == untouched
    machine.undo()
    assert machine.state() == before


def test_a_network_of_somebody_else_is_refused_and_left_alone(machine: VmHost) -> None:
    machine.libvirt(f"c.networkDefineXML('''{theirs(CHANGED_NETWORK)}''')")
    before = machine.state()
    refused = machine.decide(*NETWORK)
    assert "was here before us" in refused.refusal and not refused.commands
    assert refused.fix.endswith(f"virsh -c qemu:///system net-undefine {NAME}")
    assert machine.state() == before


def test_a_pool_of_somebody_else_is_refused_and_left_alone(machine: VmHost) -> None:
    machine.libvirt(f"c.storagePoolDefineXML('''{theirs(OTHER_PLACE)}''')")
    before = machine.state()
    assert "was here before us" in machine.decide(*POOL).refusal
    assert machine.state() == before


def test_somebody_else_comes_between_the_plan_and_the_change(machine: VmHost) -> None:
    planned = machine.decide(*NETWORK)
    machine.libvirt(f"c.networkDefineXML('''{theirs(CHANGED_NETWORK)}''')")
    before = machine.state()
    done = machine.try_run(planned.commands[0])
    assert done.returncode == 1
    assert done.stderr.startswith("there is one of that name that is not ours")
    assert machine.state() == before


@BOTH
def test_an_equal_one_of_somebody_else_is_started_and_stopped_again(
    machine: VmHost, operation: str, arguments: dict[str, str]
) -> None:
    machine.run(f"mkdir -p {DIRECTORY}")
    define = "networkDefineXML" if operation == NETWORK[0] else "storagePoolDefineXML"
    machine.libvirt(f"c.{define}('''{theirs(arguments['xml'])}''')")
    before = machine.listed()
    machine.apply(operation, arguments)
    assert not machine.decide(operation, arguments).commands
    assert not machine.undo().refusal
    assert machine.listed() == before


def test_a_used_network_stays_and_its_users_are_named(machine: VmHost) -> None:
    machine.apply(*NETWORK)
    machine.libvirt(f"{running_domain('web')}; c.defineXML('''{DOMAIN.format(name='off')}''')")
    machine.run(f"ip link add name mxcothers type veth && ip link set dev mxcothers master {BRIDGE}")
    before = machine.state()
    refused = machine.undo()
    assert refused.refusal == (
        f"network {NAME}: used by domain off; used by domain web; used by interface mxcothers"
    )
    assert machine.state() == before
    assert machine.verify() is Verdict.AS_RECORDED, "to be used is no drift"
    machine.undo(insist=True)
    assert machine.receipt() is None
    assert NAME not in machine.libvirt("print(c.listNetworks(), c.listDefinedNetworks())")


def test_a_drifted_network_is_not_mended_under_a_running_machine(machine: VmHost) -> None:
    machine.apply(*NETWORK)
    machine.libvirt(f"{running_domain('web')}; c.networkDefineXML('''{CHANGED_NETWORK}''')")
    refused = machine.decide(*NETWORK)
    assert refused.refusal.endswith("and is used by domain web") and not refused.commands
    machine.libvirt("c.lookupByName('web').destroy()")
    assert not machine.apply(*NETWORK).refusal
    assert not machine.decide(*NETWORK).commands


def test_who_begins_to_use_it_between_the_plan_and_the_way_back_keeps_it(machine: VmHost) -> None:
    machine.apply(*NETWORK)
    planned = machine.undo_plan()
    machine.libvirt(running_domain("web"))
    done = machine.try_run(planned.commands[0])
    assert (done.returncode, done.stderr) == (1, "used by domain web by now\n")
    assert machine.verify() is Verdict.AS_RECORDED


def test_a_pool_with_volumes_stays_and_they_are_named(machine: VmHost) -> None:
    machine.apply(*POOL)
    volume = "<volume><name>one</name><capacity>4096</capacity></volume>"
    machine.libvirt(f"c.storagePoolLookupByName('{NAME}').createXML('{volume}', 0)")
    machine.run(f"touch {DIRECTORY}/unnoticed")
    assert machine.undo().refusal == f"pool {NAME}: used by volume one; used by volume unnoticed"
    assert machine.verify() is Verdict.AS_RECORDED, "to be used is no drift"
    machine.undo(insist=True)
    assert NAME not in machine.libvirt("print(c.listStoragePools(), c.listDefinedStoragePools())")
    assert machine.run(f"ls {DIRECTORY}") == "one\nunnoticed\n", "what others keep there is never removed"


def test_the_probes_try_it_all_and_say_how_to_mend_it(machine: VmHost) -> None:
    machine.apply(*NETWORK)
    told = machine.probes()
    assert [told[f"vm.libvirt.{check}"][0] for check in ("connection", "network", "domain")] == ["ok"] * 3
    assert told["vm.libvirt.pool"] == ("failed", f"{NAME} is not defined", PREPARE)
    machine.apply(*POOL)
    machine.libvirt(f"c.networkLookupByName('{NAME}').destroy()")
    told = machine.probes()
    assert told["vm.libvirt.network"] == ("failed", f"{NAME} is not active", PREPARE)
    assert told["vm.libvirt.pool"][0] == "ok"
    assert machine.libvirt("print(c.listAllDomains())") == "[]\n"


def test_the_daemons_are_started_for_now_and_only_ours_are_ended(tmp_path: Path) -> None:
    services = [argument_of(need.identifier) for need in NEEDS if ".service." in need.identifier]
    with vm_host(tmp_path) as machine:
        assert "libvirt does not answer" in machine.decide(*NETWORK).before
        assert machine.probes()["vm.libvirt.connection"][0] == "failed"
        made = [machine.apply(*service) for service in services]
        assert [bool(decision.commands) for decision in made] == [True, True, False, False]
        assert all("after a restart" in machine.decide(*service).notice for service in services)
        assert not any(machine.decide(*service).commands for service in services)
        assert machine.decide(*NETWORK).before == "not defined"
        machine.undo()
        assert machine.decide(*services[1]).before == "libvirtd not running"
        assert not machine.decide(*services[0]).commands, "virtlogd is another item"
