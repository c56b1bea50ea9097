"""`mxc-ops doctor --inventory` on a scripted Windows machine: what is told follows from facts alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.prep.windows.conftest import HOST, MakeWindows, Windows
from tests.prep.windows.machine import Machine

MXC_OPS = str(Path(sys.executable).with_name("mxc-ops"))


def doctor(windows: Windows, *backends: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what is told of the host."""
    named = [word for name in backends for word in ("--backend", name)]
    done = subprocess.run(
        [MXC_OPS, "doctor", "--inventory", str(windows.inventory), "--json", *named],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    (host,) = json.loads(done.stdout)["hosts"]
    return done.returncode, host


def healths(host: dict[str, Any]) -> dict[str, str]:
    return {probe["identifier"]: probe["health"] for probe in host["probes"]}


def test_what_is_missing_is_told_with_the_command_that_makes_it_and_nothing_is_changed(
    windows: Windows,
) -> None:
    fresh = windows.machine
    code, host = doctor(windows, "processcontainer")
    assert (code, host["state"], host["problem"]) == (1, "failed", "")
    assert windows.machine == fresh
    missing = next(probe for probe in host["probes"] if probe["identifier"] == "processcontainer.drive")
    assert missing["health"] == "failed"
    assert missing["fix"] == (
        f"mxc-ops prep host --inventory {windows.inventory} --limit {HOST} --backend processcontainer --yes"
    )
    assert missing["privilege"] == "administrator"
    assert all(probe["why"] for probe in host["probes"])


def test_a_prepared_machine_is_ready(windows: Windows) -> None:
    made = windows.run("host", "--backend", "processcontainer", "--yes")
    assert made.host["state"] == "ready", made.host
    code, host = doctor(windows, "processcontainer")
    assert (code, host["state"], set(healths(host).values())) == (0, "ready", {"ok"})


def test_what_waits_for_a_restart_does_not_work_yet(windows: Windows) -> None:
    windows.run("host", "--backend", "windows_sandbox", "--yes")
    code, host = doctor(windows, "windows_sandbox")
    assert (code, healths(host)["windows_sandbox.feature.containers"]) == (1, "failed")
    assert {probe["fix"] for probe in host["probes"] if probe["health"] == "failed"} == {
        f"pyinfra -y --limit {HOST} {windows.inventory} exec -- Restart-Computer"
    }
    windows.restart()
    assert doctor(windows, "windows_sandbox")[0] == 0


def test_a_feature_without_a_hypervisor_is_not_ready(windows_at: MakeWindows) -> None:
    features = {**Machine().features, "HypervisorPlatform": "Enabled"}
    windows = windows_at(Machine(features=features, launch="Off"))
    code, host = doctor(windows, "hyperlight")
    assert (code, healths(host)) == (
        1,
        {"hyperlight.feature.hypervisor-platform": "ok", "hyperlight.hypervisor": "failed"},
    )
    assert host["probes"][1]["seen"].endswith("bcdedit /set hypervisorlaunchtype auto, then restart Windows")
    windows.set(Machine(features=features))
    assert doctor(windows, "hyperlight")[0] == 0


def test_nobody_is_told_to_restart_for_a_feature_that_is_not_enabled_yet(windows: Windows) -> None:
    code, host = doctor(windows, "hyperlight")
    assert (code, set(healths(host).values())) == (1, {"failed"})
    assert not [probe for probe in host["probes"] if "mxc-ops prep host" not in probe["fix"]]


def test_a_restart_that_others_asked_for_is_a_warning(windows_at: MakeWindows) -> None:
    windows = windows_at(Machine(restart_pending=["Windows Update"]))
    windows.run("host", "--backend", "processcontainer", "--yes")
    code, host = doctor(windows, "processcontainer")
    assert (code, host["state"], healths(host)["host.restart"]) == (2, "ready with warnings", "warning")


def test_nobody_is_asked_for_a_password_of_sudos(windows_at: MakeWindows) -> None:
    _, host = doctor(windows_at(Machine(administrator=False)), "processcontainer")
    assert "failed" in healths(host).values()
    assert not [probe for probe in host["probes"] if "sudo" in probe["fix"]]


def test_what_exists_on_linux_only_is_said(windows: Windows) -> None:
    code, host = doctor(windows)
    assert code == 1
    assert [probe["identifier"] for probe in host["probes"]] == ["bubblewrap.platform"]
    assert host["probes"][0]["seen"].startswith("it exists on Linux only, and this is Windows 11")
