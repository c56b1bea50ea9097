"""`mxc-ops prep` on a Windows machine that is scripted: our connector, engine and rules are the real ones.

The other end decodes what would be PowerShell's command line and acts on the line ``# mxc:VERB`` in it; no
PowerShell runs. So this proves what we send, in which order, what we conclude, record and refuse; not what
Windows would do.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from tests.prep.windows.conftest import MakeWindows, Windows
from tests.prep.windows.machine import Machine
from tests.unit.powershell_grammar import errors

PROCESS_CONTAINER = ("--backend", "processcontainer")
CONFLICT = "(A;OICI;0x1200a9;;;AC)"


def test_a_fresh_machine_becomes_ready_stays_so_and_goes_back_to_what_it_was(windows: Windows) -> None:
    fresh = windows.machine
    planned = windows.run("host", *PROCESS_CONTAINER)
    assert (planned.exit_code, planned.host["state"]) == (3, "changes pending"), planned.errors
    assert {item["privilege"] for item in planned.host["items"]} == {"administrator"}
    assert windows.machine == fresh

    made = windows.run("host", *PROCESS_CONTAINER, "--yes")
    assert (made.exit_code, made.host["state"]) == (0, "ready"), made.host
    assert set(made.states.values()) == {"as wanted", "changed"}
    ready = windows.machine
    assert ready.drive.count(";0x120088;;;S-1-15-2-") == 2
    assert "S:(ML;;NW;;;LW)" in ready.null_device
    assert len(ready.receipts) == 4

    again = windows.run("host", *PROCESS_CONTAINER, "--yes")
    assert set(again.states.values()) == {"as wanted"}
    assert windows.machine == ready

    verified = windows.run("verify")
    assert (verified.exit_code, set(verified.states.values())) == (0, {"as recorded"})

    undone = windows.run("undo", "--yes")
    assert (undone.exit_code, undone.host["state"]) == (0, "undone"), undone.errors
    assert windows.machine == fresh


def test_features_wait_for_a_restart_that_nobody_makes(windows: Windows) -> None:
    fresh = windows.machine
    made = windows.run("host", "--backend", "wslc", "--backend", "windows_sandbox", "--yes")
    assert (made.exit_code, made.host["state"]) == (6, "needs a restart"), made.errors
    waiting = windows.machine
    assert waiting.features["VirtualMachinePlatform"] == "EnablePending"

    again = windows.run("host", "--backend", "wslc", "--backend", "windows_sandbox", "--yes")
    assert (again.exit_code, again.host["state"]) == (6, "needs a restart")
    assert windows.machine == waiting

    windows.restart()
    ready = windows.run("host", "--backend", "wslc", "--backend", "windows_sandbox", "--yes")
    assert (ready.exit_code, ready.host["state"]) == (0, "ready"), ready.errors
    verified = windows.run("verify")
    assert (verified.exit_code, set(verified.states.values())) == (0, {"as recorded"})

    undone = windows.run("undo", "--yes")
    assert undone.host["state"] in ("undone", "needs a restart"), undone.errors
    windows.restart()
    assert windows.machine == fresh


def test_a_feature_that_comes_along_goes_with_the_one_that_needed_it(windows: Windows) -> None:
    windows.run("host", "--backend", "windows_sandbox", "--item", "*.feature.*", "--yes")
    receipt = json.loads(windows.machine.receipts["windows_sandbox.feature.containers"])
    assert receipt["made"]["enabled"] == ["Containers-DisposableClientVM", "VirtualMachinePlatform"]
    windows.run("undo", "--yes")
    windows.restart()
    assert windows.machine.features == Machine().features


def test_a_feature_that_was_interrupted_keeps_nothing_else_from_being_verified_and_undone(
    windows: Windows,
) -> None:
    windows.run("host", "--backend", "windows_sandbox", *PROCESS_CONTAINER, "--yes")
    records = dict(windows.machine.receipts)
    feature = "windows_sandbox.feature.containers"
    records[feature] = json.dumps({**json.loads(records[feature]), "state": "pending", "made": {}})
    windows.set(replace(windows.machine, receipts=records))
    verified = windows.run("verify")
    assert (verified.exit_code, verified.states[feature]) == (7, "unfinished"), verified.errors
    assert verified.states["processcontainer.drive"] == "as recorded"
    undone = windows.run("undo", "--item", "processcontainer.*", "--yes")
    assert set(undone.states.values()) == {"undone"}, undone.errors
    refused = windows.run("undo", "--yes")
    assert "interrupted before it was known what it made" in refused.item(feature)["message"]


def test_the_command_that_removes_a_record_that_cannot_be_understood_is_powershell(windows: Windows) -> None:
    item, strange = "processcontainer.drive", "x$(whoami)\u201d`"
    windows.set(replace(windows.machine, receipts={item: "{}", strange: "{}"}))
    planned = windows.run("host", *PROCESS_CONTAINER)
    removal = r'Remove-Item -LiteralPath "$env:ProgramData\mxc-ops\receipts\processcontainer.drive.json"'
    assert planned.item(item)["fix"] == f"look at it, then: {removal}"
    assert errors(removal) == []
    # What PowerShell would act upon in a name is only text.
    verified = windows.run("verify")
    assert verified.item(strange)["fix"].endswith('\\receipts\\x`$(whoami)`\u201d``.json"')


def test_the_null_device_is_open_after_a_restart_too(windows: Windows) -> None:
    windows.run("host", *PROCESS_CONTAINER, "--yes")
    windows.restart()
    verified = windows.run("verify")
    assert (verified.exit_code, set(verified.states.values())) == (0, {"as recorded"})


def test_without_its_task_the_null_device_is_closed_after_a_restart_and_verify_says_so(
    windows: Windows,
) -> None:
    windows.run("host", *PROCESS_CONTAINER, "--yes")
    windows.set(replace(windows.machine, task=None))
    windows.restart()
    verified = windows.run("verify")
    assert (verified.exit_code, verified.host["state"]) == (7, "drifted")
    assert verified.states["processcontainer.null-device"] == "missing"
    assert verified.states["processcontainer.drive"] == "as recorded"


def test_what_is_there_already_is_neither_changed_nor_taken_away(windows_at: MakeWindows) -> None:
    half = Machine(
        drive=Machine().drive + "(A;;0x120088;;;AC)",
        features={**Machine().features, "VirtualMachinePlatform": "Enabled"},
    )
    windows = windows_at(half)
    made = windows.run("host", *PROCESS_CONTAINER, "--yes")
    assert made.host["state"] == "ready", made.errors
    assert windows.machine.drive.count("0x120088") == 2
    receipt = json.loads(windows.machine.receipts["processcontainer.drive"])
    assert receipt["made"]["entries"] == ["(A;;0x120088;;;S-1-15-2-2)"]
    windows.run("undo", "--yes")
    assert windows.machine == half


def test_an_entry_of_somebody_elses_is_refused_and_left_alone(windows_at: MakeWindows) -> None:
    windows = windows_at(Machine(drive=Machine().drive + CONFLICT))
    refused = windows.run("host", *PROCESS_CONTAINER, "--yes")
    item = refused.item("processcontainer.drive")
    assert (refused.exit_code, refused.host["state"], item["state"]) == (1, "failed", "refused")
    assert "ALL APPLICATION PACKAGES (S-1-15-2-1)" in item["message"]
    assert item["fix"].endswith(r"icacls C:\ /remove:g *S-1-15-2-1")
    assert CONFLICT in windows.machine.drive
    assert "0x120088" not in windows.machine.drive


def test_an_entry_that_somebody_adds_beside_ours_stops_the_way_back_unless_one_insists(
    windows: Windows,
) -> None:
    windows.run("host", *PROCESS_CONTAINER, "--item", "*.drive", "--yes")
    windows.set(replace(windows.machine, drive=windows.machine.drive + CONFLICT))
    refused = windows.run("undo", "--yes")
    assert "an entry that we did not make" in refused.item("processcontainer.drive")["message"]
    assert windows.machine.receipts
    forced = windows.run("undo", "--yes", "--force")
    assert forced.host["state"] == "undone", forced.errors
    assert windows.machine.drive == Machine().drive + CONFLICT
    assert not windows.machine.receipts


def test_a_machine_that_waits_for_a_restart_says_so(windows_at: MakeWindows) -> None:
    windows = windows_at(Machine(restart_pending=["Windows Update"]))
    planned = windows.run("host", *PROCESS_CONTAINER)
    assert "Windows Update" in planned.host["restart"]


def test_without_an_administrators_rights_it_only_plans(windows_at: MakeWindows) -> None:
    windows = windows_at(Machine(administrator=False))
    refused = windows.run("host", *PROCESS_CONTAINER, "--yes")
    assert (refused.exit_code, refused.host["state"]) == (4, "needs privilege"), refused.errors
    assert "administrator" in refused.host["fix"]
    assert refused.states["processcontainer.drive"] == "would change"
    assert windows.machine == Machine(administrator=False)
    assert {_verb(entry["script"]) for entry in windows.transcript} == {"survey"}


def _verb(script: str) -> str:
    return script.partition("# mxc:")[2].split()[0]


@pytest.mark.parametrize(
    ("machine", "backend", "message"),
    [
        (Machine(build=19045), "processcontainer", "it needs build 26100 or later, and this is 19045.4349"),
        (Machine(), "isolation_session", "it needs build 26340.9212 or later, and this is 26100.4349"),
        (Machine(edition="Core"), "windows_sandbox", "the edition Core does not have it"),
    ],
    ids=["old", "not a preview", "Home"],
)
def test_a_windows_that_cannot_have_it_is_refused(
    windows_at: MakeWindows, machine: Machine, backend: str, message: str
) -> None:
    refused = windows_at(machine).run("host", "--backend", backend, "--yes")
    item = refused.item(f"{backend}.edition")
    assert (refused.exit_code, item["state"]) == (1, "refused")
    assert message in item["message"]


OFF = "bcdedit /set hypervisorlaunchtype auto, then restart Windows"


def test_a_hypervisor_comes_with_its_feature_at_the_next_start(windows: Windows) -> None:
    made = windows.run("host", "--backend", "hyperlight", "--yes")
    waiting = made.item("hyperlight.hypervisor")
    assert (made.exit_code, made.host["state"], waiting["state"]) == (6, "needs a restart", "as wanted")
    windows.restart()
    ready = windows.run("host", "--backend", "hyperlight", "--yes")
    running = ready.item("hyperlight.hypervisor")
    assert (ready.exit_code, running["before"]) == (0, "a hypervisor runs"), ready.errors


@pytest.mark.parametrize(
    ("machine", "message", "fix"),
    [
        (Machine(launch="Off"), "hypervisorlaunchtype is off", OFF),
        (Machine(firmware=False), "switched off in the firmware", "switch it on in the firmware"),
        (Machine(translation=False), "second-level address translation", "name other backends"),
    ],
    ids=["told to start none", "firmware", "translation"],
)
@pytest.mark.parametrize("backend", ["hyperlight", "wslc", "windows_sandbox"])
def test_a_machine_on_which_no_hypervisor_will_run_is_refused(
    windows_at: MakeWindows, machine: Machine, message: str, fix: str, backend: str
) -> None:
    windows = windows_at(machine)
    refused = windows.run("host", "--backend", backend, "--yes")
    item = refused.item(f"{backend}.hypervisor")
    assert (refused.exit_code, item["state"]) == (1, "refused"), refused.errors
    assert message in item["message"]
    assert item["fix"].startswith(fix)
    assert windows.machine == machine


def test_a_virtual_machine_that_may_run_none_itself_is_not_ready_with_the_feature(
    windows_at: MakeWindows,
) -> None:
    windows = windows_at(Machine(below=True, firmware=False))
    windows.run("host", "--backend", "hyperlight", "--yes")
    windows.restart()
    refused = windows.run("host", "--backend", "hyperlight", "--yes")
    item = refused.item("hyperlight.hypervisor")
    assert (refused.exit_code, item["state"]) == (1, "refused"), refused.errors
    assert item["message"] == "this is a virtual machine that may run none itself"
    assert "-ExposeVirtualizationExtensions $true" in item["fix"]


def test_a_change_that_fails_is_told_and_a_rerun_completes_it(windows_at: MakeWindows) -> None:
    windows = windows_at(Machine(fails="write-null-device"))
    failed = windows.run("host", *PROCESS_CONTAINER, "--yes")
    item = failed.item("processcontainer.null-device")
    assert (failed.exit_code, item["state"]) == (1, "failed")
    assert item["message"] == "write-null-device fails on this machine"
    assert json.loads(windows.machine.receipts["processcontainer.null-device"])["state"] == "failed"
    again = windows.run("host", *PROCESS_CONTAINER, "--yes")
    assert again.host["state"] == "ready", again.errors
    states = {json.loads(text)["state"] for text in windows.machine.receipts.values()}
    assert states == {"complete"}
    windows.run("undo", "--yes")
    assert windows.machine == Machine()


def test_a_machine_that_another_preparation_holds_is_left_alone(windows: Windows) -> None:
    held = replace(windows.machine, holder="eve@elsewhere, process 7")
    windows.set(held)
    refused = windows.run("host", *PROCESS_CONTAINER, "--yes")
    assert (refused.exit_code, refused.host["state"]) == (8, "held by another preparation"), refused.errors
    assert "eve@elsewhere" in json.dumps(refused.host)
    assert windows.machine == held


def test_an_older_wsl_is_updated_and_stays_so(windows_at: MakeWindows) -> None:
    old = Machine(wsl="2.6.1.0", wsl_in_utf16=True)
    old.features["VirtualMachinePlatform"] = old.features["Microsoft-Windows-Subsystem-Linux"] = "Enabled"
    windows = windows_at(old)
    made = windows.run("host", "--backend", "wslc", "--yes")
    assert made.item("wslc.wsl")["state"] == "changed", made.errors
    assert "no way back" in made.item("wslc.wsl")["notice"]
    assert windows.run("verify").exit_code == 0
    undone = windows.run("undo", "--yes")
    assert undone.host["state"] == "undone"
    assert asdict(windows.machine) == {**asdict(old), "wsl": "2.9.4.0"}


def test_a_host_whose_key_is_not_known_is_not_spoken_to(windows: Windows) -> None:
    windows.known_hosts.write_text("")
    unknown = windows.run("host", *PROCESS_CONTAINER)
    assert (unknown.exit_code, unknown.host["state"]) == (1, "unreachable")
    assert windows.transcript == []


def test_linux_backends_are_not_prepared_on_windows(windows: Windows) -> None:
    refused = windows.run("host", "--backend", "bubblewrap")
    assert (refused.exit_code, refused.host["state"]) == (5, "unsupported")
    assert "Windows 11 Pro" in json.dumps(refused.host)
