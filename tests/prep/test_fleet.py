"""`mxc-ops prep` on a fleet of real hosts over SSH, some of which cannot be prepared.

Each host is a container with sshd; what is told of it must be what root finds inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mxc_ops.prep.receipts import DIRECTORY
from tests.fleet.controller import Controller, Outcome
from tests.fleet.fleet import NO_SUDO, Fleet, Machine, missing
from tests.fleet.image import package_source
from tests.fleet.inventory import Group, write_inventory

pytestmark = [pytest.mark.backend("bubblewrap"), pytest.mark.skipif(bool(missing()), reason=missing())]

WEB = [f"web-{number}" for number in range(1, 11)]
TROUBLE = ["absent", "read-only", "no-sudo"]
HELPERS = "/usr/local/lib/mxc-ops/helpers"
ALL_ITEMS = {
    *("bubblewrap.package.bwrap", "bubblewrap.directory.helpers", "bubblewrap.helper.launcher"),
    *("bubblewrap.ids.workloads", "bubblewrap.sysctl.userns-clone", "bubblewrap.sysctl.userns-count"),
    "bubblewrap.apparmor.launcher",
}
CHANGED = {
    *("bubblewrap.package.bwrap", "bubblewrap.directory.helpers", "bubblewrap.helper.launcher"),
    "bubblewrap.ids.workloads",
}
# Everything that is ours to change, and the list of packages; not what apt and dpkg keep for themselves.
SNAPSHOT = r"""
dpkg-query -W -f '${db:Status-Status} ${binary:Package} ${Version}\n'
find /etc /usr /opt /srv /home /root /var/lib /var/tmp /tmp -xdev \
    \( -path /var/lib/apt -o -path /var/lib/dpkg -o -name ld.so.cache -o -name __pycache__ \) -prune \
    -o -printf '%M %U:%G %p %l\n' | sort
