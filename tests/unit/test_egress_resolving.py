"""Look-ups: whom they ask, how often, and how long an answer lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.egress.bounds import LOOKUPS, NAMES_KEPT
from backends.egress.host_names import HostsFile, Nameservers, parse_hosts, parse_nameservers
from backends.egress.resolving import Found, Resolver

NOWHERE = HostsFile("/nonexistent")


class Source:
    """Answers look-ups, and counts them."""

    def __init__(self, answer: Callable[[str], Found]) -> None:
        self.asked: list[str] = []
        self.now = 1000.0
        self.busy = self.busiest = 0
        self._answer = answer

    async def ask(self, name: str) -> Found:
        self.asked.append(name)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await asyncio.sleep(0.001)
        self.busy -= 1
        return self._answer(name)

    def resolver(self, hosts: HostsFile = NOWHERE) -> Resolver:
        return Resolver(hosts, self.ask, lambda: self.now)


@pytest.mark.parametrize(
    ("found", "lasts_s"),
    [
        (Found(("192.0.2.1",), 30), 30),
        (Found(("192.0.2.1",), 86_400), 60),
        (Found(("192.0.2.1",), 0), 1),
        (Found(failure="name_not_found"), 2),
        (Found(failure="lookup_failed"), 2),
    ],
)
def test_an_answer_lasts_as_long_as_it_says_within_bounds(found: Found, lasts_s: int) -> None:
    async def scene() -> None:
        source = Source(lambda _: found)
        resolver = source.resolver()
        first = await resolver.lookup("a.test")
        assert (first.addresses, first.failure) == (found.addresses, found.failure)
        source.now += lasts_s - 0.5
        await resolver.lookup("a.test")
        assert len(source.asked) == 1
        source.now += 1
        await resolver.lookup("a.test")
        assert len(source.asked) == 2

    asyncio.run(scene())


def test_who_waits_for_the_same_name_waits_for_one_look_up() -> None:
    async def scene() -> None:
        source = Source(lambda _: Found(("192.0.2.1",), 60))
        resolver = source.resolver()
        waiting = [asyncio.create_task(resolver.lookup("a.test")) for _ in range(20)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        found = await asyncio.gather(*waiting[1:])
        assert {each.addresses for each in found} == {("192.0.2.1",)}
        assert source.asked == ["a.test"]

    asyncio.run(scene())


def test_look_ups_and_memory_are_bounded() -> None:
    async def scene() -> None:
        source = Source(lambda _: Found(("192.0.2.1",), 60))
        resolver = source.resolver()
        names = [f"n{number}.test" for number in range(NAMES_KEPT + 10)]
        await asyncio.gather(*[resolver.lookup(name) for name in names])
        assert source.busiest == LOOKUPS
        source.asked.clear()
        for name in reversed(names):
            await resolver.lookup(name)
        assert 0 < len(source.asked) <= 20

    asyncio.run(scene())


def test_the_hosts_file_comes_first_and_is_read_again_when_it_changes(tmp_path: Path) -> None:
    async def scene() -> None:
        path = tmp_path / "hosts"
        path.write_text("192.0.2.7 a.test # b.test\n")
        source = Source(lambda _: Found(("192.0.2.1",), 60))
        resolver = source.resolver(HostsFile(str(path)))
        assert (await resolver.lookup("a.test")).addresses == ("192.0.2.7",)
        assert (await resolver.lookup("b.test")).addresses == ("192.0.2.1",)
        path.write_text("192.0.2.88 a.test\n")
        assert (await resolver.lookup("a.test")).addresses == ("192.0.2.88",)
        path.unlink()
        path.mkdir()  # nothing that can be read: its lines are not forgotten
        assert (await resolver.lookup("a.test")).addresses == ("192.0.2.88",)
        path.rmdir()
        assert (await resolver.lookup("a.test")).addresses == ("192.0.2.1",)

    asyncio.run(scene())


def test_lines_of_the_hosts_file() -> None:
    text = "\n# x\n127.0.0.1 localhost\n::1\tlocalhost ip6-localhost\nbad a.test\n"
    text += "10.0.0.1 A.Test. a.test _x\n10.0.0.2"
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1", "::1"),
        "ip6-localhost": ("::1",),
        "a.test": ("10.0.0.1",),
        "_x": ("10.0.0.1",),
    }


def test_lines_of_resolv_conf() -> None:
    text = "# nameserver 192.0.2.9\nsearch test\nnameserver 192.0.2.1\n"
    text += "nameserver x\nnameserver\nnameserver ::1\n"
    assert parse_nameservers(text) == ("192.0.2.1", "::1")
    assert parse_nameservers("") == ("127.0.0.1",)


def test_given_nameservers_are_the_ones(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    assert Nameservers((), str(path)).addresses() == ("192.0.2.1",)
    assert Nameservers(("192.0.2.2",), str(path)).addresses() == ("192.0.2.2",)
