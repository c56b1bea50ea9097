"""libvirt as a VM host: the needs, the programs that run on the host, and services without a service manager.

libvirt's own test driver stands for a daemon: it needs none, and keeps nothing (libvirt: drvtest.html).
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from backends.needs import BASE, NeedKind
from backends.network.needs import ADDRESS
from backends.vm.needs import NAME, NEEDS
from backends.vm.on_host import OBJECTS, TRIAL, command, source
from mxc_ops.prep.items import FAMILIES
from mxc_ops.prep.receipts import COMPLETE, Receipt
from mxc_ops.prep.rules import rule
from mxc_ops.prep.rules.services import processes
from mxc_ops.prep.shells import Change
from mxc_ops.prep.shells.sh import SHELL
from mxc_ops.prep.undoing import Verdict, judge, reversal

PYTHON = "/usr/bin/python3"
LONGEST_ARGUMENT = 131_072  # of one argument of a program (Linux: MAX_ARG_STRLEN)
NETWORK = next(need for need in NEEDS if need.kind is NeedKind.LIBVIRT_NETWORK).data
POOL = next(need for need in NEEDS if need.kind is NeedKind.LIBVIRT_POOL).data
needs_libvirt = pytest.mark.skipif(
    subprocess.run([PYTHON, "-I", "-c", "import libvirt"], capture_output=True).returncode != 0,
    reason="needs libvirt's Python module: apt-get install python3-libvirt",
)


def _xml(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


# --- the needs


def test_the_network_keeps_clear_of_that_of_containers() -> None:
    ip = _xml(NETWORK["xml"]).find("ip")
    assert ip is not None
    ours = IPv4Network(f"{ip.get('address')}/{ip.get('netmask')}", strict=False)
    assert not ours.overlaps(IPv4Interface(ADDRESS).network)
    for bound in ip.iterfind("dhcp/range"):
        assert all(IPv4Interface(bound.attrib[end]).ip in ours for end in ("start", "end"))


def test_the_definitions_say_what_the_arguments_say() -> None:
    assert _xml(NETWORK["xml"]).findtext("name") == NETWORK["network"] == NAME
    assert _xml(POOL["xml"]).findtext("name") == POOL["pool"] == NAME
    assert _xml(POOL["xml"]).findtext("target/path") == POOL["path"]
    assert _xml(POOL["xml"]).findtext("uuid") != _xml(NETWORK["xml"]).findtext("uuid")
    bridge = _xml(NETWORK["xml"]).find("bridge")
    assert bridge is not None and len(bridge.attrib["name"]) <= 15, "Linux: IFNAMSIZ"


def test_every_family_has_its_packages() -> None:
    for need in NEEDS:
        if need.kind is NeedKind.PACKAGE and need.feature == BASE:  # images are built on Debian hosts only
            assert need.packages.keys() == FAMILIES.keys()


# --- what is said of them


@pytest.mark.parametrize("there, verdict", [(True, Verdict.UNKNOWN), (False, Verdict.DRIFTED)])
def test_who_may_not_ask_libvirt_sees_no_drift_but_that_of_files(there: bool, verdict: Verdict) -> None:
    existing = [POOL["path"], "/var/lib/mxc-ops"] if there else ["/var/lib/mxc-ops"]
    seen = [{"error": "authentication unavailable: no polkit agent available"}, existing]
    pool = Receipt("vm.pool", "libvirt.pool", POOL, {"defined": False}, {"xml": POOL["xml"]}, state=COMPLETE)
    wanted = rule(pool.operation).decide(*seen, **POOL)
    told, decision = judge(pool, wanted, reversal(pool, seen))
    assert (told, decision.commands) == (verdict, ())
    assert ("is not there" in decision.before) is not there


# --- the programs that run on the host


@pytest.mark.parametrize("script", [OBJECTS, TRIAL])
def test_an_old_python_understands_it(script: str) -> None:
    tree = ast.parse(source(script), feature_version=(3, 9))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules <= {"json", "os", "sys", "xml.etree.ElementTree"}, "only the standard library"


def test_it_fits_into_one_argument_however_it_is_quoted() -> None:
    decision = rule("libvirt.pool").decide({"defined": False}, [], **POOL)
    receipt = Receipt("vm.pool", "libvirt.pool", POOL, decision.prior, decision.made)
    script = SHELL.elevated(SHELL.change(Change(receipt, decision.commands)), "sudo-password")
    assert len(f"sh -c '{script}'".encode()) < LONGEST_ARGUMENT / 2


def _look(kind: str, xml: str, uri: str) -> dict[str, Any]:
    request = {"action": "look", "kind": kind, "name": NAME, "xml": xml, "uri": uri}
    done = subprocess.run(command(OBJECTS, request), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_libvirt_that_cannot_be_asked_is_an_answer() -> None:
    assert list(_look("network", NETWORK["xml"], "nonsense:///system")) == ["error"]


def _node(*objects: str) -> str:
    """A host for the test driver that has these."""
    return f"<node>{''.join(objects)}</node>"


@needs_libvirt
def test_what_libvirt_adds_is_no_difference(tmp_path: Path) -> None:
    host = tmp_path / "host.xml"
    host.write_text(_node(NETWORK["xml"], POOL["xml"]))
    for kind, xml in (("network", NETWORK["xml"]), ("pool", POOL["xml"])):
        seen = _look(kind, xml, f"test://{host}")
        assert (seen["defined"], seen["ours"], seen["differs"]) == (True, True, [])


@needs_libvirt
@pytest.mark.parametrize(
    "ours, theirs, difference",
    [
        ('"255.255.255.0"', '"255.255.0.0"', "network ip netmask is 255.255.0.0, not 255.255.255.0"),
        ('<forward mode="nat"/>', "", "network has 0 forward, not 1"),
        (
            "<dhcp>",
            '<dhcp><range start="10.187.4.3" end="10.187.4.4"/>',
            "network ip dhcp has 2 range, not 1",
        ),
        ('name="mxcvirbr0"', 'name="virbr0"', "network bridge name is virbr0, not mxcvirbr0"),
    ],
)
def test_what_differs_from_what_we_set_is_told(
    tmp_path: Path, ours: str, theirs: str, difference: str
) -> None:
    assert ours in NETWORK["xml"]
    host = tmp_path / "host.xml"
    host.write_text(_node(NETWORK["xml"].replace(ours, theirs)))
    assert _look("network", NETWORK["xml"], f"test://{host}")["differs"] == [difference]


@needs_libvirt
def test_another_uuid_is_another_owner(tmp_path: Path) -> None:
    host = tmp_path / "host.xml"
    host.write_text(_node(NETWORK["xml"].replace("148e28cd", "248e28cd")))
    seen = _look("network", NETWORK["xml"], f"test://{host}")
    assert (seen["ours"], seen["differs"]) == (False, [])


@needs_libvirt
def test_domains_on_the_network_are_its_users(tmp_path: Path) -> None:
    host = tmp_path / "host.xml"
    domain = (
        "<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os><devices>"
        "<interface type='network'><source network='{network}'/></interface></devices></domain>"
    )
    domains = [domain.format(name="web", network=NAME), domain.format(name="other", network="default")]
    host.write_text(_node(NETWORK["xml"], *domains))
    seen = _look("network", NETWORK["xml"], f"test://{host}")
    assert (seen["users"], seen["running"]) == (["domain web"], ["domain web"])


# All in one process: the test driver's state goes with the last connection.
_IN_ONE_PROCESS = """
import json, sys, types
import libvirt
script, requests = sys.argv[1], json.loads(sys.argv[2])
kept = libvirt.open("test:///default")
module = sys.modules["script"] = types.ModuleType("script")
exec(script, vars(module))
for request in requests:
    sys.argv[1] = json.dumps({**request, "uri": "test:///default"})
    assert module.main() == 0
