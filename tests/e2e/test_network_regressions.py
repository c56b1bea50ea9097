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
from tests.network.bed import Bed
from tests.network.cases import to
from tests.network.flavours import FLAVOURS, probes_input
from tests.network.host_scripts import host_script
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
import os, re, signal, subprocess
from pathlib import Path

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

def a_change_that_is_lost(given):
    from backends.frozen import replace
    from backends.inside.store import LAUNCHER, find_program
    from backends.network import for_plans, opening
    from backends.network.policy import NetworkPolicy, Peer, Rule
    folder = Path(given["folder"])
    stub, loses, loses_once = folder / "nft", folder / "loses", folder / "loses-once"
    stub.write_text(
        f'#!/bin/sh\\n[ -e {loses} ] && exec cat >/dev/null\\nread first\\n'
        f'case $first in delete*) rm {loses_once} 2>/dev/null && exec cat >/dev/null;; esac\\n'
        f'{{ echo "$first"; cat; }} | /usr/sbin/nft "$@"\\n'
    )
    stub.chmod(0o755)
    open_to_all = NetworkPolicy(egress_allowed=True)
    plan = for_plans.plan_for(open_to_all, for_plans.observe_for(open_to_all, root=True), root=True)
    network = opening.open_network(replace(plan, nft=str(stub)), find_program(LAUNCHER))
    def rules():
        # Apart from their generation, and from the addresses that the host has by now.
        inside = f"nsenter --net=/proc/{os.getpid()}/fd/{network.namespace} nft list ruleset"
        listed = subprocess.run(inside.split(), check=True, capture_output=True, text=True).stdout
        return re.sub("0x0[0-9a-f]+", "", listed[listed.index("chain") :])
    try:
        before = rules()
        loses_once.touch()
        half = refused(lambda: network.replace(NetworkPolicy()))
        halved = rules()
        loses.touch()
        came = refused(lambda: network.replace(NetworkPolicy()))
        after = rules()
        peers = tuple(Peer(f"10.{n >> 7}.{n % 128 * 2}.0/24") for n in range(300))
        long = replace(open_to_all, deny=(Rule("egress.deny.0", "", peers),))
        longer = replace(plan, nft=str(stub), policy=long)
        lost = refused(lambda: opening.open_network(longer, find_program(LAUNCHER)))
        loses.unlink()
        network.replace(NetworkPolicy())
        return half, came, lost, halved == before, after == before, rules() == before
    finally:
        network.close()

def a_change_that_is_interrupted(given):
    # By an exception of whichever kind: while rules are loaded, while they are taken back, and while the
    # proxy is told. What is asked is what is left: which rules hold, or that nothing of the network does.
    from select import poll
    from unittest.mock import patch
    from backends.inside.store import LAUNCHER, find_program
    from backends.network import for_plans, opening, serving
    from backends.network.policy import NameRule, NetworkPolicy
    names = [NameRule(f"names.{n}", "", name) for n, name in enumerate(("public.test", "second.test"))]
    closed, wider = NetworkPolicy(names=(names[0],)), NetworkPolicy(names=tuple(names))
    plan = for_plans.plan_for(closed, for_plans.observe_for(closed, root=True), root=True)
    def left(patched, raised):
        network = opening.open_network(plan, find_program(LAUNCHER))
        ended, before = poll(), set(proxies())
        ended.register(os.dup(network.gate))
        try:
            with patch.object(*patched, side_effect=raised):
                network.replace(wider)
        except BaseException as error:
            name = type(error).__name__
            gone = bool(ended.poll(5000)) if "gate" in given["waits"] else None
            until(lambda: "proxy" not in given["waits"] or not set(proxies()))
            return bool(before), name, gone
        finally:
            network.close()
    if given["at"] == "loading":
        return left((opening, "tables"), [KeyboardInterrupt, ValueError("no answer of netlink")])
    return left((serving.Served, "_line"), KeyboardInterrupt)

def many_steps(given):
    from backends.inside.store import LAUNCHER, find_program
    from backends.network.gate import Gate
    from backends.network.steps import Enter, Setting
    gate = Gate(find_program(LAUNCHER))
    try:
        gate.enter(Enter(os.getpid()), None)
        return gate.do([(Setting("net/ipv4/ping_group_range", "0 0"), ())] * given["count"])
    finally:
        gate.close()
"""


@pytest.fixture
def own(bed: Bed, as_user: User, lab: Lab) -> Iterator[Front]:
    """Who starts the test's sandbox, and nothing else."""
    with front(bed, as_user if lab.flavour.caller == "user" else None) as made:
        yield made


def script(own: Front, function: str, given: Any = None) -> Any:
    return own.link.ask("script", source=ABOUT_CALLERS, function=function, given=given)


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


@AS_EITHER
def test_a_sandbox_does_not_outlive_its_gate(lab: Lab, own: Front) -> None:
    """Without it nobody is told what is let through, and no new address of the host's is closed."""
    with behind_door(lab, own) as end:
        kill(of_ours(own, is_gate))
        result = end()
    assert (result["outcome"], result["signal"]) == ("signalled", signal.SIGKILL)


@AS_ROOT
def test_a_change_that_fails_leaves_what_was(lab: Lab) -> None:
    came = host_script(lab, ABOUT_SESSIONS, "a_change_that_fails")
    assert came["to open"] == came["to close"] == came["to do both"] == ["proxy_lost"]
    looks = ("at first", "not opened", "not closed", "neither", "started again")
    assert [came[when] for when in looks] == [[True, False]] * len(looks)
    assert [came[f"recorded {when}"] for when in looks] == [came["recorded at first"]] * len(looks)


@AS_ROOT
def test_a_change_whose_rules_are_lost_is_none(lab: Lab, tmp_path: Path) -> None:
    """Nft says that it has loaded or woken them; the kernel has those before. Nor does anything start so."""
    came = host_script(lab, ABOUT_SESSIONS, "a_change_that_is_lost", folder=str(tmp_path))
    assert came == [["rules_not_there"], ["rules_not_there"], ["network_not_made"], True, True, False]


@AS_ROOT
def test_a_change_that_is_interrupted_and_not_taken_back_ends_the_network(lab: Lab) -> None:
    """Whoever thinks that the policy before holds must not be wrong."""
    came = host_script(lab, ABOUT_SESSIONS, "a_change_that_is_interrupted", at="loading", waits=["gate"])
    assert came == [True, "ValueError", True]


@AS_ROOT
def test_a_change_that_is_interrupted_at_the_proxy_ends_the_proxy(lab: Lab) -> None:
    """It may have the new names already, and its answer must not be taken for that to the next change."""
    came = host_script(lab, ABOUT_SESSIONS, "a_change_that_is_interrupted", at="proxy", waits=["proxy"])
    assert came == [True, "KeyboardInterrupt", None]


@AS_ROOT
def test_a_gate_is_asked_for_any_number_of_steps(lab: Lab) -> None:
    """With so many answers that nobody took it took no more steps, and the caller waited for that."""
    assert host_script(lab, ABOUT_SESSIONS, "many_steps", count=2000) == []
