"""Mapped ports, on every backend: what is named is reached through the boundary, and no other port is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.commands import wait_until
from tests.network.cases import to
from tests.network.flavours import FLAVOURS
from tests.network.lab import Lab, Ran
from tests.network.link import Link, Refused

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
LAN, LAN6 = "203.0.113.2", "2001:db8:113::2"
LOOPBACK = {"network": {"ingress": {"hostLoopback": "allow"}}}
SERVING = {"kind": "serve", "to": "0.0.0.0", "protocol": "tcp", "port": 5555}
TAKEN = 8000
"""By a server of the bed's host."""


def mapped(base: Mapping[str, Any], *mappings: Mapping[str, Any]) -> dict[str, Any]:
    entries = [{"direction": "toSandbox", "sandboxPort": 5555, **mapping} for mapping in mappings]
    return {**base, "mxcOps": {"portMappings": entries}}


def dial(link: Link, address: str, port: int, protocol: str = "tcp", send: str = "hello") -> str | None:
    answer: str | None = link.ask("dial", protocol=protocol, address=address, port=port, send=send)
    return answer


@contextmanager
def serving(
    lab: Lab, sections: Mapping[str, Any], doors: Sequence[tuple[str, int, str]], *servers: Mapping[str, Any]
) -> Generator[Callable[[], Ran]]:
    """A sandbox whose servers are up, each behind one of the doors of the host: address, port, protocol."""
    ending = lab.start(lab.document(sections), servers)
    host = lab.bed.on_host
    for door in doors:
        wait_until(lambda door=door: dial(host, *door, send="up?"), f"nobody answers at {door}")
    yield ending
    for door in doors:
        dial(host, *door, send="end")


@ON_EACH
def test_the_hosts_loopback_leads_to_the_named_ports_of_the_sandbox(lab: Lab) -> None:
    host, beyond = lab.bed.on_host, lab.bed.out_there
    sections = mapped(
        LOOPBACK,
        {"hostPort": 18080},
        {"hostPort": 18080, "protocol": "udp"},
        {"hostPort": 18081, "hostAddress": "::1", "sandboxPort": 5556},
    )
    servers = (
        SERVING,
        SERVING | {"protocol": "udp"},
        SERVING | {"to": "::", "port": 5556},
        SERVING | {"port": 5557},
    )
    doors = [("127.0.0.1", 18080, "tcp"), ("127.0.0.1", 18080, "udp"), ("::1", 18081, "tcp")]
    with serving(lab, sections, doors, *servers[:3]) as ending:
        assert [dial(host, *door) for door in doors] == ["sandbox hello"] * 3
        closed = [
            *((host, address, port) for address in ("127.0.0.1", LAN) for port in (5555, 5556, 5557)),
            *((link, LAN, port) for link in (host, beyond) for port in (18080, 18081)),
            *(
                (host, "127.0.0.2", 18080),
                (host, "127.0.0.1", 18081),
                (host, "::1", 18080),
                (host, LAN6, 18081),
            ),
        ]
        assert [one[1:] for one in closed if dial(*one) is not None] == []
        assert dial(beyond, LAN, 18080, "udp") is None
    ran = ending()
    assert [told["reached"] for told in ran.probes] == [True] * 3
    assert all('"hello"' in told["said"] for told in ran.probes)


@ON_EACH
def test_another_address_of_the_host_is_open_to_others_where_it_is_named(lab: Lab) -> None:
    host, beyond = lab.bed.on_host, lab.bed.out_there
    sections = mapped(
        {"network": {"ingress": {"default": "allow"}}},
        {"hostPort": 18090, "hostAddress": LAN},
        {"hostPort": 18090, "hostAddress": LAN, "protocol": "udp"},
        {"hostPort": 18091, "hostAddress": LAN6, "sandboxPort": 5556},
    )
    doors = [(LAN, 18090, "tcp"), (LAN, 18090, "udp"), (LAN6, 18091, "tcp")]
    servers = (SERVING, SERVING | {"protocol": "udp"}, SERVING | {"to": "::", "port": 5556})
    with serving(lab, sections, doors, *servers) as ending:
        assert [dial(beyond, *door) for door in doors] == ["sandbox hello"] * 3
        closed = [(host, "127.0.0.1", 18090), (host, "::1", 18091), (beyond, LAN, 5555), (beyond, LAN, 18091)]
        assert [one[1:] for one in closed if dial(*one) is not None] == []
    assert [told["reached"] for told in ending().probes] == [True] * 3


