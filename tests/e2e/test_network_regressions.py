"""Faults that networks once had, one test each: none of them comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mxc_ops.policy.port_mappings import MAX_MAPPINGS
from tests.conftest import User
from tests.e2e.test_network_ports import LOOPBACK, SERVING, TAKEN, dial, mapped
from tests.network import in_session
from tests.network.bed import Bed
from tests.network.cases import to
from tests.network.flavours import FLAVOURS, PROBES, probes_input
from tests.network.lab import Lab
from tests.network.link import Refused
from tests.security.host import wait_until
from tests.security.network_attacks import Front, front
from tests.security.test_network_kills import is_gate, is_proxy, kill, links, of_ours
from tests.vm_engine import is_gone

pytest_plugins = ("tests.network.fixtures",)

AS_ROOT = pytest.mark.parametrize("flavour", FLAVOURS[:1])
AS_EITHER = pytest.mark.parametrize("flavour", FLAVOURS[:2])
DOOR = ("127.0.0.1", 18200, "tcp")
BEHIND_DOOR = mapped(
    {"network": {**LOOPBACK["network"], "egress": {"allow": [to("192.0.2.7")]}}}, {"hostPort": DOOR[1]}
)
INHERITED = 50
NEW = ("192.0.2.60", "2001:db8:2::60")
FIRST_PORT, MOST_PORTS = 18300, MAX_MAPPINGS
ON_BOTH_WAYS = pytest.mark.parametrize("direction", ["toHost", "toSandbox"])

ABOUT_CALLERS = """
import os, resource, signal

def fork(given):
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.pause()
    finally:
        os._exit(0)

def leave_open(given):
    opened = os.open(given["path"], os.O_RDONLY)
    os.dup2(opened, given["number"], inheritable=True)
    os.close(opened)

def limit(given):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
"""

ABOUT_SESSIONS = """
import json, os, signal, socket, subprocess
from pathlib import Path
from mxc_ops import prepare
from mxc_ops.ends import Ends
from mxc_ops.sources import as_request

NEW = ("192.0.2.60", "2001:db8:2::60")

NEW_ONES = [{"kind": "tcp", "to": address, "port": 8000, "wait": 3} for address in NEW]

def addresses(verb):
    for address in NEW:
        options = ["nodad"] if verb == "add" and ":" in address else []
        subprocess.run(["ip", "address", verb, address, "dev", "lo", *options], check=True)

def greeting(address):
    with socket.create_connection((address, 8000), 10) as sock:
        return sock.makefile("rb").readline().decode().strip()

def an_address_more(given):
    with opened(given, default="allow") as session:
        came = {"beyond": probed(given, session, *NEW_ONES, SEVEN)}
        crowd = (f"10.66.{number >> 8}.{number & 255}/32" for number in range(given["before"]))
        lines = "".join(f"address add {address} dev lo;" for address in crowd).replace(";", chr(10))
        subprocess.run(["ip", "-b", "-"], input=lines, text=True, check=True)
        addresses("add")
        try:
            came["the host itself"] = [greeting(address) for address in NEW]
            until(lambda: not any(probed(given, session, *NEW_ONES)))
            came["the host's"] = [probed(given, session, *NEW_ONES, SEVEN) for _ in range(3)]
            came["told"] = [decided(session, "denied", address=address, port=8000) for address in NEW]
        finally:
            addresses("del")
            subprocess.run("ip address flush dev lo to 10.66.0.0/16".split(), check=True)
    return came

def an_address_before_the_launch(given):
    with prepare(as_request(json.dumps(given["document"]).encode())) as prepared:
        addresses("add")
        try:
            result = prepared.run(Ends(given["input"].encode(), None, None, None, None, None, 1 << 20))
        finally:
            addresses("del")
    return sorted((line["probe"], line["reached"]) for line in map(json.loads, result.stdout.splitlines()))

