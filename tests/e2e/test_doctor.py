"""doctor on this very host: what works is proved, what was broken is found and explained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backends.needs import Health
from backends.registry import CONTAINMENTS
from mxc_ops.doctor import examine, obstacle
from tests.conftest import User
from tests.e2e.commands import MXC_OPS, Commands
from tests.images import image
from tests.unit.agent_client import agent_path

pytestmark = pytest.mark.backend("bubblewrap")

DOCTOR = """
from mxc_ops.doctor import examine
report = examine(["bubblewrap"])
for probe in report.probes:
    print(probe.identifier, probe.health.value, probe.seen, "FIX", probe.fix)
print("exit", report.exit_code)
"""

NO_AGENT = """
import sys
from importlib import import_module
from mxc_ops import MxcError, Policy
from mxc_ops.session.session import Session
for features in ([], ["sessions"]):
    for probe in import_module(f"backends.{sys.argv[1]}.probe").probe(features):
        if probe.identifier == f"{sys.argv[1]}.sessions":
            print(probe.health.value, probe.fix)
try:
    Session.open(Policy(containment=sys.argv[1]))
except MxcError as error:
    print(error.problems[0].code, error.fix)
"""


def test_sandboxes_run_here_for_the_caller_and_for_a_user_without_rights() -> None:
    healths = {probe.identifier: probe.health for probe in examine(["bubblewrap"]).probes}
    who = ["root", "unprivileged"] if os.geteuid() == 0 else ["caller"]
    assert {healths[f"bubblewrap.sandbox.{name}"] for name in who} == {Health.OK}


@pytest.mark.parametrize("name", [name for name in CONTAINMENTS if not obstacle(name, sys.platform)])
def test_every_probe_says_what_was_seen_why_it_matters_and_how_it_is_mended(name: str) -> None:
    probes = examine([name]).probes
    assert f"{name}.probes" not in {probe.identifier for probe in probes}, probes
    assert all(probe.identifier.startswith(f"{name}.") for probe in probes)
    assert [probe for probe in probes if not (probe.seen and probe.why and probe.privilege)] == []
    wrong = [probe for probe in probes if probe.health is not Health.OK]
    assert [probe for probe in wrong if not probe.fix and probe.privilege == "none"] == []
    words = {probe.fix.split()[0] for probe in probes if probe.fix}
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    assert [word for word in words if word != "mxc-ops" and not shutil.which(word, path=path)] == []


def test_a_user_is_told_that_limits_hold_less(as_user: User) -> None:
    done = as_user(DOCTOR)
    assert "bubblewrap.sandbox.caller ok" in done.stdout, done.stdout + done.stderr
    assert "bubblewrap.limits warning" in done.stdout
    assert done.stdout.endswith("exit 2\n")


def test_forbidden_user_namespaces_are_found_and_the_switch_is_named(as_user: User) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    done = as_user(["unshare", "--user", "--map-root-user", "sh", "-c", forbid, as_user.python, DOCTOR])
    assert "bubblewrap.namespaces.caller failed" in done.stdout, done.stdout + done.stderr
    assert "user.max_user_namespaces is 0 FIX mxc-ops prep host --backend bubblewrap --yes" in done.stdout
    assert done.stdout.endswith("exit 1\n")


def test_a_missing_launcher_is_found(checkout: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: to hide the launcher in a mount namespace")
    hide = 'mount -t tmpfs none /usr/local/lib/mxc-ops && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, sys.executable, DOCTOR],
        capture_output=True,
        text=True,
        cwd=checkout,
        check=False,
    )
    assert "bubblewrap.launcher failed" in done.stdout, done.stderr
    assert "bubblewrap.sandbox.root failed" in done.stdout
    assert done.stdout.endswith("exit 1\n")


def test_sessions_can_run_here() -> None:
    (found,) = [one for one in examine(["bubblewrap"], ["sessions"]).probes if "sessions" in one.identifier]
    assert (found.identifier, found.health) == ("bubblewrap.sessions", Health.OK), found


@pytest.mark.parametrize("backend", ["bubblewrap", pytest.param("lxc", marks=pytest.mark.backend("lxc"))])
def test_without_the_agent_the_doctor_and_a_session_name_the_same_fix(backend: str, checkout: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: to hide the agent in a mount namespace")
    if backend == "lxc":
        image("base")
    hide = f'mount --bind /dev/null {agent_path()} && exec "$0" -c "$1" {backend}'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, sys.executable, NO_AGENT],
        capture_output=True,
        text=True,
        cwd=checkout,
        check=False,
    )
    fix = f"mxc-ops prep host --backend {backend} --feature sessions --yes"
    assert done.stdout.splitlines() == [f"ok {fix}", f"failed {fix}", f"agent_missing {fix}"], done.stderr


def test_a_user_is_told_commands_that_take_roots_rights(somebody: Commands) -> None:
    done = somebody.run(MXC_OPS, "doctor", "--backend", "lxc", "--json")
    found = {probe["identifier"]: probe for probe in json.loads(done.stdout)["probes"]}
    rights, program, *rest = found["lxc.limits"]["fix"].split()
    assert (rights, Path(program).name) == ("sudo", "mxc-ops")
    assert rest == ["doctor", "--backend", "lxc"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--limit", "web"),
        ("--exclude", "web"),
        ("--parallel", "2"),
        ("--ask-sudo-password",),
        ("--inventory",),
        ("--parallel", "-1"),
    ],
)
def test_flags_of_inventories_without_one_are_a_wrong_command_line(
    somebody: Commands, flags: tuple[str, ...]
) -> None:
    done = somebody.run(MXC_OPS, "doctor", *flags)
    assert (done.returncode, done.stdout) == (64, "")
    assert flags[0] in done.stderr


def test_the_doctor_needs_no_package_of_others(checkout: Path) -> None:
    # -S: nothing that is installed can be imported.
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "mxc_ops.cli", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    healths = {probe["identifier"]: probe["health"] for probe in json.loads(done.stdout)["probes"]}
    who = "root" if os.geteuid() == 0 else "caller"
    assert healths[f"bubblewrap.sandbox.{who}"] == "ok", done.stdout + done.stderr
