"""`mxc-ops prep` on this very host, in a mount namespace of its own: prepare, verify, drift, undo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from backends.qemu.accelerator import find_qemu
from tests.prep.private_host import PrivateHost, Reported, missing

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
STORE = "/usr/local/lib/mxc-ops/helpers"
HOST_FILE = "/etc/mxc-ops/host.json"
USERNS_CLONE = "/etc/sysctl.d/zz-mxc-ops-kernel.unprivileged_userns_clone.conf"
PROFILE = "/etc/apparmor.d/mxc-ops-launcher"
PREPARE = ("host", "--feature", "sessions", "--item", "bubblewrap.*", "--yes")


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    with PrivateHost() as made:
        yield made


def test_from_nothing_to_ready_and_back(host: PrivateHost) -> None:
    files, packages = host.differences(), host.packages()

    planned = host.prep("host", "--feature", "sessions")
    assert planned.exit_code == 3
    wanted = {name for name, state in planned.states.items() if state == "would change"}
    assert wanted == {
        "bubblewrap.package.bwrap",
        "bubblewrap.package.compiler",
        "bubblewrap.directory.helpers",
        "bubblewrap.helper.launcher",
        "bubblewrap.helper.agent",
        "bubblewrap.ids.workloads",
    }
    assert host.differences() == files

    made = host.prep("host", "--feature", "sessions", "--yes")
    assert (made.exit_code, made.host["state"]) == (0, "ready"), made
    healths = {probe["identifier"]: probe["health"] for probe in made.host["probes"]}
    assert healths["bubblewrap.sessions"] == "ok"
    assert {name for name, state in made.states.items() if state == "changed"} == wanted
    assert set(host.receipts()) == wanted
    assert {receipt["state"] for receipt in host.receipts().values()} == {"complete"}

    recorded = host.receipts()
    again = host.prep("host", "--feature", "sessions", "--yes")
    assert (again.exit_code, set(again.states.values())) == (0, {"as wanted"}), again
    assert host.receipts() == recorded

    verified = host.prep("verify")
    assert (verified.exit_code, verified.host["state"]) == (0, "as recorded"), verified
    assert verified.states == dict.fromkeys(wanted, "as recorded")

    undone = host.prep("undo", "--yes")
    assert (undone.exit_code, undone.host["state"]) == (0, "undone"), undone
    assert undone.states == dict.fromkeys(wanted, "undone")
    assert host.differences() == files
    assert host.packages() == packages


def test_what_was_prepared_is_tried_out_with_its_features(host: PrivateHost) -> None:
    """The package is there, as far as its manager knows; what it brought is not."""
    host.sh("mount --bind /dev/null /usr/bin/newuidmap")
    made = host.prep("host", "--feature", "rootless", "--yes")
    assert (made.exit_code, made.host["state"]) == (1, "failed"), made
    assert {probe["identifier"] for probe in made.host["probes"] if probe["health"] == "failed"} == {
        "bubblewrap.rootless"
    }


@pytest.mark.skipif(find_qemu() is None, reason="needs QEMU: apt-get install qemu-system-x86")
def test_a_host_prepared_for_vm_has_all_that_its_runs_take(host: PrivateHost) -> None:
    made = host.prep("host", "--backend", "vm", "--yes")
    assert made.exit_code == 0, made
    assert {"vm.confinement.package.bwrap", "vm.confinement.helper.launcher"} <= set(host.receipts())
    healths = {probe["identifier"]: probe["health"] for probe in made.host["probes"]}
    assert (healths["vm.qemu"], healths["vm.confinement"]) == ("ok", "ok")
    assert not [name for name in (*made.states, *healths) if "libvirt" in name or ".service." in name]


def test_what_confines_qemu_is_made_once_for_sandboxes_and_machines(host: PrivateHost) -> None:
    backends = ("--backend", "bubblewrap", "--backend", "vm")
    only = ("--item", "*.directory.*", "--item", "*.ids.*", "--item", "*.sysctl.*")
    made = host.prep("host", *backends, *only, "--yes")
    assert made.exit_code == 0, made
    assert "vm.confinement.directory.helpers" in made.states
    assert set(host.receipts()) == {"bubblewrap.directory.helpers", "bubblewrap.ids.workloads"}
    assert host.prep("undo", "--yes").exit_code == 0
    assert not host.seen(HOST_FILE).exists()


def test_one_item_alone_is_taken_back_and_the_others_stay(host: PrivateHost) -> None:
    made = host.prep("host", "--item", "bubblewrap.ids.*", "--item", "bubblewrap.directory.*", "--yes")
    assert (made.exit_code, len(made.items)) == (0, 2), made
    assert host.prep("undo", "--item", "bubblewrap.ids.workloads", "--yes").exit_code == 0
    assert not host.seen(HOST_FILE).exists()
    assert host.prep("verify").states == {"bubblewrap.directory.helpers": "as recorded"}
    nothing = host.prep("undo", "--item", "bubblewrap.ids.workloads", "--yes")
    assert nothing.exit_code == 1
    assert "nothing is recorded of it" in nothing.items["bubblewrap.ids.workloads"]["message"]


def test_what_another_backend_relies_on_is_taken_back_with_it_or_when_the_user_insists(
    host: PrivateHost,
) -> None:
    """The first of two backends that need the same has the record; the second found it as wanted."""
    host.change_kernel()
    before = host.differences()
    setting = "bubblewrap.sysctl.userns-count"
    lxc = ("--backend", "lxc", "--item", "lxc.ids.workloads", "--item", "lxc.sysctl.userns-count")
    assert host.prep("host", "--item", setting, "--yes").exit_code == 0
    assert host.prep("host", *lxc, "--yes").states["lxc.sysctl.userns-count"] == "as wanted"

    refused = host.prep("undo", "--item", "bubblewrap.*", "--yes")
    assert (refused.exit_code, refused.states) == (1, {setting: "refused"}), refused
    assert "needed for lxc.sysctl.userns-count as well" in refused.items[setting]["message"]
    assert refused.items[setting]["fix"] == f"mxc-ops prep undo --item {setting} --force"
    assert host.prep("undo", "--item", setting, "--force", "--yes").states == {setting: "undone"}

    assert host.prep("host", "--item", setting, "--yes").exit_code == 0
    assert set(host.prep("undo", "--yes").states.values()) == {"undone"}
    assert host.differences() == before


# --- drift


@dataclass(frozen=True)
class Drift:
    """What somebody does behind our back to one item, and what is said of it."""

    item: str
    how: str
    verdict: str = "drifted"
    difference: str = ""

    @property
    def name(self) -> str:
        return f"bubblewrap.{self.item}"


# What the rules would accept from somebody else is not mended by preparing again; the others are.
ACCEPTED = (
    Drift("helper.launcher", f"cp /bin/true {STORE}/*/launcher", difference="no longer what we made"),
    Drift("helper.agent", f"cp /bin/true {STORE}/*/agent", difference="no longer what we made"),
    Drift(
        "ids.workloads", f"sed -i s/1900000000/1800000000/ {HOST_FILE}", difference="no longer what we made"
    ),
    Drift("sysctl.userns-clone", f"rm {USERNS_CLONE}", difference="is now None"),
)
GONE = (
    Drift("package.bwrap", "dpkg --purge bubblewrap", "missing", "gone: "),
    Drift("helper.launcher", f"rm -r {STORE}/*", "missing", "gone: "),
    Drift("helper.agent", "true", "missing", "gone: "),  # by the same command
    Drift("ids.workloads", f"rm {HOST_FILE}", "missing", "gone: "),
    Drift("apparmor.launcher", f"rm {PROFILE}", "missing", "gone: "),
    Drift("sysctl.userns-count", "echo 3 > /proc/sys/user/max_user_namespaces", difference="is now '3'"),
)
CHANGED = (
    Drift("helper.launcher", f"chmod 666 {STORE}/*/launcher", difference="no longer what we made"),
    Drift("helper.agent", f"chmod 666 {STORE}/*/agent", difference="no longer what we made"),
    Drift(
        "sysctl.userns-clone",
        "echo 0 > /proc/sys/kernel/unprivileged_userns_clone",
        difference="recorded was 1",
    ),
    Drift("apparmor.launcher", f"echo '#' >> {PROFILE}", difference="no longer what we made"),
)


@pytest.fixture(scope="module")
def changed_kernel() -> Iterator[PrivateHost]:
    """A host without anything, on a kernel that needs every item."""
    with PrivateHost() as made:
        made.change_kernel()
        yield made


@pytest.fixture(scope="module")
def unprepared(changed_kernel: PrivateHost) -> dict[str, tuple[object, object]]:
    return changed_kernel.differences()


@pytest.fixture(scope="module")
def prepared(changed_kernel: PrivateHost, unprepared: dict[str, tuple[object, object]]) -> PrivateHost:
    """Prepared with every item; each test leaves it like that."""
    made = changed_kernel
    _prepare(made)
    again = made.prep(*PREPARE)
    assert (again.exit_code, set(again.states.values())) == (0, {"as wanted"}), again
    return made


def _prepare(host: PrivateHost) -> None:
    done = host.prep(*PREPARE)
    assert (done.exit_code, set(done.states.values())) == (0, {"changed"}), done


def _verify_tells(host: PrivateHost, drifts: Sequence[Drift]) -> Reported:
    for drift in drifts:
        host.sh(drift.how)
    seen = host.differences()
    told = host.prep("verify")
    assert (told.exit_code, told.host["state"]) == (7, "drifted"), told
    wanted = dict.fromkeys(told.items, "as recorded") | {drift.name: drift.verdict for drift in drifts}
    assert told.states == wanted, told
    for drift in drifts:
        assert drift.difference in told.items[drift.name]["message"]
    assert host.differences() == seen
    return told


@pytest.mark.parametrize("drifts", [GONE, CHANGED], ids=["gone", "changed"])
def test_drift_is_told_by_item_and_mended(prepared: PrivateHost, drifts: Sequence[Drift]) -> None:
    told = _verify_tells(prepared, drifts)
    assert all("mxc-ops prep host" in told.items[drift.name]["fix"] for drift in drifts)
    mended = prepared.prep(*PREPARE)
    wanted = dict.fromkeys(mended.items, "as wanted") | {drift.name: "changed" for drift in drifts}
    assert (mended.exit_code, mended.states) == (0, wanted), mended
    assert prepared.prep("verify").exit_code == 0


def test_a_directory_that_others_may_write_to_is_drift_that_a_person_must_look_at(
    prepared: PrivateHost,
) -> None:
    told = _verify_tells(prepared, [Drift("directory.helpers", f"chmod 777 {STORE}", difference="mode 777")])
    assert told.items["bubblewrap.directory.helpers"]["fix"].endswith(f"rm -r {STORE}")
    prepared.sh(f"chmod 755 {STORE}")


def test_undo_refuses_with_the_difference_until_it_is_told_to(
    prepared: PrivateHost, unprepared: dict[str, tuple[object, object]]
) -> None:
    told = _verify_tells(prepared, ACCEPTED)
    seen = prepared.differences()
    refused = prepared.prep("undo", "--yes")
    wanted = dict.fromkeys(told.items, "would undo") | {drift.name: "refused" for drift in ACCEPTED}
    assert (refused.exit_code, refused.states) == (1, wanted), refused
    for drift in ACCEPTED:
        assert drift.difference in refused.items[drift.name]["message"]
        assert f"prep undo --item {drift.name} --force" in refused.items[drift.name]["fix"]
        assert f"prep undo --item {drift.name} --force" in told.items[drift.name]["fix"]
    assert prepared.differences() == seen

    forced = prepared.prep("undo", "--force", "--yes")
    assert (forced.exit_code, set(forced.states.values())) == (0, {"undone"}), forced
    assert prepared.differences() == unprepared
    assert prepared.sh("cat /proc/sys/kernel/unprivileged_userns_clone") == "0\n"
    assert prepared.sh("cat /proc/sys/user/max_user_namespaces") == "7\n"
    _prepare(prepared)