def an_address_told_again(given):
    # Beside others: as each renewal of a lease does, and a link that comes back.
    beside = [f"10.66.0.{last}" for last in (4, 5, 6)]
    for address in beside:
        subprocess.run(["ip", "address", "add", f"{address}/24", "dev", "lo"], check=True)
    try:
        with opened(given, default="allow") as session:
            for lifetime in ("1000", "2000"):
                lifetimes = f"valid_lft {lifetime} preferred_lft {lifetime}"
                subprocess.run(f"ip address change 10.66.0.5/24 dev lo {lifetimes}".split(), check=True)
                addresses("add")
                until(lambda: not any(probed(given, session, *NEW_ONES)))
                addresses("del")
            return probed(given, session, SEVEN)
    finally:
        subprocess.run("ip address flush dev lo to 10.66.0.0/16".split(), check=True)

def an_address_while_rules_are_replaced(given):
    # It is told of after the addresses were read, and before the rules are loaded.
    from unittest.mock import patch
    from backends.inside.store import LAUNCHER, find_program
    from backends.network import for_plans, opening
    from backends.network.policy import NetworkPolicy
    policy = NetworkPolicy(egress_allowed=True)
    plan = for_plans.plan_for(policy, for_plans.observe_for(policy, root=True), root=True)
    network = opening.open_network(plan, find_program(LAUNCHER))
    try:
        addresses("add")
        with patch.object(opening, "host_addresses", lambda: ()):
            network.replace(policy)
        inside = f"nsenter --net=/proc/{os.getpid()}/fd/{network.namespace} nft list table inet mxc"
        listed = subprocess.run(inside.split(), check=True, capture_output=True, text=True).stdout
        return [address in listed for address in NEW]
    finally:
        addresses("del")
        network.close()

def proxies():
    ours = os.readlink("/proc/self/ns/net")
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            there = os.readlink(entry / "ns/net") == ours
            if there and b"backends.egress" in (entry / "cmdline").read_bytes():
                yield int(entry.name)
        except OSError:
            pass

def a_change_that_fails(given):
    came = {}
    with opened(given, allow=["192.0.2.7:8000/tcp", "public.test"], may_allow=["192.0.2.8"]) as session:
        def look(when):
            came[when] = probed(given, session, SEVEN, EIGHT)
            came[f"recorded {when}"] = dict(Session.attach(session.id).document)
        until(lambda: len(list(proxies())) == 1)
        look("at first")
        [proxy] = proxies()
        os.kill(proxy, signal.SIGKILL)
        until(lambda: not list(proxies()))
        came["to open"] = refused(lambda: session.change_network(allow=["192.0.2.8:8000/tcp"]))
        look("not opened")
        came["to close"] = refused(lambda: session.change_network(deny=["192.0.2.7"]))
        look("not closed")
        both = {"allow": ["192.0.2.8:8000/tcp"], "deny": ["192.0.2.7"]}
        came["to do both"] = refused(lambda: session.change_network(**both))
        look("neither")
        session.stop()
        session.start()
        look("started again")
    return came
"""


@pytest.fixture
def own(bed: Bed, as_user: User, lab: Lab) -> Iterator[Front]:
    """Who starts the test's sandbox, and nothing else."""
    with front(bed, as_user if lab.flavour.caller == "user" else None) as made:
        yield made


def script(own: Front, function: str, given: Any = None) -> Any:
    return own.link.ask("script", source=ABOUT_CALLERS, function=function, given=given)


def host_script(lab: Lab, function: str, **more: Any) -> Any:
    given: dict[str, Any] = {
        "containment": lab.flavour.containment,
        "python_source": False,
        "command": [lab.flavour.interpreter, "-c", PROBES],
        "read_only": [],
        "env": {},
        **more,
    }
    source = Path(in_session.__file__).read_text() + ABOUT_SESSIONS
    return lab.at_host.ask("script", source=source, function=function, given=given)


@contextmanager
def behind_door(lab: Lab, own: Front) -> Generator[Callable[[], dict[str, Any]]]:
    """A sandbox that serves at `DOOR`, until what is yielded has it end; its result."""
    document = lab.document(BEHIND_DOOR)
    future = own.link.send("run", document=document, input=probes_input([{**SERVING, "wait": 15}]))
    wait_until(lambda: dial(lab.bed.on_host, *DOOR) == "sandbox hello", "nobody serves")

    def end() -> dict[str, Any]:
        dial(lab.bed.on_host, *DOOR, send="end")
        return future.result(60)

    yield end


