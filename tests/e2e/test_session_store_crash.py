"""Many processes with one store of sandboxes, killed at any moment: codes, never corruption, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.e2e.session_actors import ACTORS

_SOAK = os.environ.get("MXC_SOAK") == "1"
_ROUNDS = 200 if _SOAK else 20
_STRIDE = 1 if _SOAK else 5


@contextmanager
def ended(folder: Path, *arguments: object) -> Generator[str]:
    """What the actors' driver printed; every process of it is gone afterwards."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.session_actors", *map(str, arguments)],
        cwd=CHECKOUT,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = driver.communicate(timeout=1800)
        assert driver.returncode == 0 and not err, err
        yield out
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()


def test_sixteen_processes_that_race_and_are_killed(tmp_path: Path) -> None:
    with ended(tmp_path, "race", tmp_path, _ROUNDS, 5):
        codes = Counter[str]()
        for path in tmp_path.glob("codes-*"):
            codes.update(json.loads(path.read_text()))
    survivors = len(list(tmp_path.glob("codes-*")))
    assert survivors >= _ROUNDS * ACTORS // 2
    assert codes["done"] > _ROUNDS * ACTORS // 2
    seen = codes.keys() - {"done"}
    assert seen <= {
        "already_started already_started",
        "already_stopped already_stopped",
        "malformed_id ambiguous_id",
        "not_provisioned not_provisioned",
        "not_started not_started",
        "policy_validation name_taken",
        "stale_id stale_id",
    }
    assert len(seen) > 3, "they have met"


def test_killed_before_each_single_system_call(tmp_path: Path) -> None:
    with ended(tmp_path, "steps", tmp_path, _STRIDE) as printed:
        steps = json.loads(printed)
    assert set(steps) == {"create", "start", "stop", "deprovision", "sweep"}
    assert min(steps.values()) > 30, "each phase was cut in many places"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")
def test_a_new_boot_of_the_host_reclaims_what_ran(tmp_path: Path) -> None:
    """The kernel's boot id is another one: as after a power failure, with the run folders gone or not."""
    (tmp_path / "boot_id").write_text("11111111-2222-3333-4444-555555555555\n")
    script = f"""
import subprocess, sys
from pathlib import Path
from mxc_ops.session.record import State
from tests.e2e.session_actors import clear, require_tidy, start, use
from tests.unit.session_stores import record, save, store_below
folder = {str(tmp_path)!r}
for at, state in enumerate((State.STARTING, State.RUNNING, State.STOPPING)):
    save(store_below(folder).create(record(f"n{{at}}")), state=state, starts=1)
subprocess.run(["mount", "--bind", f"{{folder}}/boot_id", "/proc/sys/kernel/random/boot_id"], check=True)
store = store_below(folder)
print([(one.shown.value, one.needs_reclaim) for one in store.entries()])
require_tidy(store)
for one in store.entries():
    start(one)
    use(one)
print([one.record.boot_id[:8] for one in store.entries()])
clear(store)
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script],
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{[('provisioned', True)] * 3}", f"{['11111111'] * 3}"]
