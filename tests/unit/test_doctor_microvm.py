"""What was seen of QEMU, KVM and Hyperlight, made into probes: a warning or a failure, and its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import BackendUnavailable, Problem
from backends.frozen import replace
from backends.hyperlight.probe import hypervisor_probe
from backends.linux.virtualisation import Virtualisation, observe, remedy
from backends.microvm.probe import (
    IMAGE_TOOLS,
    accelerator_probes,
    device_probe,
    image_probe,
    image_tools_probe,
)
from backends.microvm.probe import probe as probe_microvm
from backends.needs import Health, Probe
from backends.qemu.accelerator import Verdict
from backends.vm.probe import probe as probe_vm

PREPARE = "mxc-ops prep host --backend microvm --yes"
METAL = Virtualisation(
    flag="vmx",
    below=False,
    modules=("kvm", "kvm_intel"),
    nested={"kvm_intel": "Y"},
    device="group kvm, mode 0660",
    shared=True,
    accessible=True,
    join="usermod -aG kvm ann",
)
GUEST = replace(METAL, flag="", below=True, modules=("kvm",), nested={}, device="group root, mode 0600")
KVM, NO_KVM = Verdict("kvm", True, "", 90), Verdict("kvm", False, "the guest gave no answer within 5 s", 5000)
TCG, NO_TCG = Verdict("tcg", True, "", 120), Verdict("tcg", False, "QEMU ended with 1: no", 20)


@pytest.mark.parametrize(
    ("kvm", "tcg", "healths"),
    [
        (KVM, TCG, [Health.OK, Health.OK]),
        (NO_KVM, TCG, [Health.WARNING, Health.OK]),
        (KVM, NO_TCG, [Health.OK, Health.WARNING]),
        (NO_KVM, NO_TCG, [Health.FAILED, Health.FAILED]),
    ],
)
def test_one_accelerator_that_works_is_enough(kvm: Verdict, tcg: Verdict, healths: list[Health]) -> None:
    probes = accelerator_probes("microvm", {"kvm": kvm, "tcg": tcg}, METAL)
    assert [probe.health for probe in probes] == healths


def test_kvm_that_fails_says_why_what_it_costs_and_how_to_mend_it() -> None:
    probe = accelerator_probes("microvm", {"kvm": NO_KVM, "tcg": TCG}, GUEST)[0]
    assert "no answer within 5 s" in probe.seen
    assert "one to two seconds" in probe.why
    assert "nested virtualisation" in probe.seen
    assert (probe.fix, probe.privilege) == ("", "whoever runs the machine below")


@pytest.mark.parametrize(
    ("host", "cause", "fix"),
    [
        (GUEST, "nested virtualisation is to be turned on", ""),
        (replace(METAL, flag=""), "firmware", ""),
        (replace(METAL, device=""), "not loaded", "modprobe kvm_intel"),
        (replace(METAL, device="", flag="svm"), "not loaded", "modprobe kvm_amd"),
        (replace(METAL, accessible=False), "from their next log-in on", "usermod -aG kvm ann"),
        (replace(METAL, accessible=False, shared=False), "other users may not open it", PREPARE),
        (replace(METAL, accessible=False, join=""), "not even root may open it", ""),
        (replace(METAL, below=True), "below", ""),
        (METAL, "the kernel", "dmesg | grep -i kvm"),
    ],
)
def test_the_nearest_cause_is_mended_first_by_one_command_or_by_whoever_can(
    host: Virtualisation, cause: str, fix: str
) -> None:
    seen, command, privilege = remedy(host, PREPARE)
    assert cause in seen
    assert command == fix
    assert (privilege == "root") is bool(fix)


@pytest.mark.parametrize(
    ("host", "works", "health", "fix"),
    [
        (METAL, True, Health.OK, ""),
        (replace(METAL, device=""), False, Health.OK, ""),
        (GUEST, False, Health.OK, ""),
        (replace(METAL, shared=False), True, Health.WARNING, PREPARE),
        (replace(METAL, shared=False, accessible=False), False, Health.WARNING, PREPARE),
        (replace(METAL, accessible=False), False, Health.WARNING, "usermod -aG kvm"),
        (replace(METAL, shared=False), None, Health.WARNING, PREPARE),
    ],
)
def test_access_to_the_device_matters_where_kvm_works(
    host: Virtualisation, works: bool | None, health: Health, fix: str
) -> None:
    probe = device_probe("microvm", host, kvm_works=works)
    assert probe.health is health
    assert fix in probe.fix


def test_a_missing_image_tool_is_named_with_its_alternatives() -> None:
    tools = {made: names[0] for made, names in IMAGE_TOOLS.items()}
    assert image_tools_probe("vm", tools).health is Health.OK
    probe = image_tools_probe("vm", {**tools, "root file systems": ""})
    assert probe.health is Health.WARNING
    assert "root file systems (mmdebstrap)" in probe.seen
    assert probe.fix == "mxc-ops prep host --backend vm --feature build --yes"
    assert image_tools_probe("vm", {**tools, "erofs": ""}, ["build"]).health is Health.FAILED


def test_an_image_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "names/base").mkdir(parents=True)
    (tmp_path / "names/base/image.json").touch()
    assert image_probe("vm", "base", [f"{tmp_path}/nothing", str(tmp_path)]).health is Health.OK
    probe = image_probe("vm", "python", [str(tmp_path)])
    assert (probe.identifier, probe.health) == ("vm.image", Health.FAILED)
    assert probe.fix == "mxc-ops prep host --backend vm --feature build --feature image --yes"


def test_vm_is_examined_as_microvm_is_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without QEMU, so that no guest is booted: what else is looked at does not depend on it."""
    monkeypatch.setattr("backends.microvm.probe.find_qemu", lambda: None)
    for features in ([], ["image"]):
        of_microvm = {one.identifier.removeprefix("microvm.") for one in probe_microvm(features)}
        probes = probe_vm(features)
        assert {one.identifier.removeprefix("vm.") for one in probes} == of_microvm
        assert ("image" in of_microvm) is bool(features)
        assert not [one for one in probes if "libvirt" in one.seen + one.fix]
        assert not [one for one in probes if "microvm" in one.fix]