"""


def _in_one_process(kind: str, arguments: Mapping[str, str], *actions: dict[str, Any]) -> list[Any]:
    """What the actions print, one after the other; each must succeed."""
    requests = [{"kind": kind, "name": NAME, "xml": arguments["xml"], **action} for action in actions]
    argv = [PYTHON, "-I", "-c", _IN_ONE_PROCESS, source(OBJECTS), json.dumps(requests)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_libvirt
@pytest.mark.parametrize("kind, arguments", [("network", NETWORK), ("pool", POOL)])
def test_it_is_made_stopped_and_dropped(kind: str, arguments: Mapping[str, str]) -> None:
    look = {"action": "look"}
    have = {"action": "have"}
    restore = {"action": "restore", "active": False, "autostart": False}
    drop: dict[str, Any] = {"action": "drop", "despite": []}
    absent, made, stopped, gone, still = _in_one_process(
        kind, arguments, look, have, have, look, restore, look, drop, look, drop, look
    )
    assert absent == gone == still == {"defined": False}
    assert made["active"] and made["autostart"] and made["ours"] and not made["differs"]
    assert not stopped["active"] and not stopped["autostart"]


# --- services where nothing starts them


DAEMON = """#!/bin/sh
case "$1" in
    -d) "$0" work > /dev/null 2>&1 & ;;
    work) while :; do sleep 1; done ;;
esac
"""
SERVICE = {"service": "mxc-test-service-daemon", "manager": "none", "daemonize": "-d"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    program = tmp_path / "mxc-test-service-daemon"
    program.write_text(DAEMON)
    program.chmod(0o755)
    return tmp_path


def _sh(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-c", f"set -e; {script}"], capture_output=True, text=True, env=environment, check=False
    )


def _state(active: bool) -> dict[str, Any]:
    return {"active": active, "kept": "", "triggers": {}}


def test_without_a_service_manager_it_is_started_found_and_stopped(folder: Path) -> None:
    off, on = ({"mxc-test-service-daemon": _state(active)} for active in (False, True))
    running = rule("services.running")
    forth = running.decide(off, **SERVICE)
    back = running.reverse(on, [], prior=forth.prior, made=forth.made, **SERVICE)
    assert _sh(folder, forth.commands[0]).returncode == 0
    assert len(_sh(folder, processes("mxc-test-service-daemon")).stdout.split()) == 1
    assert _sh(folder, back.commands[0]).returncode == 0
    assert _sh(folder, processes("mxc-test-service-daemon")).stdout == ""


def test_a_program_that_ends_at_once_is_no_service(folder: Path) -> None:
    (folder / "mxc-test-service-daemon").write_text("#!/bin/sh\n")
    done = _sh(folder, rule("services.running").decide({}, **SERVICE).commands[0])
    assert done.returncode == 1
    assert done.stderr == "mxc-test-service-daemon ended at once; run it without -d to see why\n"
