"""The same preparation by the pyinfra command alone, with the same receipts, parts of this host hidden."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to hide parts of the host"),
]
_BIN = Path(sys.executable).parent
_DEPLOY = "mxc_ops/prep/deploys/host.py"
# What prep writes to lies in memory, in a mount namespace of the test's own.
_HIDDEN = "mkdir -p /etc/mxc-ops /usr/local/lib/mxc-ops; mount -t tmpfs -o mode=755 none /var/log;" + "".join(
    f"mount -t tmpfs -o mode=755 none {place};" for place in ("/usr/local/lib/mxc-ops", "/etc/mxc-ops")
)


def in_private(script: str) -> str:
    """The output of a script whose writes nobody else sees."""
    # dpkg's and apt's own state is still to be read.
    keep = "mkdir /run/mxc-ops-state/dpkg; mount --bind /var/lib/dpkg /run/mxc-ops-state/dpkg;"
    before = f"set -e; {_HIDDEN} mount -t tmpfs none /run; mkdir /run/mxc-ops-state; {keep}"
    bind = "mount --rbind /run/mxc-ops-state /var/lib;"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{before} {bind} {script}"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "PATH": f"{_BIN}:{os.environ['PATH']}"},
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def changed(run: str) -> int:
    """How many operations a ``--json`` answer of pyinfra's counts as changed."""
    return json.loads(run)["results"]["totals"]["success"]


def test_the_deploy_prepares_keeps_receipts_and_changes_nothing_the_second_time() -> None:
    pyinfra = f"pyinfra inventories/local.py {_DEPLOY} -y --json 2>/dev/null"
    told = in_private(
        f"{pyinfra} > /run/first; {pyinfra} > /run/second; mxc-ops prep verify --json > /run/verified;"
        " mxc-ops prep undo --yes > /run/undone; ls -A /etc/mxc-ops /usr/local/lib/mxc-ops > /run/left;"
        " for name in first second verified; do tr -d '\\n' < /run/$name; echo; done; cat /run/left"
    )
    first, second, verified, *left = told.splitlines()
    assert changed(first) == 3
    assert changed(second) == 0
    report = json.loads(verified[verified.index('{"event": "report"') :])
    items = {item["identifier"]: item["state"] for item in report["hosts"][0]["items"]}
    assert items == {
        "bubblewrap.directory.helpers": "as recorded",
        "bubblewrap.helper.launcher": "as recorded",
        "bubblewrap.ids.workloads": "as recorded",
    }
    assert [line for line in left if line and not line.endswith(":")] == []


def test_a_dry_run_only_plans() -> None:
    told = in_private(
        f"pyinfra inventories/local.py {_DEPLOY} --dry > /run/out 2>&1; cat /run/out; ls -A /etc/mxc-ops"
    )
    planned = [line.split() for line in told.splitlines() if "bubblewrap.ids.workloads" in line]
    assert planned[-1][3:5] == ["1", "(@local)"]
    assert not told.rstrip().endswith("host.json")


def test_a_single_operation_can_be_called_without_an_item() -> None:
    told = in_private(
        "pyinfra @local mxc_ops.prep.operations.ids.recorded_range path=/etc/mxc-ops/host.json"
        " wanted=1900000000:16 -y >/dev/null 2>&1; cat /etc/mxc-ops/host.json; ls /var/lib"
    )
    assert json.loads(told[: told.rindex("}") + 1])["uidRange"] == {"first": 1900000000, "count": 16}