def test_libvirt_is_examined_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Probe("vm.libvirt.connection", Health.FAILED, "no")
    monkeypatch.setattr("backends.microvm.probe.find_qemu", lambda: None)
    monkeypatch.setattr("backends.vm.libvirt_probe.probe", lambda: [asked])
    assert probe_vm(["libvirt"]) == [*probe_vm(), asked]
    assert asked not in probe_microvm(["libvirt"])


@pytest.mark.parametrize("missing", ["bwrap", "launcher"])
def test_what_confines_qemu_must_be_there(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_bwrap() -> None:
        raise BackendUnavailable(Problem("bwrap_missing", "", "bubblewrap is not installed", fix="mend it"))

    def no_launcher(_program: str) -> None:
        return None

    monkeypatch.setattr("backends.microvm.probe.find_qemu", lambda: None)
    if missing == "bwrap":
        monkeypatch.setattr("backends.microvm.probe.find_helper", no_bwrap)
    else:
        monkeypatch.setattr("backends.microvm.probe.find_program", no_launcher)
    (probe,) = [one for one in probe_vm() if one.identifier == "vm.confinement"]
    prepare = "mxc-ops prep host --backend vm --yes"
    told = {"bwrap": ("bubblewrap is not", "mend it"), "launcher": ("our launcher is not", prepare)}
    assert (probe.seen[: len(told[missing][0])], probe.fix) == told[missing]
    assert (probe.health, probe.privilege) == (Health.FAILED, "root")


def test_what_the_host_says_is_read(tmp_path: Path) -> None:
    for path, text in {
        "proc/cpuinfo": "processor : 0\nflags\t\t: fpu svm hypervisor\n\nprocessor : 1\nflags : fpu\n",
        "sys/module/kvm_amd/parameters/nested": "1\n",
        "sys/module/kvm/parameters/other": "x",
        "sys/module/loop/parameters/other": "x",
        "dev/kvm": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "dev/kvm").chmod(0o666)
    host = observe(f"{tmp_path}/")
    assert (host.flag, host.below, host.shared, host.accessible) == ("svm", True, True, True)
    assert host.modules == ("kvm", "kvm_amd")
    assert host.nested == {"kvm_amd": "1"}
    assert host.device.endswith("mode 0666")
    (tmp_path / "dev/kvm").chmod(0o600)
    assert not observe(f"{tmp_path}/").shared


def test_a_host_without_anything_is_read_too(tmp_path: Path) -> None:
    host = observe(f"{tmp_path}/")
    assert host == Virtualisation("", False, (), {}, "", False, False)


@pytest.mark.parametrize(
    ("ran", "kvm", "host", "mshv", "health", "seen"),
    [
        ((0, "42"), "", METAL, False, Health.OK, "ran and answered"),
        ((0, "42"), None, replace(METAL, device=""), True, Health.OK, "ran and answered"),
        ((1, "Unknown exit"), "no", METAL, False, Health.FAILED, "Unknown exit; QEMU boots no guest"),
        ((0, "41"), "", METAL, False, Health.FAILED, "no sandbox runs: 41"),
        (None, "no answer", METAL, False, Health.FAILED, "no sandbox can run"),
        (None, None, replace(METAL, device=""), False, Health.FAILED, "neither /dev/kvm nor /dev/mshv"),
        ((1, "No Hypervisor"), "x", replace(METAL, device=""), False, Health.FAILED, "neither /dev/kvm"),
        (None, "", METAL, False, Health.WARNING, "KVM works; a sandbox is tried"),
        (None, "no", replace(METAL, device=""), True, Health.WARNING, "/dev/mshv is here"),
        (None, None, METAL, False, Health.WARNING, "proves nothing"),
    ],
)
def test_hyperlight_is_ready_only_when_a_sandbox_answered(
    ran: tuple[int, str] | None,
    kvm: str | None,
    host: Virtualisation,
    mshv: bool,
    health: Health,
    seen: str,
) -> None:
    probe = hypervisor_probe(ran, kvm, host, has_mshv=mshv)
    assert probe.health is health
    assert seen in probe.seen
    assert probe.why and (probe.fix or health is Health.OK or probe.privilege != "none")