def ours_of(own: Front) -> list[int]:
    """The gate's processes, and the proxy's."""
    gates, proxies = of_ours(own, is_gate), of_ours(own, is_proxy)
    assert gates and len(proxies) == 1
    return [*gates, *proxies]


def open_files(pid: int) -> set[str]:
    return {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


@contextmanager
def forked(own: Front) -> Generator[int]:
    """A fork of the caller that lives as long as the block."""
    fork: int = script(own, "fork")
    try:
        yield fork
        assert not is_gone(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


@AS_EITHER
def test_a_fork_of_the_caller_does_not_keep_the_gate_and_the_proxy(lab: Lab, own: Front) -> None:
    """It has copies of the control sockets, whose end they waited for."""
    with behind_door(lab, own) as end:
        ours = ours_of(own)
        with forked(own):
            assert end()["exitCode"] == 0
            wait_until(lambda: all(is_gone(pid) for pid in ours), "the gate or the proxy goes on")


@AS_ROOT
def test_a_fork_of_the_caller_keeps_nothing_of_a_network(lab: Lab, own: Front) -> None:
    """It has copies of all descriptors: of the namespace, and of what listens on the host."""
    before = set(links(lab.bed))
    with behind_door(lab, own) as end:
        namespaces = {str(Path(f"/proc/{pid}/ns/net").readlink()) for pid in of_ours(own, is_gate)}
        assert set(links(lab.bed)) > before
        with forked(own) as fork:
            assert end()["exitCode"] == 0
            assert open_files(fork) & namespaces == set()
            wait_until(lambda: set(links(lab.bed)) <= before, "its link is left")
            with behind_door(lab, own) as end_of_next:
                assert end_of_next()["exitCode"] == 0


@AS_ROOT
def test_what_the_caller_left_open_is_open_in_none_of_our_processes(
    lab: Lab, own: Front, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("nobody's business")
    script(own, "leave_open", {"path": str(secret), "number": INHERITED})
    assert Path(f"/proc/{own.pid}/fd/{INHERITED}").readlink() == secret
    with behind_door(lab, own) as end:
        ours = ours_of(own)
        assert [pid for pid in ours if str(secret) in open_files(pid)] == []
        assert end()["exitCode"] == 0


def with_ports(lab: Lab, direction: str, count: int) -> dict[str, Any]:
    """A document with so many mappings of one direction, from `FIRST_PORT` on."""
    ports = range(FIRST_PORT, FIRST_PORT + count)
    if direction == "toSandbox":
        return lab.document(mapped(LOOPBACK, *({"hostPort": port} for port in ports)))
    same = {"direction": direction, "hostPort": TAKEN}
    return lab.document(mapped(LOOPBACK, *({**same, "sandboxPort": port} for port in ports)))


def refusal(lab: Lab, own: Front, direction: str, count: int) -> tuple[str, dict[str, Any]]:
    """The error's class, and its one problem."""
    asked = own.link.send("run", document=with_ports(lab, direction, count), input=probes_input([]))
    with pytest.raises(Refused) as refused:
        asked.result(60)
    [problem] = refused.value.told["problems"]
    return refused.value.told["kind"], problem


@ON_BOTH_WAYS
@AS_EITHER
def test_as_many_ports_as_may_be_work_in_a_caller_of_few_descriptors(
    lab: Lab, own: Front, direction: str
) -> None:
    """An answer for whose descriptor there was no room was waited for without an end."""
    script(own, "limit", 256)
    inner = Lab(lab.bed, lab.flavour, own.link)
    document = with_ports(lab, direction, MOST_PORTS)
    ports = (FIRST_PORT, FIRST_PORT + MOST_PORTS // 2, FIRST_PORT + MOST_PORTS - 1)
    if direction == "toHost":
        ran = inner.run(document, [{"kind": "tcp", "to": "127.0.0.1", "port": port} for port in ports])
        assert [told["said"] for told in ran.probes] == [f"tcp 127.0.0.1 {TAKEN}"] * len(ports)
        return
    ending = inner.start(document, [SERVING])
    for port in ports:
        door = ("127.0.0.1", port)
        wait_until(lambda door=door: dial(lab.bed.on_host, *door) == "sandbox hello", f"nobody at {door}")
    dial(lab.bed.on_host, "127.0.0.1", FIRST_PORT, send="end")
    assert ending().probes[0]["reached"]


@ON_BOTH_WAYS
@AS_EITHER
def test_more_descriptors_than_the_caller_may_have_are_a_refusal(
    lab: Lab, own: Front, direction: str
) -> None:
    script(own, "limit", MOST_PORTS)
    kind, problem = refusal(lab, own, direction, MOST_PORTS)
    assert (kind, problem["code"]) == ("LaunchFailed", "network_not_made")
    assert "too many open files" in problem["message"].lower()
    wait_until(lambda: not of_ours(own, is_gate) and not of_ours(own, is_proxy), "something of it goes on")


@ON_BOTH_WAYS
@AS_EITHER
def test_a_hundred_ports_are_refused_before_anything_starts(lab: Lab, own: Front, direction: str) -> None:
    script(own, "limit", 256)
    kind, problem = refusal(lab, own, direction, 100)
    assert (kind, problem["code"]) == ("ConfigError", "out_of_range")
    assert problem["path"] == "/mxcOps/portMappings"


@pytest.mark.parametrize("before", [0, 2000], ids=["alone", "after-more-than-netlink-has-room-for"])
@AS_ROOT
def test_an_address_that_the_host_gets_later_is_closed(lab: Lab, before: int) -> None:
    came = host_script(lab, "an_address_more", before=before)
    assert came["beyond"] == [True, True, True]
    assert came["the host itself"] == [f"tcp {address} 8000" for address in NEW]
    assert came["the host's"] == [[False, False, True]] * 3
    assert came["told"] == [True, True]


@AS_ROOT
def test_an_address_that_the_host_gets_between_plan_and_launch_is_closed(lab: Lab) -> None:
    """The plan has the host's addresses of its time, and only later ones were told of."""
    probes = [{"kind": "tcp", "to": to, "port": 8000, "wait": 3} for to in (*NEW, "192.0.2.7")]
    document = lab.document({"network": {"egress": {"default": "allow"}}})
    given = {"document": document, "input": probes_input(probes)}
    came = host_script(lab, "an_address_before_the_launch", **given)
    assert came == [[0, False], [1, False], [2, True]]
    assert lab.bed.on_host.ask("seen") == []


@AS_ROOT
def test_an_address_that_the_host_is_told_of_again_harms_no_sandbox(lab: Lab) -> None:
    """Nft took no part of a range for an element, and the gate ended its sandbox over it."""
    assert host_script(lab, "an_address_told_again") == [True]


@AS_ROOT
def test_an_address_that_the_host_gets_while_rules_are_replaced_is_closed(lab: Lab) -> None:
    assert host_script(lab, "an_address_while_rules_are_replaced") == [True, True]


@AS_EITHER
def test_a_sandbox_does_not_outlive_its_gate(lab: Lab, own: Front) -> None:
    """Without it nobody is told what is let through, and no new address of the host's is closed."""
    with behind_door(lab, own) as end:
        kill(of_ours(own, is_gate))
        result = end()
    assert (result["outcome"], result["signal"]) == ("signalled", signal.SIGKILL)


@AS_ROOT
def test_a_change_that_fails_leaves_what_was(lab: Lab) -> None:
    came = host_script(lab, "a_change_that_fails")
    assert came["to open"] == came["to close"] == came["to do both"] == ["proxy_lost"]
    looks = ("at first", "not opened", "not closed", "neither", "started again")
    assert [came[when] for when in looks] == [[True, False]] * len(looks)
    assert [came[f"recorded {when}"] for when in looks] == [came["recorded at first"]] * len(looks)
