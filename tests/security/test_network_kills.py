"""Whoever of a network is killed, and whenever: nothing opens by it, and nothing of it is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import User
from tests.network.bed import Bed
from tests.network.cases import to
from tests.network.flavours import FLAVOURS
from tests.network.lab import Lab, Ran
from tests.network.link import Refused
from tests.security.host import wait_until
from tests.security.network_attacks import ATTACKS, Front, Watch, front, new_token, watched, with_ctypes
from tests.vm_engine import descendants, is_gone

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
ON_EACH_KIND = pytest.mark.parametrize("flavour", [FLAVOURS[0], FLAVOURS[1], FLAVOURS[4]])
"""Of network, that is: LXC has that of bubblewrap."""
OF_USERS = pytest.mark.parametrize("flavour", [FLAVOURS[1]])
BOARD = "192.0.2.90"
AFTER_S = 8
"""Seconds in which somebody of ours has been killed, however busy the machine is."""
FORBIDDEN, FORBIDDEN6 = "192.0.2.66", "2001:db8:2::66"
NAME = "web.example.test"
EVERYTHING_OF_OURS = {
    "network": {"egress": {"allow": [to(BOARD)]}, "ingress": {"hostLoopback": "allow"}},
    "mxcOps": {
        "network": {"names": [{"name": NAME, "addresses": ["192.0.2.80/32", "2001:db8:2::/64"]}]},
        "portMappings": [{"direction": "toHost", "hostPort": 7999, "sandboxPort": 7999}],
    },
}


@pytest.fixture(scope="module", autouse=True)
def python_with_ctypes(portable_python: Path) -> None:
    with_ctypes(portable_python)


@pytest.fixture(scope="module")
def watches(bed: Bed) -> Iterator[tuple[Watch, Watch]]:
    with watched(bed) as both:
        yield both


@pytest.fixture
def own(bed: Bed, as_user: User, lab: Lab) -> Iterator[Front]:
    """Who starts the test's sandbox, and nothing else."""
    with front(bed, as_user if lab.flavour.caller == "user" else None) as made:
        yield made


def is_gate(words: Sequence[str]) -> bool:
    return words[1:2] == ["gate"]


def is_helper(words: Sequence[str]) -> bool:
    return Path(words[0]).name == "pasta"


def is_proxy(words: Sequence[str]) -> bool:
    return any("backends.egress.__main__" in word for word in words)


def of_ours(own: Front, which: Callable[[Sequence[str]], bool]) -> list[int]:
    found: list[int] = []
    for pid in descendants(own.pid):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            found += [pid] if which(words) else []
    return found


def kill(pids: Sequence[int]) -> None:
    assert pids
    for pid in pids:
        with suppress(ProcessLookupError):  # it has gone with another of them
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in pids), "something cannot be killed")


def links(bed: Bed) -> list[str]:
    return [
        line.split(":")[1].strip() for line in bed.run(["ip", "-o", "link"]).splitlines() if ": mxc" in line
    ]


def nothing_is_left(bed: Bed, pids: Sequence[int]) -> None:
    wait_until(lambda: all(is_gone(pid) for pid in pids), "something goes on")
    wait_until(lambda: not [name for name in links(bed) if not name.startswith("mxcbr0")], "a link is left")


@contextmanager
def attacking(lab: Lab, own: Front, attacks: Sequence[Mapping[str, Any]]) -> Generator[Callable[[], Ran]]:
    """A sandbox that has begun with these, under `EVERYTHING_OF_OURS`; what is yielded waits for its end."""
    key = new_token()
    inner = Lab(lab.bed, lab.flavour, own.link)
    document = lab.document(EVERYTHING_OF_OURS, source=ATTACKS)
    ending = inner.start(document, [{"kind": "note", "to": BOARD, "port": 80, "key": key}, *attacks])
    assert lab.bed.out_there.ask("heard", key=key) == "up"
    yield ending


def on_and_on(token: str) -> list[dict[str, Any]]:
    """Attempts at what is closed, for as long as it takes to kill somebody, and longer."""
    common = {"kind": "for_long", "port": 8000, "token": token, "seconds": 1.5}
    return [{**common, "to": one} for one in (FORBIDDEN, FORBIDDEN6, "203.0.113.2", "10.187.0.1")]


def after(**probe: Any) -> dict[str, Any]:
    return {"reached": False, "after": AFTER_S, "wait": 1, **probe}