find /etc /usr/local -xdev -type f ! -name ld.so.cache -exec sha256sum {} + | sort
"""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    machines = [Machine(name) for name in WEB]
    machines += [Machine("read-only", read_only=("/usr/local",)), Machine("no-sudo", sudo=NO_SUDO)]
    with Fleet(machines, package_source(["bubblewrap"])) as running:
        yield running


@pytest.fixture(scope="module")
def controller(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    folder = tmp_path_factory.mktemp("controller")
    data = {"mxc_backends": ["bubblewrap"], "mxc_launcher": "push", "ssh_connect_retries": 0}
    groups = {"trouble": Group(TROUBLE, data), "web": Group(WEB, data)}
    return Controller(fleet, write_inventory(folder / "fleet.py", fleet, groups), folder)


@pytest.fixture(scope="module")
def before(fleet: Fleet) -> dict[str, str]:
    """What stands on the hosts before anything was done to them."""
    return {name: fleet.inside(name, SNAPSHOT) for name in WEB}


@pytest.fixture(scope="module")
def prepared(controller: Controller, before: dict[str, str]) -> Outcome:
    """The first preparation of all of them."""
    assert before
    return controller.run("host", "--yes")


def web(outcome: Outcome) -> dict[str, str]:
    """The states of the hosts that nothing is wrong with."""
    return {name: state for name, state in outcome.states.items() if name in WEB}


def test_every_host_is_told_as_it_is_and_none_holds_up_another(prepared: Outcome, fleet: Fleet) -> None:
    assert prepared.states == {
        **{"absent": "unreachable", "read-only": "failed", "no-sudo": "needs privilege"},
        **dict.fromkeys(WEB, "ready"),
    }
    assert prepared.exit_code == prepared.report["exitCode"] == 1
    for name in WEB:
        states = prepared.item_states(name)
        assert set(states) == ALL_ITEMS
        assert {item for item, state in states.items() if state == "changed"} == CHANGED
        assert set(fleet.inside(name, f"cd {DIRECTORY}; ls").split()) == {f"{item}.json" for item in CHANGED}
        assert "launcher" in fleet.inside(name, f"ls {HELPERS}/*; test -x /usr/bin/bwrap")


def test_a_host_that_fails_midway_keeps_what_succeeded_and_begins_nothing_more(
    prepared: Outcome, fleet: Fleet
) -> None:
    items = prepared.items("read-only")
    assert items["bubblewrap.package.bwrap"]["state"] == "changed"
    failed = items["bubblewrap.directory.helpers"]
    assert failed["state"] == "failed"
    assert "Read-only file system" in failed["message"]
    assert failed["fix"].startswith("pyinfra -y --sudo --limit read-only ")
    assert items["bubblewrap.ids.workloads"]["state"] == "would change"
    assert fleet.inside("read-only", "test ! -e /etc/mxc-ops && command -v bwrap") == "/usr/bin/bwrap\n"


def test_a_host_without_sudo_is_left_alone_and_told_what_to_do(
    prepared: Outcome, controller: Controller, fleet: Fleet
) -> None:
    host = prepared.hosts["no-sudo"]
    assert host["problem"].startswith("root is needed for: bubblewrap.package.bwrap, ")
    assert host["fix"] == (
        f"mxc-ops prep host --inventory {controller.inventory} --limit no-sudo --ask-sudo-password --yes"
    )
    assert fleet.inside("no-sudo", "ls -d /usr/bin/bwrap /var/lib/mxc-ops 2>/dev/null || true") == ""


def test_a_host_that_nobody_has_is_told_with_its_address(prepared: Outcome) -> None:
    host = prepared.hosts["absent"]
    assert "192.0.2.250" in host["problem"]
    assert host["items"] == []


def test_each_changed_host_has_a_log_on_the_controller(prepared: Outcome, controller: Controller) -> None:
    (folder,) = (controller.logs / "mxc-ops/prep").iterdir()
    assert {path.name for path in folder.iterdir()} == {f"{name}.log" for name in prepared.states}
    assert "Setting up bubblewrap" in (folder / "web-7.log").read_text()
    assert Path(prepared.hosts["web-7"]["log"]).name == "web-7.log"


def test_a_second_run_changes_nothing(prepared: Outcome, controller: Controller, fleet: Fleet) -> None:
    assert prepared.exit_code == 1
    stands = {name: fleet.inside(name, SNAPSHOT) for name in WEB}
    again = controller.run("host", "--yes", "--limit", "web")
    assert (web(again), again.exit_code) == (dict.fromkeys(WEB, "ready"), 0)
    assert {state for name in WEB for state in again.item_states(name).values()} == {"as wanted"}
    assert [event for event in again.events if event["event"] in ("started", "changed")] == []
    assert {name: fleet.inside(name, SNAPSHOT) for name in WEB} == stands


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--limit", "web"], WEB),
        (["--limit", "web-1*"], ["web-1", "web-10"]),
        (["--limit", "web", "--exclude", "web-?"], ["web-10"]),
        (["--limit", "no-sudo", "--limit", "web-3"], ["no-sudo", "web-3"]),
        (["--exclude", "trouble", "--exclude", "web-[2-9]"], ["web-1", "web-10"]),
    ],
)
def test_hosts_are_chosen_by_group_name_and_pattern(
    controller: Controller, options: list[str], expected: list[str]
) -> None:
    assert list(controller.run("host", *options).states) == expected


@pytest.mark.parametrize("option", ["--limit", "--exclude"])
def test_a_name_that_nothing_has_stops_everything(controller: Controller, option: str) -> None:
    outcome = controller.run("host", option, "wbe", "--yes")
    assert (outcome.hosts, outcome.exit_code) == ({}, 64)
    assert outcome.report["problem"] == "no host or group is called 'wbe'; groups: fleet, trouble, web"


def test_no_more_hosts_at_once_than_asked_for(controller: Controller) -> None:
    outcome = controller.run("host", "--limit", "web", "--parallel", "1")
    told = [
        (event["event"], event["host"]) for event in outcome.events if event["event"] in ("host", "planned")
    ]
    assert told == [(step, name) for name in WEB for step in ("host", "planned")]


def test_too_many_failures_stop_what_has_not_begun(controller: Controller, fleet: Fleet) -> None:
    fleet.renew("read-only", "web-1", "web-2")
    options = ["--parallel", "1", "--fail-percent", "0", "--limit", "read-only", "--limit", "web-[12]"]
    outcome = controller.run("host", "--yes", *options)
    assert outcome.states == {"read-only": "failed", "web-1": "stopped", "web-2": "stopped"}
    assert outcome.exit_code == 1
    assert outcome.hosts["web-1"]["problem"] == "not begun: too many hosts failed"
    assert fleet.inside("web-1", "ls -d /usr/bin/bwrap /var/lib/mxc-ops 2>/dev/null || true") == ""
    tolerant = ["--parallel", "1", "--fail-percent", "34", "--limit", "read-only", "--limit", "web-[12]"]
    outcome = controller.run("host", "--yes", *tolerant)
    assert outcome.states == {"read-only": "failed", "web-1": "ready", "web-2": "ready"}


@pytest.mark.parametrize(
    ("trouble", "state"),
    [
        # Its record of an item cannot be read, so that item is refused.
        (f"mkdir -p {DIRECTORY}; echo '?' > {DIRECTORY}/bubblewrap.package.bwrap.json", "refused"),
        # Its package is installed beside a bwrap that runs nothing.
        ("dpkg-divert --quiet --rename --add /usr/bin/bwrap; cp /bin/false /usr/bin/bwrap", "changed"),
    ],
    ids=["refused", "does not work"],
)
def test_a_canary_that_cannot_be_made_ready_stops_the_others(
    controller: Controller, fleet: Fleet, trouble: str, state: str
) -> None:
    fleet.renew("web-1", "web-2")
    fleet.inside("web-1", trouble)
    options = ["--parallel", "1", "--fail-percent", "0", "--limit", "web-[12]"]
    outcome = controller.run("host", "--yes", *options)
    assert outcome.states == {"web-1": "failed", "web-2": "stopped"}
    assert outcome.items("web-1")["bubblewrap.package.bwrap"]["state"] == state
    assert outcome.hosts["web-2"]["problem"] == "not begun: too many hosts failed"
    assert fleet.inside("web-2", "ls -d /usr/bin/bwrap /var/lib/mxc-ops 2>/dev/null || true") == ""
    fleet.renew("web-1", "web-2")


def test_a_changed_host_key_is_refused(controller: Controller, fleet: Fleet) -> None:
    fleet.change_host_key("web-3")
    outcome = controller.run("host", "--yes", "--limit", "web-3")
    assert (outcome.states, outcome.exit_code) == ({"web-3": "unreachable"}, 1)
    host = outcome.hosts["web-3"]
    assert "key" in host["problem"].lower()
    assert "ssh-keyscan" in host["fix"]
    assert host["distribution"] == ""
    fleet.renew("web-3")


def test_an_unknown_host_key_is_refused(controller: Controller, fleet: Fleet) -> None:
    known = fleet.known_hosts.read_text()
    try:
        fleet.known_hosts.write_text("".join(line for line in known.splitlines(True) if "web-3," not in line))
        outcome = controller.run("host", "--yes", "--limit", "web-[34]")
    finally:
        fleet.known_hosts.write_text(known)
    assert outcome.states == {"web-3": "unreachable", "web-4": "ready"}
    assert "ssh-keyscan" in outcome.hosts["web-3"]["fix"]


def test_verify_tells_which_hosts_drifted_and_preparing_mends_them(
    prepared: Outcome, controller: Controller, fleet: Fleet
) -> None:
    assert prepared.exit_code == 1
    controller.run("host", "--yes", "--limit", "web")
    clean = controller.run("verify", "--limit", "web")
    assert (web(clean), clean.exit_code) == (dict.fromkeys(WEB, "as recorded"), 0)

    fleet.inside("web-4", f"chmod 0700 {HELPERS}")
    fleet.inside("web-5", f"echo | tee -a {HELPERS}/*/launcher")
    fleet.inside("web-6", "dpkg --purge bubblewrap")
    drifted = controller.run("verify", "--limit", "web")
    wrong = dict.fromkeys(["web-4", "web-5", "web-6"], "drifted")
    assert (web(drifted), drifted.exit_code) == ({**dict.fromkeys(WEB, "as recorded"), **wrong}, 7)
    assert drifted.item_states("web-4")["bubblewrap.directory.helpers"] == "drifted"
    launcher = drifted.items("web-5")["bubblewrap.helper.launcher"]
    assert launcher["state"] == "drifted"
    assert launcher["message"].startswith(f"{HELPERS}/")
    package = drifted.items("web-6")["bubblewrap.package.bwrap"]
    assert (package["state"], package["before"]) == ("missing", "bubblewrap not installed")
    for item in (launcher, package):
        assert item["fix"].startswith("mxc-ops prep host --inventory ")

    mended = controller.run("host", "--yes", "--limit", "web")
    assert web(mended) == dict.fromkeys(WEB, "ready")
    assert controller.run("verify", "--limit", "web").exit_code == 0


def test_undo_leaves_every_host_as_it_was(
    prepared: Outcome, controller: Controller, fleet: Fleet, before: dict[str, str]
) -> None:
    assert prepared.exit_code == 1
    controller.run("host", "--yes", "--limit", "web")
    planned = controller.run("undo", "--limit", "web")
    assert (web(planned), planned.exit_code) == (dict.fromkeys(WEB, "changes pending"), 3)
    undone = controller.run("undo", "--yes", "--limit", "web")
    assert (web(undone), undone.exit_code) == (dict.fromkeys(WEB, "undone"), 0)
    for name in WEB:
        assert fleet.inside(name, SNAPSHOT) == before[name]
        assert fleet.inside(name, "ls -d /var/lib/mxc-ops 2>/dev/null || true") == ""
    nothing = controller.run("undo", "--yes", "--limit", "web")
    assert (web(nothing), nothing.exit_code) == (dict.fromkeys(WEB, "undone"), 0)