@ON_EACH
def test_the_sandbox_is_given_the_named_ports_of_the_hosts_loopback(lab: Lab) -> None:
    near = lab.flavour.near
    to_host = {"direction": "toHost", "hostPort": TAKEN, "sandboxPort": 5432}
    sections = mapped(
        LOOPBACK, to_host, to_host | {"protocol": "udp"}, to_host | {"hostPort": 8001, "sandboxPort": 8001}
    )
    allowed = [
        {"kind": "tcp", "to": near, "port": 5432},
        {"kind": "udp", "to": near, "port": 5432, "count": 3},
        {"kind": "tcp", "to": near, "port": 8001},
    ]
    denied = [
        *({"kind": "tcp", "to": near, "port": port} for port in (TAKEN, 22, 80, 8005, 9999)),
        *({"kind": "udp", "to": near, "port": port} for port in (TAKEN, 8001, 123)),
        *({"kind": "tcp", "to": address, "port": 8001} for address in (LAN, "10.187.0.1", "192.0.2.7")),
        *({"kind": "tcp", "to": address, "port": TAKEN} for address in (LAN6, "::1", "2001:db8:2::7")),
    ]
    ran = lab.run(lab.document(sections), [*allowed, *({**probe, "reached": False} for probe in denied)])
    assert [told["reached"] for told in ran.probes] == [True] * 3 + [False] * len(denied), ran.probes
    assert [told["said"] for told in ran.probes[:3]] == [
        f"tcp 127.0.0.1 {TAKEN}",
        "udp x",
        "tcp 127.0.0.1 8001",
    ]
    came = {tuple(one) for one in lab.bed.on_host.ask("seen")}
    assert came == {("tcp", "127.0.0.1", TAKEN), ("udp", "127.0.0.1", TAKEN), ("tcp", "127.0.0.1", 8001)}
    assert lab.bed.out_there.ask("seen") == []


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@ON_EACH
def test_a_port_that_is_taken_keeps_it_from_being_started(lab: Lab, protocol: str) -> None:
    network = {**LOOPBACK["network"], "egress": {"allow": [to("192.0.2.7")]}}
    sections = mapped({"network": network}, {"hostPort": 18100}, {"hostPort": TAKEN, "protocol": protocol})
    calling = [{"kind": "tcp", "to": "192.0.2.7", "port": 8000}]
    with pytest.raises(Refused) as refused:
        lab.run(lab.document(sections), calling)
    [problem] = refused.value.told["problems"]
    assert (refused.value.told["kind"], problem["code"]) == ("LaunchFailed", "port_not_free")
    assert problem["path"] == "/mxcOps/portMappings/1"
    assert f"127.0.0.1 port {TAKEN}" in problem["message"]
    assert lab.bed.out_there.ask("seen") == []
    free = mapped({"network": network}, {"hostPort": 18100})
    assert [told["reached"] for told in lab.run(lab.document(free), calling).probes] == [True]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@ON_EACH
def test_a_port_is_one_sandboxs_alone(lab: Lab, protocol: str) -> None:
    door = ("127.0.0.1", 18110, protocol)
    sections = mapped(LOOPBACK, {"hostPort": 18110, "protocol": protocol})
    with serving(lab, sections, [door], SERVING | {"protocol": protocol}) as ending:
        with pytest.raises(Refused) as refused:
            lab.run(lab.document(sections), [{"kind": "own", "to": "127.0.0.1"}])
        assert [problem["code"] for problem in refused.value.told["problems"]] == ["port_not_free"]
        assert dial(lab.bed.on_host, *door) == "sandbox hello"
    assert ending().probes[0]["reached"]


@ON_EACH
def test_the_older_form_opens_the_ports_that_are_named(lab: Lab) -> None:
    older = {"version": "0.6.0-alpha", "network": {"defaultPolicy": "block", "allowLocalNetwork": True}}
    door = ("127.0.0.1", 18120, "tcp")
    with serving(lab, mapped(older, {"hostPort": 18120}), [door], SERVING) as ending:
        assert dial(lab.bed.on_host, *door) == "sandbox hello"
        assert dial(lab.bed.on_host, "127.0.0.1", 5555) is None
        assert dial(lab.bed.out_there, LAN, 18120) is None
    assert ending().probes[0]["reached"]