ALSO_CLOSED = (
    after(kind="tcp", to=FORBIDDEN, port=80),
    after(kind="tcp", to=FORBIDDEN6, port=443),
    after(kind="dns", to="192.0.2.53", port=53, name="second.test"),
)


def check(lab: Lab, watches: tuple[Watch, Watch], token: str, ran: Ran) -> None:
    """It went on to its end, and nothing came where it must not."""
    assert ran.result["outcome"] == "exited" and ran.result["exitCode"] == 0, ran.result
    assert [told["said"] for told in ran.probes[1:5]] == ["tried"] * 4
    assert [one for watch in watches for one in watch.carrying(token)] == []
    assert [one for watch in watches for one in watch.to_or_from(FORBIDDEN, FORBIDDEN6)] == []
    assert lab.bed.on_host.ask("seen") == []
    assert "second.test" not in lab.bed.out_there.ask("asked")


@ON_EACH_KIND
def test_without_its_gate_a_sandbox_ends_and_reaches_nothing_before(
    lab: Lab, own: Front, watches: tuple[Watch, Watch]
) -> None:
    """Its user may kill it, or a host without memory; the rules are there for as long as the sandbox is."""
    token = new_token()
    with attacking(lab, own, on_and_on(token)) as ending:
        everybody = list(descendants(own.pid))[1:]
        kill(of_ours(own, is_gate))
        with pytest.raises((AssertionError, Refused)):  # what it was to say to its end is not there
            ending()
        nothing_is_left(lab.bed, everybody)
    assert [one for watch in watches for one in watch.carrying(token)] == []
    assert [one for watch in watches for one in watch.to_or_from(FORBIDDEN, FORBIDDEN6)] == []
    assert lab.bed.on_host.ask("seen") == []


@OF_USERS
def test_without_who_carries_its_packets_a_sandbox_reaches_nothing(
    lab: Lab, own: Front, watches: tuple[Watch, Watch]
) -> None:
    token = new_token()
    none = (after(kind="tcp", to=BOARD, port=8000), after(kind="udp", to=BOARD, port=8000))
    with attacking(lab, own, [*on_and_on(token), *ALSO_CLOSED, *none]) as ending:
        everybody = list(descendants(own.pid))[1:]
        kill(of_ours(own, is_helper))
        ran = ending()
    assert [told["reached"] for told in ran.probes[-2:]] == [False, False]
    check(lab, watches, token, ran)
    nothing_is_left(lab.bed, everybody)


@ON_EACH_KIND
def test_without_its_proxy_a_sandbox_reaches_nothing_by_name(
    lab: Lab, own: Front, watches: tuple[Watch, Watch]
) -> None:
    token = new_token()
    by_name = (
        {"kind": "url", "url": f"http://{NAME}/"},
        after(kind="url", url=f"http://{NAME}/"),
        after(kind="dns", to="192.0.2.53", port=53, name=NAME),
        after(kind="straight", name=NAME, to="192.0.2.80", port=80, speak="http"),
        after(kind="tcp", to="127.0.0.1", port=7999),
        {"kind": "tcp", "to": BOARD, "port": 8000, "after": AFTER_S},
    )
    with attacking(lab, own, [*on_and_on(token), *ALSO_CLOSED, *by_name]) as ending:
        everybody = list(descendants(own.pid))[1:]
        wait_until(lambda: NAME in lab.bed.out_there.ask("asked"), "the proxy does not serve")
        kill(of_ours(own, is_proxy))
        lab.bed.on_host.ask("seen")
        ran = ending()
    assert [told["reached"] for told in ran.probes[-5:]] == [False] * 4 + [True], ran.probes[-6:]
    check(lab, watches, token, ran)
    nothing_is_left(lab.bed, everybody)


@ON_EACH
def test_with_who_started_it_all_of_a_network_goes(
    lab: Lab, own: Front, watches: tuple[Watch, Watch]
) -> None:
    token = new_token()
    with attacking(lab, own, on_and_on(token)):
        everybody = list(descendants(own.pid))[1:]
        assert of_ours(own, is_gate) and of_ours(own, is_proxy)
        os.kill(own.pid, signal.SIGKILL)
        nothing_is_left(lab.bed, everybody)
    assert [one for watch in watches for one in watch.carrying(token)] == []
