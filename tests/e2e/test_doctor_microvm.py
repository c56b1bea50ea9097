"""What microVMs and Hyperlight stand on, tried out on this very host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.hyperlight import probe as hyperlight
from backends.linux.virtualisation import observe
from backends.microvm import probe as microvm
from backends.needs import Health, Probe
from backends.qemu.accelerator import find_qemu
from backends.qemu.tiny_guest import ANSWER
from mxc_ops.doctor import examine
from tests.conftest import User
from tests.hyperlight_packages import installed, pretended
from tests.images import image
from vm_images.store import SYSTEM_STORE

needs_qemu = pytest.mark.skipif(find_qemu() is None, reason="needs QEMU: apt-get install qemu-system-x86")
PROBE = """
from backends.microvm.probe import probe
for found in probe():
    print(found.identifier, found.health.value, found.seen, "FIX", found.fix)
"""


def by_name(probes: Sequence[Probe]) -> dict[str, Probe]:
    return {probe.identifier: probe for probe in probes}


@pytest.fixture(scope="module")
def probes() -> dict[str, Probe]:
    return by_name(microvm.probe())


@needs_qemu
@pytest.mark.backend("microvm")
def test_guests_boot_here_and_the_accelerators_that_boot_none_are_told(probes: dict[str, Probe]) -> None:
    assert probes["microvm.qemu"].health is Health.OK
    assert probes["microvm.accelerator.tcg"].health is Health.OK
    kvm = probes["microvm.accelerator.kvm"]
    assert kvm.health is Health.OK or (kvm.health is Health.WARNING and kvm.privilege != "none")


@pytest.mark.backend("microvm")
def test_every_probe_says_why_it_matters_and_every_fault_how_to_mend_it(probes: dict[str, Probe]) -> None:
    assert [name for name, probe in probes.items() if not probe.why] == []
    wrong = {name: probe for name, probe in probes.items() if probe.health is not Health.OK}
    assert [name for name, probe in wrong.items() if not probe.fix and probe.privilege == "none"] == []


@needs_qemu
@pytest.mark.backend("microvm")
def test_a_user_without_rights_boots_guests_too(as_user: User) -> None:
    done = as_user(PROBE)
    assert "microvm.accelerator.tcg ok" in done.stdout, done.stdout + done.stderr


@needs_qemu
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        pytest.param("vm", "tiny", marks=pytest.mark.backend("vm")),
        pytest.param("vm", "base", marks=pytest.mark.backend("vm")),
        pytest.param("microvm", "python", marks=pytest.mark.backend("microvm")),
    ],
)
def test_one_command_runs_in_a_whole_machine(
    backend: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxc_ops.doctor._IMAGES", (image(name).name,))
    probe = examine([backend]).probes[-1]
    assert probe.identifier == f"{backend}.sandbox.{'root' if os.geteuid() == 0 else 'caller'}"
    assert (probe.health, f"from the image {name}" in probe.seen) == (Health.OK, True), probe


@needs_qemu
@pytest.mark.backend("vm")
def test_a_user_without_rights_is_told_that_machines_run(as_user: User) -> None:
    image("tiny")
    done = as_user("from mxc_ops.doctor import examine; print(examine(['vm']).probes[-1])")
    assert "'vm.sandbox.caller', health=<Health.OK" in done.stdout, done.stdout + done.stderr


@needs_qemu
@pytest.mark.backend("vm")
def test_without_an_image_the_command_that_builds_one_is_told(checkout: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: to hide the images in a mount namespace")
    hide = f'mkdir -p {SYSTEM_STORE} && mount -t tmpfs none {SYSTEM_STORE} && exec "$0" -m mxc_ops.cli "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, sys.executable, "doctor", "--backend", "vm", "--json"],
        capture_output=True,
        text=True,
        cwd=checkout,
        check=False,
    )
    probe = json.loads(done.stdout)["probes"][-1]
    assert (done.returncode, probe["identifier"], probe["health"]) == (2, "vm.sandbox.root", "warning")
    assert (probe["fix"], probe["privilege"]) == ("mxc-ops image build tiny", "none")


def test_a_host_without_qemu_is_told_what_to_do(checkout: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        cwd=checkout,
        env={**os.environ, "PATH": str(tmp_path)},
        check=False,
    )
    assert "microvm.qemu failed" in done.stdout, done.stderr
    assert "FIX mxc-ops prep host --backend microvm --yes" in done.stdout
    assert "microvm.accelerator" not in done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A Python environment whose packages pretend to be Hyperlight's, and whose sandboxes always fail."""
    return pretended(tmp_path / "environment", "refused")


