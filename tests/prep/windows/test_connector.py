"""pyinfra's connector ``@mxcwin`` against a scripted SSH end: what it sends, and what it makes of answers."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyinfra annotates its contexts incompletely.

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gevent import monkey

monkey.patch_all()

from pyinfra.api.command import StringCommand  # noqa: E402 - only after gevent has patched the process
from pyinfra.api.config import Config  # noqa: E402 - as above
from pyinfra.api.exceptions import ConnectError, OperationError  # noqa: E402 - as above
from pyinfra.api.host import Host  # noqa: E402 - as above
from pyinfra.api.inventory import Inventory  # noqa: E402 - as above
from pyinfra.api.state import State, StateStage  # noqa: E402 - as above
from pyinfra.connectors.util import CommandOutput  # noqa: E402 - as above

from backends.processcontainer.needs import NULL_DEVICE  # noqa: E402 - as above
from mxc_ops.prep.windows.script import headed  # noqa: E402 - as above
from tests.conftest import CHECKOUT  # noqa: E402 - as above
from tests.prep.windows.conftest import HOST, Windows, make_key  # noqa: E402 - as above

Run = Callable[..., tuple[bool, CommandOutput]]
_PYINFRA = Path(sys.executable).with_name("pyinfra")


def _host(data: dict[str, Any]) -> Host:
    state = State(Inventory(([(HOST, data)], dict[str, Any]())), Config(), check_for_changes=False)
    state.set_stage(StateStage.Connect)
    host = state.inventory.get_host(HOST)
    assert host is not None
    return host


@pytest.fixture
def run(windows: Windows) -> Iterator[Run]:
    """Runs one script on the machine, through the connector."""
    host = _host(windows.data)
    host.connect(raise_exceptions=True)

    def run_script(script: str, **arguments: Any) -> tuple[bool, CommandOutput]:
        return host.run_shell_command(StringCommand(script), **arguments)

    yield run_script
    host.disconnect()


def answered(body: str = "", **told: Any) -> str:
    """A script to which the other end answers as it is told."""
    return headed("test", body, **told)


def test_what_a_script_prints_comes_back_line_by_line(run: Run) -> None:
    worked, output = run(answered(stdout=["one", "zwei \u00fc", "", "{}"], stderr="beside it"))
    assert worked
    assert output.stdout_lines == ["one", "zwei \u00fc", "", "{}"]
    assert output.stderr_lines == ["beside it"]


def test_a_status_that_is_not_zero_is_a_failure_unless_it_was_expected(run: Run) -> None:
    assert run(answered(exit=1))[0] is False
    assert run(answered(exit=75), _success_exit_codes=[0, 75])[0] is True
    assert run(answered(exit=0), _success_exit_codes=[75])[0] is False


def test_errors_are_told_without_their_wrapping(run: Run) -> None:
    worked, output = run(answered(exit=1, stderr="Access is denied"))
    assert (worked, output.stderr_lines) == (False, ["Access is denied"])


def test_bytes_that_are_no_text_do_not_lose_the_rest(run: Run) -> None:
    _, output = run(answered(bytes="61ff620d0a", stdout=["after"]))
    assert output.stdout_lines == ["a\ufffdb", "after"]


@pytest.mark.parametrize("length", [10, 5000, 400_000])
def test_a_script_of_any_length_arrives(run: Run, windows: Windows, length: int) -> None:
    script = answered("# " + "\u00fc'\u2019\"$x;" * (length // 7), stdout=["arrived"])
    assert run(script)[1].stdout_lines == ["arrived"]
    assert windows.transcript[-1]["script"].endswith(script)


def test_input_reaches_a_script_and_ends(run: Run) -> None:
    assert run(answered(reads=True), _stdin=["a line", "another"])[1].stdout_lines == ["a line", "another"]
    assert run(answered(reads=True))[1].stdout_lines == []


def test_a_script_that_is_sent_as_input_cannot_be_given_another(run: Run, windows: Windows) -> None:
    with pytest.raises(OperationError, match="cannot be given standard input"):
        run(answered("#" * 5000), _stdin=["a line"])
    assert windows.transcript == []


@pytest.mark.parametrize("argument", ["_sudo", "_su_user", "_doas", "_get_pty"])
def test_what_means_something_on_unix_only_is_refused(run: Run, windows: Windows, argument: str) -> None:
    with pytest.raises(OperationError, match=f"{argument} means nothing on a Windows host"):
        run(answered(), **{argument: True})
    assert windows.transcript == []


def test_variables_and_the_directory_are_set_before_the_script(run: Run, windows: Windows) -> None:
    run(answered(), _env={"NAME": "it's"}, _chdir="C:\\it's here")
    sent = windows.transcript[-1]["script"]
    assert "${env:NAME}='it''s'\nSet-Location -LiteralPath 'C:\\it''s here'\n# mxc:test" in sent


def test_a_script_that_takes_too_long_is_not_waited_for(run: Run) -> None:
    with pytest.raises(TimeoutError):
        run(answered(waits=True), _timeout=1)
    assert run(answered(stdout=["still here"]))[1].stdout_lines == ["still here"]


def test_a_script_that_ends_before_its_input_is_not_waited_for(run: Run) -> None:
    class Endless(list[str]):
        def __bool__(self) -> bool:
            return True

        def __iter__(self) -> Iterator[str]:
            import gevent

            gevent.sleep(3600)
            yield from ()

    worked, output = run(answered(exit=75, stdout=["somebody"]), _stdin=Endless())
    assert (worked, output.stdout_lines) == (False, ["somebody"])


def test_a_host_whose_key_is_another_is_not_spoken_to(windows: Windows, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    for known in ("", f"[127.0.0.1]:{windows.port} {other}\n"):
        windows.known_hosts.write_text(known)
        with pytest.raises(ConnectError, match=r"(?i)host key"):
            _host({**windows.data, "ssh_connect_retries": 0}).connect(raise_exceptions=True)
    assert windows.transcript == []


def test_a_key_that_the_host_does_not_know_is_not_let_in(windows: Windows, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    data = {**windows.data, "ssh_key": str(tmp_path / "stranger"), "ssh_connect_retries": 0}
    with pytest.raises(ConnectError, match=r"(?i)authentication"):
        _host(data).connect(raise_exceptions=True)


# --- plain pyinfra


def pyinfra(windows: Windows, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(_PYINFRA), "-y", str(windows.inventory), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=windows.folder,  # where it writes a log when something breaks
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        timeout=60,
        check=False,
    )


def test_plain_pyinfra_reads_our_facts(windows: Windows) -> None:
    done = pyinfra(windows, "fact", "mxc_ops.prep.facts.windows.Host")
    assert done.returncode == 0, done.stderr
    assert '"caption": "Windows 11 Pro"' in done.stdout + done.stderr


def test_plain_pyinfra_carries_our_operations_out_once_and_leaves_no_record(windows: Windows) -> None:
    operation = ("mxc_ops.prep.operations.windows.feature", "feature=HypervisorPlatform")
    done = pyinfra(windows, *operation)
    assert done.returncode == 0, done.stderr
    machine = windows.machine
    assert machine.features["HypervisorPlatform"] == "EnablePending"
    assert machine.receipts == {}
    sent = len(windows.transcript)
    again = pyinfra(windows, *operation)
    assert again.returncode == 0, again.stderr
    assert "enable-feature" not in json.dumps(windows.transcript[sent:])


def test_what_plain_pyinfra_does_under_an_items_name_can_be_taken_back(windows: Windows) -> None:
    fresh = windows.machine
    for _ in range(2):
        operation = ("mxc_ops.prep.operations.windows.drive_entries", 'sids=["S-1-15-2-1"]', "mask=0x120088")
        done = pyinfra(windows, *operation, "item=my.drive")
        assert done.returncode == 0, done.stderr
        windows.set(replace(windows.machine, drive=windows.machine.drive + "(A;;FR;;;IU)"))
    assert json.loads(windows.machine.receipts["my.drive"])["by"] == "pyinfra"
    undone = windows.run("undo", "--yes")
    assert undone.host["state"] == "undone", undone.errors
    assert windows.machine == replace(fresh, drive=fresh.drive + "(A;;FR;;;IU)" * 2)


def test_plain_pyinfra_keeps_what_was_there_before_the_first_change(windows: Windows) -> None:
    operation = ("mxc_ops.prep.operations.windows.null_device", f"sddl={NULL_DEVICE}", "item=my.null")
    pyinfra(windows, *operation)
    first = json.loads(windows.machine.receipts["my.null"])
    windows.set(replace(windows.machine, null_device="O:BAG:SYD:(A;;FA;;;SY)"))
    done = pyinfra(windows, *operation)
    assert done.returncode == 0, done.stderr
    assert json.loads(windows.machine.receipts["my.null"])["prior"] == first["prior"]


def test_plain_pyinfra_does_not_touch_what_has_a_record_that_cannot_be_understood(windows: Windows) -> None:
    broken = replace(windows.machine, receipts={"my.drive": "{}"})
    windows.set(broken)
    operation = ("mxc_ops.prep.operations.windows.drive_entries", 'sids=["S-1-15-2-1"]', "mask=0x120088")
    done = pyinfra(windows, *operation, "item=my.drive")
    assert done.returncode != 0
    assert r"mxc-ops\\receipts\\my.drive.json cannot be understood" in repr(done.stdout + done.stderr)
    assert windows.machine == broken


def test_plain_pyinfra_is_told_why_something_is_refused(windows: Windows) -> None:
    done = pyinfra(windows, "mxc_ops.prep.operations.windows.feature", "feature=NoSuchFeature")
    assert done.returncode != 0
    assert "this edition of Windows has no feature NoSuchFeature" in done.stdout + done.stderr
