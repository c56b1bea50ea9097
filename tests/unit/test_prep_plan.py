"""From needs to items, from messages to a report."""

from __future__ import annotations

import pytest

from backends.errors import UnsupportedContainment
from mxc_ops.prep.items import Helper, HostFacts, distribution_family, items_for, needs_of, unsupported
from mxc_ops.prep.messages import Answer, Event, Message, Request
from mxc_ops.prep.report import HostReport, HostState, ItemReport, ItemState, Report

DEBIAN = HostFacts("@local", "Debian GNU/Linux 12", "debian", "root")
LAUNCHER = {"launcher": Helper("/store/launcher", ("cc", "x.c"))}


@pytest.mark.parametrize(
    ("release", "family"),
    [
        ({"ID": "debian"}, "debian"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "debian"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "fedora"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "suse"),
        ({"ID": "nixos"}, ""),
        ({}, ""),
    ],
)
def test_the_family_comes_from_os_release(release: dict[str, str], family: str) -> None:
    assert distribution_family(release) == family


def test_every_need_becomes_one_item_and_programs_come_before_what_uses_them() -> None:
    needs = needs_of(["bubblewrap"])
    items = items_for(needs, LAUNCHER, DEBIAN)
    names = [item.identifier for item in items]
    assert names == [need.identifier for need in needs]
    assert names.index("bubblewrap.package.compiler") < names.index("bubblewrap.helper.launcher")


def test_a_need_of_two_backends_is_one_item() -> None:
    assert needs_of(["bubblewrap", "bubblewrap"]) == needs_of(["bubblewrap"])


@pytest.mark.parametrize("name", ["seatbelt", "no-such-thing"])
def test_a_containment_without_a_backend_cannot_be_prepared(name: str) -> None:
    with pytest.raises(UnsupportedContainment, match="cannot be prepared"):
        needs_of([name])


def test_an_unsupported_distribution_is_told_what_to_install_by_hand() -> None:
    trouble = unsupported(needs_of(["bubblewrap"]), HostFacts("@local", "Fedora Linux 41", "fedora", "root"))
    assert trouble is not None
    assert trouble.fix.startswith("install bubblewrap gcc")
    assert unsupported(needs_of(["bubblewrap"]), DEBIAN) is None


def test_messages_survive_the_pipe() -> None:
    message = Message(Event.FAILED, "@local", {"item": "a", "message": "no\nspace"})
    assert Message.decode(message.encode()) == message
    request = Request(["@local"], ["bubblewrap"], LAUNCHER)
    assert Request.decode(request.encode()) == request
    assert Answer.decode(Answer(["@local"]).encode()) == Answer(["@local"])


def test_a_parent_that_went_away_wants_nothing_changed() -> None:
    assert Answer.decode("") == Answer(())


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([], 0),
        ([HostState.READY, HostState.READY], 0),
        ([HostState.READY, HostState.CHANGES_PENDING], 3),
        ([HostState.CHANGES_PENDING, HostState.NEEDS_PRIVILEGE], 4),
        ([HostState.UNSUPPORTED, HostState.NEEDS_PRIVILEGE], 5),
        ([HostState.UNSUPPORTED, HostState.FAILED], 1),
        ([HostState.UNREACHABLE, HostState.READY], 1),
    ],
)
def test_the_exit_code_tells_the_worst_and_failures_first(states: list[HostState], code: int) -> None:
    hosts = {str(number): HostReport(str(number), state=state) for number, state in enumerate(states)}
    assert Report(hosts).exit_code == code


def test_a_report_is_json_safe() -> None:
    item = ItemReport("a.b", "package", "because", "missing", "installed", ItemState.CHANGED)
    shown = Report({"@local": HostReport("@local", items={"a.b": item})}).as_dict()
    assert shown["hosts"][0]["items"][0]["state"] == "changed"
    assert shown["hosts"][0]["state"] == "ready"