def test_hyperlights_own_failure_is_told(environment: Path) -> None:
    probes = by_name(hyperlight.native_probes(environment=str(environment)))
    assert probes["hyperlight.packages"].health is Health.OK
    failed = probes["hyperlight.hypervisor"]
    assert failed.health is Health.FAILED
    told = "the packages load, but no sandbox runs: RuntimeError: Failed to create sandbox: Internal error:"
    told += " Failed to run vm: Unexpected VM exit: Unknown KVM VCPU exit: InternalError;"
    assert told in failed.seen or "/dev/kvm nor /dev/mshv" in failed.seen


def test_another_version_of_hyperlight_is_not_taken_for_ours(environment: Path) -> None:
    (info,) = environment.glob("lib/python3*/site-packages/hyperlight_sandbox_python_guest*")
    info.rename(info.with_name("other-1.dist-info"))
    (info.with_name("other-1.dist-info") / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other\nVersion: 1\n"
    )
    probe = by_name(hyperlight.native_probes(environment=str(environment)))["hyperlight.packages"]
    assert probe.health is Health.FAILED
    assert "lacks hyperlight-sandbox-python-guest==" in probe.seen


def test_an_environment_that_others_may_write_to_is_not_run(environment: Path, tmp_path: Path) -> None:
    (environment / "bin/python3").unlink()
    (environment / "bin/python3").write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
    (environment / "bin/python3").chmod(0o755)
    environment.chmod(0o777)
    probe = by_name(hyperlight.native_probes(environment=str(environment)))["hyperlight.packages"]
    assert probe.health is Health.FAILED
    assert not (tmp_path / "run").exists()


def test_hyperlight_tries_kvm_with_a_machine_that_this_qemu_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RHEL's QEMU has q35 and no microvm; this one answers as the tiny guest does."""
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text(f"""#!/bin/sh
if test "$1 $2" = "-machine help"; then echo "q35   Standard PC"; exit 0; fi
if test "$1 $2" = "-M q35"; then exit {ANSWER}; fi
echo "qemu: unsupported machine type" >&2; exit 1
""")
    qemu.chmod(0o755)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kvm").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(hyperlight, "observe", lambda: observe(f"{tmp_path}/"))
    probe = by_name(hyperlight.native_probes(environment=str(tmp_path / "nothing")))["hyperlight.hypervisor"]
    assert (probe.health, probe.seen.partition(";")[0]) == (Health.WARNING, "KVM works"), probe


@pytest.mark.backend("hyperlight")
def test_the_probe_says_where_the_installed_packages_end_here() -> None:
    probes = by_name(hyperlight.native_probes(environment=str(installed())))
    assert probes["hyperlight.packages"].health is Health.OK, probes["hyperlight.packages"]
    hypervisor = probes["hyperlight.hypervisor"]
    if hypervisor.health is Health.OK:
        assert hypervisor.seen == "a sandbox ran and answered"
        assert any(name.startswith("hyperlight.sandbox.") for name in probes)
    elif "no sandbox can run: neither" not in hypervisor.seen:
        assert hypervisor.seen.startswith(
            "the packages load, but no sandbox runs: RuntimeError: Failed to create sandbox: "
        )
        # Each of its causes once, the hypervisor's own words last, and then what else is known of this host.
        causes = hypervisor.seen.split("; ")[0].split(": ")
        assert len(causes) == len(set(causes))
        assert hypervisor.health is Health.FAILED and hypervisor.privilege != "none"


def test_hyperlight_that_works_is_tried_in_its_confinement_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvm = tmp_path / "dev/kvm"
    kvm.parent.mkdir()
    kvm.touch()
    monkeypatch.setattr(hyperlight, "observe", lambda: observe(f"{tmp_path}/"))
    probes = by_name(hyperlight.native_probes(environment=str(pretended(tmp_path / "environment"))))
    assert probes["hyperlight.hypervisor"].seen == "a sandbox ran and answered"
    (confined,) = (probe for name, probe in probes.items() if name.startswith("hyperlight.sandbox."))
    if confined.health is not Health.OK:  # no device here, or only root's
        assert "none runs in its confinement: " in confined.seen and "/dev/kvm" in confined.seen


@pytest.mark.backend("hyperlight")
def test_hyperlight_runs_here_or_says_that_it_cannot() -> None:
    probe = by_name(hyperlight.native_probes())["hyperlight.hypervisor"]
    if probe.health is not Health.OK:
        pytest.skip(f"Hyperlight: {probe.seen}")
    assert probe.seen == "a sandbox ran and answered"
