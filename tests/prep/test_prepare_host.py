"""`prepare_host` on this very host, with the places it writes to hidden behind empty ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT, User

pytestmark = pytest.mark.backend("bubblewrap")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to hide parts of the host")

PREPARE = """
import json, sys
from mxc_ops.prep.host import prepare_host
report = prepare_host(["bubblewrap"], approve=lambda plan: sys.argv[1] == "yes")
print(json.dumps(report.as_dict()))
"""
FRESH = (
    "mount -t tmpfs -o mode=755 none /usr/local/lib/mxc-ops;"
    "mkdir -p /etc/mxc-ops; mount -t tmpfs -o mode=755 none /etc/mxc-ops;"
)


def prepare(*answers: str, before: str = FRESH) -> list[dict[str, Any]]:
    """The report of this host for each run, one after another, in one private mount namespace."""
    runs = " && ".join(f'"$0" -c "$1" {answer}' for answer in answers)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{before} {runs}", sys.executable, PREPARE],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["hosts"][0] for line in done.stdout.splitlines()]


def states(host: dict[str, Any]) -> dict[str, str]:
    return {item["identifier"].removeprefix("bubblewrap."): item["state"] for item in host["items"]}


@needs_root
def test_what_is_missing_is_made_and_the_second_run_changes_nothing() -> None:
    first, second = prepare("yes", "yes")
    made = {name for name, state in states(first).items() if state == "changed"}
    assert made == {"directory.helpers", "helper.launcher", "ids.workloads"}
    assert set(states(second).values()) == {"as wanted"}
    assert (first["state"], second["state"]) == ("ready", "ready")


@needs_root
def test_nothing_is_imported_from_the_directory_that_one_happens_to_be_in(tmp_path: Path) -> None:
    for name in ("gevent", "pathlib", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from here')")
    program = f"import sys; sys.path[0] = {str(CHECKOUT)!r}{PREPARE}"
    script = f'{FRESH} cd {tmp_path}; "$0" -c "$1" yes'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["hosts"][0]["state"] == "ready", done.stderr


@needs_root
def test_without_approval_it_only_plans() -> None:
    first, second = prepare("no", "no")
    assert states(first)["ids.workloads"] == "would change"
    assert (first["state"], states(second)) == ("changes pending", states(first))


@needs_root
def test_a_range_that_is_taken_stops_everything_before_anything_is_changed() -> None:
    taken = "echo eve:1900000000:65536 > /run/mxc-test-subuid; mount --bind /run/mxc-test-subuid /etc/subuid;"
    private_run = "mount -t tmpfs none /run;"
    (host,) = prepare("yes", before=FRESH + private_run + taken)
    refused = next(item for item in host["items"] if item["identifier"] == "bubblewrap.ids.workloads")
    assert refused["message"] == "/etc/subuid gives eve 1900000000 to 1900065535"
    assert host["state"] == "failed"
    assert states(host)["helper.launcher"] == "would change"


@needs_root
def test_an_item_that_fails_is_told_with_its_command_and_the_rest_is_not_tried() -> None:
    (host,) = prepare("yes", before=FRESH + "mount -o remount,ro /usr/local/lib/mxc-ops;")
    failed = next(item for item in host["items"] if item["state"] == "failed")
    assert failed["identifier"] == "bubblewrap.directory.helpers"
    assert "Read-only file system" in failed["message"]
    assert failed["fix"].startswith("sudo sh -c 'umask 022 && mkdir -p ")
    assert states(host)["ids.workloads"] == "would change"


@needs_root
def test_a_setting_below_the_least_is_raised() -> None:
    low = "mount -t tmpfs none /etc/sysctl.d; echo 7 > /proc/sys/user/max_user_namespaces;"
    # A user namespace has a count of its own, so the host's stays as it is.
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{FRESH}{low} "$0" -c "$1" yes']
    done = subprocess.run(
        [*enter, sys.executable, PREPARE], capture_output=True, text=True, cwd=CHECKOUT, check=False
    )
    host = json.loads(done.stdout)["hosts"][0]
    item = next(item for item in host["items"] if item["identifier"] == "bubblewrap.sysctl.userns-count")
    assert (item["before"], item["state"]) == ("7", "changed"), done.stderr
    assert item["after"] == "1024, kept by /etc/sysctl.d/90-mxc-ops-user.max_user_namespaces.conf"


def test_without_pyinfra_the_fix_is_the_command_that_installs_it(as_user: User) -> None:
    done = as_user(
        "from backends.errors import PrepFailed\n"
        "from mxc_ops.prep.host import prepare_host\n"
        "try: prepare_host(['bubblewrap'], approve=lambda plan: True)\n"
        "except PrepFailed as error: print(error.problems[0].code, error.fix)"
    )
    assert done.stdout.startswith("prep_not_installed "), done.stderr
    assert done.stdout.endswith("-m pip install 'mxc-ops[prep]'\n")


@needs_root
def test_a_user_without_root_is_told_what_needs_it(as_user: User) -> None:
    site = next(path for path in sys.path if path.endswith("site-packages"))
    script = (
        f"{FRESH} mount --bind {site} {as_user.tree}/site-packages;"
        f'exec setpriv --reuid {as_user.uid} --regid {as_user.gid} --clear-groups "$0" -c "$1" yes'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, as_user.python, PREPARE],
        capture_output=True,
        text=True,
        env=dict(as_user.environment),
        cwd="/",
        check=False,
    )
    report = json.loads(done.stdout)
    (host,) = report["hosts"]
    assert (host["state"], report["exitCode"]) == ("needs privilege", 4), done.stderr
    assert "bubblewrap.ids.workloads" in host["problem"]
    assert host["fix"].endswith("mxc-ops prep host --backend bubblewrap --yes")
