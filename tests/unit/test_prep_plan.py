"""From needs to items, from messages to a report, from receipts to an order. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends import registry
from backends.errors import PrepFailed, UnsupportedContainment, UsageError
from backends.inside.store import AGENT, source_key
from backends.needs import FEATURES
from mxc_ops.prep.absorbing import absorb
from mxc_ops.prep.choices import Choices, choices_from
from mxc_ops.prep.decision import Decision
from mxc_ops.prep.items import (
    HostFacts,
    distribution_family,
    items_for,
    named,
    needs_of,
    unsupported,
)
from mxc_ops.prep.messages import Answer, Event, Message, Request, Task
from mxc_ops.prep.receipts import PENDING, Receipt, Unreadable, decode
from mxc_ops.prep.report import HostReport, HostState, ItemReport, ItemState, Report
from mxc_ops.prep.undoing import Verdict, judge, preparing, undo_order

DEBIAN = HostFacts("@local", "Debian GNU/Linux 12", "debian", "root")
BUBBLEWRAP = Choices(("bubblewrap",))


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
    needs = needs_of(BUBBLEWRAP)
    names = [item.identifier for item in items_for(needs, DEBIAN, BUBBLEWRAP)]
    assert names == [need.identifier for need in needs]
    assert names.index("bubblewrap.package.compiler") < names.index("bubblewrap.helper.launcher")


def test_a_need_of_two_backends_is_one_item() -> None:
    assert needs_of(Choices(("bubblewrap", "bubblewrap"))) == needs_of(BUBBLEWRAP)


def test_a_host_that_is_brought_a_launcher_gets_no_compiler() -> None:
    names = [need.identifier for need in needs_of(replace(BUBBLEWRAP, launcher="push"))]
    assert "bubblewrap.package.compiler" not in names
    assert "bubblewrap.helper.launcher" in names


@pytest.mark.parametrize("family", ["debian", "fedora", "alpine", "arch", "suse"])
@pytest.mark.parametrize("backend", ["bubblewrap", "lxc", "microvm", "vm", "hyperlight"])
def test_every_family_has_its_packages(family: str, backend: str) -> None:
    choices = Choices((backend,))
    facts = replace(DEBIAN, family=family)
    items = items_for(needs_of(choices), facts, choices)
    assert unsupported(needs_of(choices), facts) is None
    packages = [item for item in items if item.operation == "packages.installed"]
    assert packages
    assert all(item.arguments["family"] == family and item.arguments["packages"] for item in packages)


def test_a_containment_without_needs_cannot_be_prepared() -> None:
    with pytest.raises(UnsupportedContainment, match="cannot be prepared"):
        needs_of(Choices(("seatbelt",)))


def test_a_containment_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'no-such-thing'"):
        needs_of(Choices(("no-such-thing",)))


def test_a_feature_that_no_backend_knows_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'netwrok'"):
        needs_of(Choices(("bubblewrap",), ("netwrok",)))


def names_of(backend: str, *features: str) -> set[str]:
    return {need.identifier for need in needs_of(Choices((backend,), features, launcher="push"))}


def test_runs_in_vm_need_what_those_in_microvm_do_and_libvirt_is_a_feature_of_it() -> None:
    def renamed(*features: str) -> set[str]:
        return {name.replace("microvm.", "vm.", 1) for name in names_of("microvm", *features)}

    assert names_of("vm") == renamed()
    assert names_of("vm", "build") == renamed("build")
    assert names_of("vm", "image") - names_of("vm") == {"vm.image.base"}
    assert names_of("vm", "libvirt") - names_of("vm") == {
        "vm.package.libvirt",
        *(f"vm.service.{name}" for name in ("log", "qemu", "network", "storage")),
        "vm.sysctl.ip-forward",
        "vm.network",
        "vm.pool",
    }
    assert names_of("microvm", "libvirt") == names_of("microvm")


def test_what_confines_qemu_is_what_bubblewrap_needs() -> None:
    confined = {name.removeprefix("vm.confinement.") for name in names_of("vm") if ".confinement." in name}
    assert confined == {name.removeprefix("bubblewrap.") for name in names_of("bubblewrap")}


@pytest.mark.parametrize("backend", ["bubblewrap", "lxc"])
def test_sessions_need_the_agent_and_those_of_machines_have_it_in_their_images(backend: str) -> None:
    assert names_of(backend, "sessions") - names_of(backend) == {f"{backend}.helper.agent"}
    assert names_of("vm", "sessions") == names_of("vm")


def test_the_agent_is_built_from_its_own_sources() -> None:
    choices = replace(BUBBLEWRAP, features=("sessions",))
    items = {item.identifier: item for item in items_for(needs_of(choices), DEBIAN, choices)}
    agent, launcher = (items[f"bubblewrap.helper.{name}"].arguments for name in ("agent", "launcher"))
    assert (agent["program"], agent["key"]) == ("agent", source_key(AGENT, "x86_64"))
    assert agent["store"] == launcher["store"]
    names = list(items)
    assert names.index("bubblewrap.package.compiler") < names.index("bubblewrap.helper.agent")


def test_single_items_are_named_by_patterns() -> None:
    items = items_for(needs_of(BUBBLEWRAP), DEBIAN, BUBBLEWRAP)
    chosen = [item.identifier for item in named(items, ["bubblewrap.package.*"])]
    assert chosen == ["bubblewrap.package.bwrap", "bubblewrap.package.compiler"]
    assert named(items, ["bubblewrap.none"]) == ()


def test_an_unsupported_distribution_is_told_what_to_install_by_hand() -> None:
    nixos = replace(DEBIAN, distribution="NixOS", family="")
    trouble = unsupported(needs_of(BUBBLEWRAP), nixos)
    assert trouble is not None
    assert trouble.code == "unsupported_distribution"
    assert unsupported(needs_of(BUBBLEWRAP), DEBIAN) is None


def test_what_exists_on_windows_only_is_refused_elsewhere_with_its_place() -> None:
    trouble = unsupported(needs_of(Choices(("windows_sandbox",))), DEBIAN)
    assert trouble is not None
    assert "windows" in trouble.message


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"backends": "bubblewrap"}, "mxc_backends"),
        ({"launcher": "download"}, "mxc_launcher"),
        ({"images": {"base": {"source": "relative.tar", "sha256": "0" * 64}}}, "mxc_images"),
        ({"images": {"base": {"source": "/a.tar", "sha256": "short"}}}, "mxc_images"),
        ({"bridges": {"mxcbr0": "everywhere"}}, "mxc_bridges"),
        ({"users": ["ann;id"]}, "mxc_users"),
        ({"backends": ["bubblewrap", "bublewrap"]}, "mxc_backends"),
        ({"features": ["netwrok"]}, "mxc_features"),
        ({"images": {"bsae": {"source": "/a.tar", "sha256": "0" * 64}}}, "mxc_images"),
        ({"bridges": {"mxcbr1": "10.99.0.1/22"}}, "mxc_bridges"),
        ({"bridges": {"mxcbr0": "10.999.0.1/22"}}, "mxc_bridges.mxcbr0"),
        ({"bridges": {"mxcbr0": "10.99.0.1/33"}}, "mxc_bridges.mxcbr0"),
        ({"bridges": {"mxcbr0": "10.99.0.0/22"}}, "mxc_bridges.mxcbr0"),
        ({"bridges": {"mxcbr0": "10.99.0.1/32"}}, "mxc_bridges.mxcbr0"),
        ({"backend": ["lxc"]}, "mxc_backend"),
    ],
)
def test_data_of_an_inventory_that_cannot_be_meant_are_named(data: dict[str, Any], key: str) -> None:
    with pytest.raises(PrepFailed) as raised:
        choices_from(data)
    assert raised.value.path.startswith(key)


@pytest.mark.parametrize(
    ("key", "hint"),
    [("backend", "did you mean mxc_backends?"), ("image", "did you mean mxc_images?"), ("x", "mxc_launcher")],
)
def test_a_key_of_an_inventory_that_nobody_reads_is_refused_with_what_may_be_meant(
    key: str, hint: str
) -> None:
    with pytest.raises(PrepFailed) as raised:
        choices_from({key: []})
    assert raised.value.path == f"mxc_{key}"
    assert hint in str(raised.value)


def test_each_user_named_gets_subordinate_ids_of_their_own() -> None:
    choices = choices_from({"backends": ["bubblewrap"], "features": ["rootless"], "users": ["ann", "bob"]})
    items = {item.identifier: item.arguments for item in items_for(needs_of(choices), DEBIAN, choices)}
    assert items["bubblewrap.ids.users.ann"] == {"user": "ann", "count": 65_536}
    assert items["bubblewrap.ids.users.bob"] == {"user": "bob", "count": 65_536}
    nobody = replace(choices, users=())
    assert not [item for item in items_for(needs_of(nobody), DEBIAN, nobody) if "users" in item.identifier]


def test_an_inventory_chooses_the_address_of_a_bridge() -> None:
    choices = choices_from(
        {"backends": ["lxc"], "features": ["network"], "bridges": {"mxcbr0": "10.99.0.1/24"}}
    )
    items = {item.identifier: item for item in items_for(needs_of(choices), DEBIAN, choices)}
    bridge = items["lxc.network.bridge"].arguments
    assert (bridge["address"], bridge["address6"]) == ("10.99.0.1/24", "fdb5:6d78:62::1/64")


def test_messages_survive_the_pipe() -> None:
    message = Message(Event.FAILED, "@local", {"item": "a", "message": "no\nspace"})
    assert Message.decode(message.encode()) == message
    request = Request(
        Task.UNDO,
        hosts=["@local"],
        limit=["web"],
        exclude=["web-1"],
        backends=["bubblewrap"],
        features=["network"],
        items=["a.b"],
        sudo_password="it's",
    )
    assert Request.decode(request.encode()) == request
    assert Answer.decode(Answer(["@local"]).encode()) == Answer(["@local"])


def test_passwords_stand_in_no_representation() -> None:
    assert "it's" not in repr(Request(sudo_password="it's", ssh_password="it's"))


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([], 0),
        ([HostState.READY, HostState.READY], 0),
        ([HostState.READY, HostState.CHANGES_PENDING], 3),
        ([HostState.CHANGES_PENDING, HostState.NEEDS_PRIVILEGE], 4),
        ([HostState.UNSUPPORTED, HostState.NEEDS_PRIVILEGE], 5),
        ([HostState.UNSUPPORTED, HostState.NEEDS_RESTART], 6),
        ([HostState.DRIFTED, HostState.AS_RECORDED], 7),
        ([HostState.HELD, HostState.READY], 8),
        ([HostState.UNSUPPORTED, HostState.FAILED], 1),
        ([HostState.UNREACHABLE, HostState.HELD], 1),
    ],
)
def test_the_exit_code_tells_the_worst_and_failures_first(states: list[HostState], code: int) -> None:
    hosts = {str(number): HostReport(str(number), verdict=state) for number, state in enumerate(states)}
    assert Report(hosts=hosts).exit_code == code


def told(*messages: Message, task: Task = Task.PREPARE) -> HostReport:
    report = Report(task)
    for message in messages:
        absorb(report, message)
    return report.hosts["h"]


def planned(item: str, **entry: Any) -> dict[str, Any]:
    blank = dict.fromkeys(
        ("kind", "why", "privilege", "before", "after", "message", "fix", "notice", "verdict"), ""
    )
    return {"item": item, **blank, "changes": False, "restart": False, "files": [], **entry}


def test_a_report_follows_what_is_told() -> None:
    plan = Message(Event.PLANNED, "h", {"items": [planned("a", changes=True), planned("b")]})
    assert told(plan).state is HostState.CHANGES_PENDING
    done = Message(Event.CHANGED, "h", {"item": "a", "changed": True})
    assert told(plan, done).state is HostState.READY
    unsettled = Message(Event.CHECKED, "h", {"item": "a", "settled": False, "before": "off"})
    host = told(plan, done, unsettled)
    assert (host.state, host.items["a"].message) == (HostState.FAILED, "still: off")
    restart = Message(Event.RESTART, "h", {"message": "a kernel"})
    assert told(plan, done, restart).state is HostState.NEEDS_RESTART
    broken = {"identifier": "x", "health": "failed", "seen": "", "why": "", "fix": "", "privilege": ""}
    probed = Message(Event.PROBED, "h", {"probes": [broken]})
    assert told(plan, done, probed).state is HostState.FAILED


def test_a_report_is_json_safe() -> None:
    item = ItemReport("a.b", "package", "because", "root", "missing", "installed", ItemState.CHANGED)
    shown = Report(hosts={"@local": HostReport("@local", items={"a.b": item})}).as_dict()
    assert shown["hosts"][0]["items"][0]["state"] == "changed"
    assert shown["hosts"][0]["state"] == "ready"


def recorded(item: str, operation: str = "kernel.setting", **fields: Any) -> Receipt:
    return Receipt(item, operation, {}, at="2026-01-01T00:00:00Z", **fields)


def test_every_item_is_prepared_again_by_a_command_that_plans_it() -> None:
    for containment in registry.preparable():
        every = needs_of(Choices((containment,), FEATURES))
        for need in every:
            words = preparing(need.identifier).split()
            backends = [words[place + 1] for place, word in enumerate(words) if word == "--backend"]
            features = [words[place + 1] for place, word in enumerate(words) if word == "--feature"]
            planned = needs_of(Choices(tuple(backends), tuple(features)))
            assert need.identifier in [known.identifier for known in planned], words


@pytest.mark.parametrize("item", ["x$(id)", "a;b", "a b", "../a", "", "A.b"])
def test_a_record_whose_name_a_shell_would_act_upon_is_not_read(item: str) -> None:
    with pytest.raises(Unreadable, match="/item"):
        decode(replace(recorded("a.b"), item=item).encode())


def test_a_restart_that_is_needed_is_told_before_success() -> None:
    item = ItemReport("a", "k", "w", "root", "b", "a", ItemState.AS_RECORDED)
    assert HostReport("h", restart="asked for", items={"a": item}).state is HostState.NEEDS_RESTART
    item.state = ItemState.UNDONE
    assert HostReport("h", restart="asked for", items={"a": item}).state is HostState.NEEDS_RESTART


def test_what_could_not_be_read_wants_rights_unless_something_has_drifted() -> None:
    unread = ItemReport("a", "k", "w", "root", "b", "a", ItemState.NEEDS_PRIVILEGE)
    kept = ItemReport("b", "k", "w", "root", "b", "a", ItemState.AS_RECORDED)
    host = HostReport("h", restart="asked for", items={"a": unread, "b": kept})
    assert host.state is HostState.NEEDS_PRIVILEGE
    kept.state = ItemState.DRIFTED
    assert host.state is HostState.DRIFTED


def test_what_is_not_there_on_the_command_line_ends_with_64() -> None:
    report = Report()
    absorb(report, Message(Event.INVALID, "", {"message": "no group", "fix": "", "usage": True}))
    assert report.exit_code == 64


def test_what_was_made_last_is_taken_back_first_and_of_the_unknown_the_newest() -> None:
    receipts = [
        recorded("bubblewrap.directory.helpers"),
        recorded("bubblewrap.helper.launcher"),
        recorded("of.yesterday"),
        replace(recorded("of.today"), at="2026-01-02T00:00:00Z"),
    ]
    order = [receipt.item for receipt in undo_order(receipts, ())]
    assert order == [
        "of.today",
        "of.yesterday",
        "bubblewrap.helper.launcher",
        "bubblewrap.directory.helpers",
    ]
    assert [receipt.item for receipt in undo_order(receipts, ["of.today"])] == ["of.today"]


def test_packages_that_go_together_know_of_each_other() -> None:
    first = recorded("lxc.package.tools", "packages.installed", made={"added": ["lxc", "liblxc1"]})
    second = recorded("bubblewrap.package.bwrap", "packages.installed", made={"added": ["bubblewrap"]})
    for receipt in undo_order([first, second], ()):
        assert set(receipt.made["together"]) == {"lxc", "liblxc1", "bubblewrap"}


AS_WANTED = Decision("1", "1")
TO_CHANGE = Decision("0", "1", ("set it",))
UNREAD = Decision("?", "1", ("set it",), unread=True)


@pytest.mark.parametrize(
    ("state", "wanted", "back", "verdict"),
    [
        ("complete", AS_WANTED, Decision("1", "0", ("back",)), Verdict.AS_RECORDED),
        ("complete", TO_CHANGE, Decision("0", "0"), Verdict.MISSING),
        ("complete", TO_CHANGE, Decision("2", "0", ("back",), refusal="is now 2"), Verdict.DRIFTED),
        ("complete", AS_WANTED, Decision("1", "0", refusal="is now another"), Verdict.DRIFTED),
        ("complete", Decision("?", "1", refusal="taken"), Decision("1", "0"), Verdict.DRIFTED),
        (PENDING, TO_CHANGE, Decision("0", "0"), Verdict.UNFINISHED),
        ("complete", UNREAD, Decision("?", "0", ("back",), refusal="not told", unread=True), Verdict.UNKNOWN),
        ("complete", UNREAD, Decision("?", "0", ("back",)), Verdict.UNKNOWN),
        ("complete", AS_WANTED, Decision("?", "0", refusal="not told", unread=True), Verdict.UNKNOWN),
        ("complete", TO_CHANGE, Decision("?", "0", refusal="not told", unread=True), Verdict.DRIFTED),
        (PENDING, UNREAD, Decision("0", "0"), Verdict.UNFINISHED),
    ],
)
def test_drift_is_told_apart_from_what_is_gone(
    state: str, wanted: Decision, back: Decision, verdict: Verdict
) -> None:
    found, decision = judge(recorded("a.b", state=state), wanted, back)
    assert found is verdict
    assert not decision.commands
    assert bool(decision.refusal) == (verdict is not Verdict.AS_RECORDED)


def test_packages_that_others_have_come_to_need_are_no_drift() -> None:
    receipt = recorded("a.package.b", "packages.installed")
    needed = Decision("installed", "as before", ("remove",), refusal="needed by what was installed since: x")
    assert judge(receipt, AS_WANTED, needed)[0] is Verdict.AS_RECORDED


def test_everything_that_can_be_prepared_says_what_it_needs() -> None:
    assert set(registry.available()) <= set(registry.preparable())
    for name in registry.preparable():
        assert needs_of(Choices((name,)))
