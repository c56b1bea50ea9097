"""How probes add up, who can be examined where, and what is brought to a host that has only Python."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from backends.base import SandboxRequest
from backends.bubblewrap.probe import explain_refusal
from backends.digest import Fingerprint
from backends.ended import Outcome, Usage
from backends.errors import BackendUnavailable, Problem, UnsupportedContainment, UsageError
from backends.frozen import replace
from backends.needs import Health, Probe
from backends.registry import CONTAINMENTS
from backends.virtual_machine import Image
from mxc_ops import doctor
from mxc_ops.doctor import Report, examine, obstacle
from mxc_ops.prep import remote_doctor
from mxc_ops.prep.absorbing import absorb
from mxc_ops.prep.messages import Event, Message, Task
from mxc_ops.prep.remote_doctor import Place
from mxc_ops.prep.report import Report as HostsReport
from mxc_ops.provenance import Origin
from mxc_ops.result import Result

OPEN = {"kernel.unprivileged_userns_clone": "1", "user.max_user_namespaces": "9999"}
HERE = Place("/tmp/mxc-ops-doctor.0123456789", "/usr/bin/python3", "Python 3.11.2")
GOOD = Probe("a.b", Health.OK, "it is there", "it is needed")


def as_printed(*probes: Probe) -> list[str]:
    """What the doctor prints of probes, line by line."""
    told = [{**asdict(probe), "health": probe.health.value} for probe in probes]
    return json.dumps({"schemaVersion": 1, "probes": told}, indent=2).splitlines()


@pytest.mark.parametrize(
    ("healths", "code", "state"),
    [
        ([Health.OK], 0, "ready"),
        ([Health.OK, Health.WARNING], 2, "ready with warnings"),
        ([Health.WARNING, Health.FAILED, Health.OK], 1, "failed"),
    ],
)
def test_the_exit_code_is_that_of_the_worst_probe(healths: list[Health], code: int, state: str) -> None:
    probes = [Probe("x", health, "seen") for health in healths]
    assert Report(tuple(probes)).exit_code == code
    of_hosts = HostsReport(Task.EXAMINE)
    absorb(of_hosts, Message(Event.HOSTS, data={"names": ["one"]}))
    told = [{**asdict(probe), "health": probe.health.value} for probe in probes]
    absorb(of_hosts, Message(Event.PROBED, "one", {"probes": told}))
    assert (of_hosts.exit_code, of_hosts.hosts["one"].state.value) == (code, state)


def test_warnings_of_one_host_and_the_failure_of_another_make_a_failure() -> None:
    report = HostsReport(Task.EXAMINE)
    absorb(report, Message(Event.HOSTS, data={"names": ["one", "two", "three"]}))
    absorb(report, Message(Event.PROBED, "one", {"probes": [{"health": "ok"}]}))
    absorb(report, Message(Event.PROBED, "two", {"probes": [{"health": "warning"}]}))
    absorb(report, Message(Event.PROBED, "three", {"probes": [{"health": "ok"}]}))
    assert report.exit_code == 2
    absorb(report, Message(Event.UNREACHABLE, "three", {"message": "no route"}))
    assert report.exit_code == 1


@pytest.mark.parametrize(
    ("switches", "cause"),
    [
        ({**OPEN, "kernel.unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone is 0"),
        ({**OPEN, "user.max_user_namespaces": "0"}, "user.max_user_namespaces is 0"),
        ({**OPEN, "kernel.apparmor_restrict_unprivileged_userns": "1"}, "AppArmor restricts"),
    ],
)
def test_a_switch_that_forbids_namespaces_is_named_with_its_fix(switches: dict[str, str], cause: str) -> None:
    seen, fix, privilege = explain_refusal(switches, in_chroot=False)
    assert seen.startswith(cause)
    assert (fix, privilege) == ("mxc-ops prep host --backend bubblewrap --yes", "root")


def test_a_chroot_and_an_outer_container_are_told_apart() -> None:
    cause, fix, privilege = explain_refusal(OPEN, in_chroot=True)
    assert ("chroot" in cause, fix, privilege) == (True, "", "whoever made the chroot")
    cause, fix, privilege = explain_refusal(OPEN, in_chroot=False)
    assert ("--security-opt" in cause, fix, privilege) == (True, "", "whoever starts the container")


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="no containment is called 'nothing'"):
        examine(["nothing"])


@pytest.mark.skipif(sys.platform != "linux", reason="tells what is refused on Linux")
@pytest.mark.parametrize(
    ("name", "where", "fix"),
    [
        ("windows_sandbox", "Windows only", "mxc-ops doctor --inventory FILE --backend windows_sandbox"),
        ("seatbelt", "macOS only", ""),
    ],
)
def test_what_exists_elsewhere_is_refused_with_the_place_where_it_does(
    name: str, where: str, fix: str
) -> None:
    with pytest.raises(UnsupportedContainment) as refused:
        examine([name])
    assert where in refused.value.problems[0].message
    assert "lxc" in refused.value.problems[0].expected
    assert refused.value.fix == fix


def test_every_containment_can_be_examined_on_linux_or_says_where_it_exists() -> None:
    told = {name: obstacle(name, "linux") for name in CONTAINMENTS}
    assert {name for name, trouble in told.items() if not trouble} == {
        name for name, entry in CONTAINMENTS.items() if "linux" in entry.platforms
    }
    assert all(trouble.endswith(" only") for trouble in told.values() if trouble)
    assert obstacle("bubblewrap", "win32") == "it exists on Linux only"


def test_a_probe_that_breaks_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(features: Sequence[str]) -> list[Probe]:
        raise RuntimeError("boom")

    monkeypatch.setattr("backends.hyperlight.probe.probe", broken)
    (probe,) = doctor.examine(["hyperlight"]).probes
    assert (probe.identifier, probe.health) == ("hyperlight.probes", Health.FAILED)
    assert "RuntimeError: boom" in probe.seen
    assert probe.fix == "mxc-ops doctor --backend hyperlight --json"


MACHINE = "CapEff: 0000000000000000\nCapBnd: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\nRoutes: 0\n"
IMAGE = Image("tiny", "0" * 64, "1" * 64, "/k", "/i", "", "", "", 128, "", "true")

ISOLATION = ("isolation", "a virtual machine of its own")
ANSWER = Result(
    0, Outcome.EXITED, None, Usage(), (), (ISOLATION,), (), Origin(Fingerprint(lambda: "sha256:d"), None)
)


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[SandboxRequest]]:
    """A host where guests boot, unless told otherwise: the images that it has, what a command prints there.

    Returns what was run.
    """

    def make(*images: str, printed: str = "", probe: Probe = GOOD) -> list[SandboxRequest]:
        asked: list[SandboxRequest] = []

        def probes(_features: Sequence[str]) -> list[Probe]:
            return [probe]

        def find(name: str) -> Image:
            if name in images:
                return replace(IMAGE, name=name)
            raise BackendUnavailable(Problem("no_image", "", "there is none"))

        def run(request: SandboxRequest) -> Result:
            asked.append(request)
            return replace(ANSWER, stdout=printed.encode())

        monkeypatch.setattr("backends.vm.probe.probe", probes)
        monkeypatch.setattr("vm_images.store.find_image", find)
        monkeypatch.setattr("mxc_ops.one_shot.run", run)
        return asked

    return make


def test_without_an_image_no_machine_is_tried_and_that_is_no_failure(
    carried: Callable[..., list[SandboxRequest]],
) -> None:
    asked = carried()
    report = examine(["vm"])
    assert (asked, report.exit_code) == ([], 2)
    assert report.probes[-1].seen == "not tried: none of the images tiny, base, python is here"
    assert report.probes[-1].fix == "mxc-ops image build tiny"


@pytest.mark.parametrize(("images", "taken"), [(("python", "tiny", "base"), "tiny"), (("python",), "python")])
def test_a_machine_is_run_from_the_smallest_image(
    carried: Callable[..., list[SandboxRequest]], images: tuple[str, ...], taken: str
) -> None:
    asked = carried(*images, printed=f"{MACHINE}Kernel: another\n")
    report = examine(["vm"])
    assert (report.probes[-1].health, f"the image {taken}" in report.probes[-1].seen) == (Health.OK, True)
    (request,) = asked
    assert request.vm is not None
    assert (request.containment, request.vm.image_name) == ("vm", taken)


@pytest.mark.parametrize(
    ("printed", "broken"),
    [
        (f"{MACHINE}Kernel: ours\n", "Kernel is ours, not another"),
        (f"{MACHINE}Kernel: another\nRoutes: 1\n", "Routes is 1, not 0"),
        (f"{MACHINE}Kernel: another\nCapEff: 000001ffffffffff\n", "CapEff is 000001ffffffffff"),
        ("", "Kernel is not told"),
    ],
)
def test_what_a_machine_promised_and_was_not_seen_inside_is_a_failure(
    carried: Callable[..., list[SandboxRequest]], printed: str, broken: str
) -> None:
    carried("tiny", printed=printed)
    report = examine(["vm"])
    assert report.exit_code == 1
    assert broken in report.probes[-1].seen


@pytest.mark.parametrize("check", ["qemu", "confinement", "accelerator.tcg"])
def test_where_no_guest_boots_no_machine_is_tried(
    carried: Callable[..., list[SandboxRequest]], check: str
) -> None:
    fault = Probe(f"vm.{check}", Health.FAILED, "no")
    asked = carried("tiny", probe=fault)
    assert (examine(["vm"]).probes, asked) == ((fault,), [])


def test_without_the_package_that_runs_in_machines_import_none_is_tried(
    carried: Callable[..., list[SandboxRequest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = carried("tiny")
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    report = examine(["vm"])
    assert (asked, report.exit_code) == ([], 2)
    assert "qemu.qmp" in report.probes[-1].seen


def test_the_sources_are_the_same_each_time_and_hold_all_that_is_needed(tmp_path: Path) -> None:
    brought = remote_doctor.sources()
    remote_doctor.sources.cache_clear()
    assert remote_doctor.sources() == brought
    with tarfile.open(fileobj=io.BytesIO(brought.packed)) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("/", ".."))]
    modules = [f"{entry.needs}".rpartition(".")[0] for entry in CONTAINMENTS.values() if entry.needs]
    probes = [
        f"{module}.probe" for module in modules if (tmp_path / module.replace(".", "/") / "probe.py").exists()
    ]
    # -S: no package of others' can be imported.
    imports = "; ".join(f"import {name}" for name in ["mxc_ops.cli.doctor", "mxc_ops.one_shot", *probes])
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-B", "-c", imports],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(probes) >= 5


def test_the_place_is_found_among_what_a_login_shell_prints() -> None:
    lines = ["Welcome!", f"folder={HERE.folder}", "version=Python 3.11.2", "python=/usr/bin/python3"]
    assert remote_doctor.place(lines) == HERE
    assert remote_doctor.place(["Welcome!"]) is None


@pytest.mark.parametrize(
    "folder", ["/", "/tmp", "/tmp/mxc-ops-doctor.", "/tmp/mxc-ops-doctor.x; rm -rf /", ""]
)
def test_no_other_folder_than_ours_is_taken_from_a_host(folder: str) -> None:
    assert remote_doctor.place([f"folder={folder}", "python=/usr/bin/python3"]) is None


def test_probes_come_back_as_they_were_told() -> None:
    bad = Probe("c.d", Health.FAILED, "it is 'not' there", "why", "a fix", "root")
    assert remote_doctor.probes(["{", "noise", *as_printed(GOOD, bad)]) == [GOOD, bad]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["{"],
        as_printed(),
        ["{", '"probes": [1]', "}"],
        ["{", '"probes": [{"identifier": "a", "health": "splendid", "seen": ""}]', "}"],
        ["{", '"probes": [{"identifier": "a", "health": "ok", "seen": "", "more": ""}]', "}"],
        ["{", '"error": {}', "}"],
    ],
)
def test_what_no_doctor_says_is_no_answer(lines: list[str]) -> None:
    assert remote_doctor.probes(lines) is None


@pytest.mark.parametrize(
    ("family", "version", "fix"),
    [
        ("debian", "", "apt-get install -y python3"),
        ("debian", "Python 3.9.2", "apt-get install -y python3.11"),
        ("fedora", "Python 3.9.18", "dnf install -y python3.12"),
        ("suse", "Python 3.6.15", "zypper --non-interactive install python311"),
        ("", "", ""),
    ],
)
def test_a_missing_or_old_python_comes_with_the_command_that_installs_one(
    family: str, version: str, fix: str
) -> None:
    probe = remote_doctor.python_missing(Place(HERE.folder, "", version), family)
    assert (probe.identifier, probe.fix, probe.privilege) == ("host.python", fix, "root")
    assert version in probe.seen
    assert probe.fix or "install Python 3.11 or later" in probe.seen


def test_what_arrives_changed_is_not_run_and_goes_again(tmp_path: Path) -> None:
    prepared = subprocess.run(
        ["sh", "-c", remote_doctor.preparation()], capture_output=True, text=True, check=True
    )
    where = remote_doctor.place(prepared.stdout.splitlines())
    assert where is not None
    assert Path(where.folder).stat().st_mode & 0o777 == 0o700
    Path(where.folder, remote_doctor.ARCHIVE).write_bytes(b"something else")
    command = remote_doctor.examination(where, remote_doctor.sources().digest, ["bubblewrap"], [])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "what arrived is not what was sent" in done.stderr
    assert not os.path.lexists(where.folder)
