"""Who else is there: a sandbox with a network finds no process, descriptor or socket that is not its own."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.network.bed import Bed
from tests.network.cases import to
from tests.network.flavours import FLAVOURS
from tests.network.lab import Lab
from tests.security.network_attacks import ATTACKS, StandIn, new_token, stand_in, with_ctypes

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
SHARING_KERNEL = pytest.mark.parametrize("flavour", FLAVOURS[:4])
BOARD, NAME = "192.0.2.90", "web.example.test"
LAB = ["192.0.2.0/24", "2001:db8:2::/64"]
ALL_ALLOWED = {"network": {"egress": {"default": "allow"}}}


def everything_of_ours(port: int) -> dict[str, Any]:
    """All that a network can be made of, so that there is all of it to be found. `port`: the host's."""
    return {
        "network": {"egress": {"allow": [to(BOARD)]}, "ingress": {"hostLoopback": "allow"}},
        "mxcOps": {
            "network": {"names": [{"name": NAME, "addresses": LAB}]},
            "portMappings": [
                {"direction": "toHost", "hostPort": 7999, "sandboxPort": 7999},
                {"direction": "toSandbox", "hostPort": port, "sandboxPort": 5555},
                {"direction": "toSandbox", "protocol": "udp", "hostPort": port, "sandboxPort": 5555},
            ],
        },
    }


@pytest.fixture(scope="module", autouse=True)
def python_with_ctypes(portable_python: Path) -> None:
    with_ctypes(portable_python)


@pytest.fixture(scope="module")
def bare(bed: Bed) -> Iterator[StandIn]:
    with stand_in(bed) as made:
        yield made


def caller_of(lab: Lab) -> int:
    """The process that starts the sandbox, as everybody else beside it is called: its number on the host."""
    return lab.at_host.ask("script", source=_WHO, function="main", given=None)


_WHO = "import os\ndef main(given):\n    return os.getpid()\n"


def looking(lab: Lab) -> list[dict[str, Any]]:
    caller = caller_of(lab)
    kinds = [{"kind": kind, "pid": caller} for kind in ("strangers", "reach", "trace", "enter_network")]
    return [{**one, "reached": False} for one in kinds]


@SHARING_KERNEL
def test_of_whom_a_network_is_made_is_out_of_reach(lab: Lab, bare: StandIn) -> None:
    """The same user's, and root's: seen, asked by a signal, traced, or followed into its namespaces."""
    attacks = looking(lab)
    with subprocess.Popen(["launcher gate", "300"], executable="/bin/sleep") as like_a_gate:
        try:
            assert [told["reached"] for told in bare.run(attacks)] == [True] * len(attacks)
            ran = lab.run(lab.document(everything_of_ours(17001), source=ATTACKS), attacks)
        finally:
            like_a_gate.kill()
    assert [told["said"] for told in ran.probes if told["reached"]] == []


@SHARING_KERNEL
def test_a_workload_is_handed_no_descriptor(lab: Lab) -> None:
    """No listener, control socket or namespace; nor does any other process of the sandbox show one."""
    probes = [
        {"kind": "descriptors", "reached": False},
        {"kind": "others_descriptors", "reached": False, "after": 1},
    ]
    ran = lab.run(lab.document(everything_of_ours(17002), source=ATTACKS), probes)
    assert [told["said"] for told in ran.probes if told["reached"]] == []


@SHARING_KERNEL
def test_sockets_without_a_path_are_each_sandboxs_own(lab: Lab) -> None:
    """Of the host, on which the bed's lies, of the bed's host, and of another sandbox."""
    name = new_token()
    served, inner = f"{name}-outer", f"{name}-inner"
    lab.at_host.ask("script", source=_SERVE, function="main", given=f"{name}-bed")
    with socket.socket(socket.AF_UNIX) as outer:
        outer.bind(f"\0{served}")
        outer.listen()
        document = lab.document({"network": {"egress": {"allow": [to(BOARD)]}}}, source=ATTACKS)
        ending = lab.start(
            document, [{"kind": "serve_abstract", "name": inner, "board": BOARD, "key": inner}]
        )
        assert lab.bed.out_there.ask("heard", key=inner) == "up"
        probes = [
            {"kind": "abstract", "name": one, "reached": False} for one in (served, f"{name}-bed", inner)
        ]
        ran = lab.run(document, probes)
        lab.bed.out_there.ask("tell", key=f"{inner}-end", value="end")
        assert ending().probes[0]["said"] == "itself: connected"
    assert [told["said"] for told in ran.probes] == [
        "ConnectionRefusedError: [Errno 111] Connection refused"
    ] * 3


_SERVE = """
import socket
held = []
def main(name):
    held.append(socket.socket(socket.AF_UNIX))
    held[0].bind("\\0" + name)
    held[0].listen()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect("\\0" + name)
"""


@ON_EACH
def test_another_sandboxs_proxy_and_listeners_are_out_of_reach(lab: Lab) -> None:
    bed, key = lab.bed, new_token()
    bed.forget_neighbours()
    serving = {"kind": "serve", "to": "0.0.0.0", "port": 5555, "protocol": "tcp", "key": key, "board": BOARD}
    ending = lab.start(lab.document(everything_of_ours(17003), source=ATTACKS), [serving])
    assert bed.out_there.ask("heard", key=key) == "up"
    addresses = [*bed.neighbours(), "192.0.0.1", "192.0.0.2", "fdb5:6d78:63::1", "127.0.0.1", "203.0.113.2"]
    attacks = [
        *(
            {"kind": "tcp", "to": one, "port": port}
            for one in addresses
            for port in (61080, 61081, 5555, 17003)
        ),
        *({"kind": "dns", "to": one, "port": 53, "name": NAME} for one in addresses),
    ]
    other = lab.run(lab.document(ALL_ALLOWED, source=ATTACKS), [{**one, "reached": False} for one in attacks])
    bed.out_there.ask("tell", key=f"{key}-end", value="end")
    assert ending().probes[0]["said"] == "[]"
    beyond = (
        "192.0.0.1",
        "192.0.0.2",
    )  # of the bed, where every address answers; nobody listens at these ports
    reached = [
        (one, told["said"])
        for one, told in zip(attacks, other.probes, strict=True)
        if told["reached"] and not (one["kind"] == "dns" and one["to"] in beyond)
    ]
    assert reached == []
