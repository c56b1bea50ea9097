"""A minimal Debian in a directory, prepared by chroot: from nothing to ready and back to the last file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.inside.store import PROGRAMS, source_key
from tests.prep.private_host import PrivateHost, Reported, listing, missing

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
LAUNCHER, AGENT = "bubblewrap.helper.launcher", "bubblewrap.helper.agent"
# Between the plan and the change, the launcher that is to be brought becomes another one.
CORRUPTED = """
import json, sys
from backends.inside.store import LAUNCHER, find_program
from mxc_ops.prep.controller import carry_out
from mxc_ops.prep.messages import Request
def approve(plan):
    with open(find_program(LAUNCHER), "ab") as launcher:
        launcher.write(b"x")
    return True
report = carry_out(Request(inventory=sys.argv[1], launcher="push"), approve=approve)
print(json.dumps(report.as_dict()))
sys.exit(report.exit_code)
"""


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    with PrivateHost() as made:
        yield made


@pytest.fixture
def inventory(host: PrivateHost) -> Path:
    return host.inventory("machines.py", f"machines = [('@chroot/{host.debian}', {{}})]\n")


def packages(host: PrivateHost) -> str:
    """Every package of the Debian, as its package database tells."""
    show = "dpkg-query -W -f='${binary:Package} ${Version} ${db:Status-Status}\\n'"
    return host.sh(f"chroot {host.debian} {show}")


def test_the_command_of_a_failed_item_goes_into_the_root(host: PrivateHost, inventory: Path) -> None:
    place = host.debian / "usr/local/lib"
    host.sh(f"mount -t tmpfs -o ro tmpfs {place}")
    item = "bubblewrap.directory.helpers"
    fix = host.prep("host", "--inventory", inventory, "--item", item, "--yes").items[item]["fix"]
    assert fix.startswith(
        f"pyinfra -y --limit @chroot/{host.debian} {inventory} exec -- 'umask 022 && mkdir "
    )
    host.sh(
        f"mount -o remount,rw {place}\n{Path(host.program).with_name('pyinfra')}{fix.removeprefix('pyinfra')}"
    )
    assert host.seen(place / "mxc-ops/helpers").is_dir()
    assert not host.seen("/usr/local/lib/mxc-ops").exists()


def test_from_nothing_to_ready_and_back_to_the_last_file(host: PrivateHost, inventory: Path) -> None:
    root = host.seen(host.debian)
    files, installed = listing(root), packages(host)

    planned = host.prep("host", "--inventory", inventory)
    assert (planned.exit_code, planned.host["name"]) == (3, f"@chroot/{host.debian}"), planned
    wanted = {name for name, state in planned.states.items() if state == "would change"}
    assert {"bubblewrap.package.compiler", LAUNCHER} < wanted
    assert listing(root) == files

    made = host.prep("host", "--inventory", inventory, "--yes")
    assert (made.exit_code, made.host["state"]) == (0, "ready"), made
    assert {name for name, state in made.states.items() if state == "changed"} == wanted
    launcher = host.sh(f"chroot {host.debian} sh -c '/usr/local/lib/mxc-ops/helpers/*/launcher --version'")
    assert launcher.strip() == source_key(PROGRAMS["launcher"])

    again = host.prep("host", "--inventory", inventory, "--yes")
    assert (again.exit_code, set(again.states.values())) == (0, {"as wanted"}), again
    verified = host.prep("verify", "--inventory", inventory)
    assert (verified.exit_code, verified.states) == (0, dict.fromkeys(wanted, "as recorded")), verified

    undone = host.prep("undo", "--inventory", inventory, "--yes")
    assert (undone.exit_code, undone.host["state"]) == (0, "undone"), undone
    assert packages(host) == installed
    assert listing(root) == files


# --- the controller's launcher instead of a compiler


def own_program(host: PrivateHost, name: str = "LAUNCHER") -> Path:
    """One of the controller's programs, built where a prepared controller has it."""
    build = f"from backends.inside import build, store; print(build.build_program(store.{name}))"
    return Path(host.sh(f"{sys.executable} -c '{build}'").strip())


def test_a_launcher_is_brought_where_there_is_no_compiler(host: PrivateHost, inventory: Path) -> None:
    ours = [own_program(host, name) for name in ("LAUNCHER", "AGENT")]
    root = host.seen(host.debian)
    files, installed = listing(root), packages(host)
    push = ("host", "--inventory", inventory, "--launcher", "push", "--feature", "sessions", "--yes")
    made = host.prep(*push)
    assert (made.exit_code, made.states[LAUNCHER], made.states[AGENT]) == (0, "changed", "changed"), made
    assert "bubblewrap.package.compiler" not in made.items
    added = {line.split()[0] for line in packages(host).splitlines()} - {
        line.split()[0] for line in installed.splitlines()
    }
    assert "bubblewrap" in added
    assert not added & {"gcc", "gcc-12", "cpp", "musl-tools", "binutils"}
    for program in ours:
        theirs = root / str(program)[1:]
        assert theirs.read_bytes() == host.seen(program).read_bytes()
        assert (theirs.stat().st_uid, theirs.stat().st_mode & 0o777) == (0, 0o755)
    assert list((root / "tmp").iterdir()) == []
    assert set(host.prep(*push).states.values()) == {"as wanted"}
    assert host.prep("undo", "--inventory", inventory, "--yes").exit_code == 0
    assert listing(root) == files


def test_a_launcher_that_is_not_the_one_that_was_planned_with_is_not_installed(
    host: PrivateHost, inventory: Path
) -> None:
    ours = own_program(host)
    root = host.seen(host.debian)
    files = listing(root)
    done = subprocess.run(
        host.inside([sys.executable, "-c", CORRUPTED, inventory]), capture_output=True, text=True, timeout=60
    )
    (told,) = json.loads(done.stdout)["hosts"]
    states = {item["identifier"]: item for item in told["items"]}
    assert (done.returncode, states[LAUNCHER]["state"]) == (1, "failed"), done.stdout + done.stderr
    assert "did NOT match" in states[LAUNCHER]["message"]
    assert states["bubblewrap.ids.workloads"]["state"] == "would change"
    store = root / str(ours.parent.parent)[1:]
    assert list(store.iterdir()) == []
    assert list((root / "tmp").iterdir()) == []

    assert host.prep("verify", "--inventory", inventory).states[LAUNCHER] == "unfinished"
    assert host.prep("undo", "--inventory", inventory, "--yes").exit_code == 0
    assert listing(root) == files


def test_a_controller_without_a_launcher_says_how_it_gets_one(host: PrivateHost, inventory: Path) -> None:
    told: Reported = host.prep("host", "--inventory", inventory, "--launcher", "push")
    assert told.exit_code == 1
    assert told.host["problem"] == "this controller has no launcher"
    assert told.host["fix"] == "mxc-ops prep host --backend bubblewrap --yes"


def test_a_controller_without_an_agent_says_how_it_gets_one(host: PrivateHost, inventory: Path) -> None:
    own_program(host)
    push = ("host", "--inventory", inventory, "--launcher", "push", "--feature", "sessions")
    told: Reported = host.prep(*push)
    assert told.exit_code == 1
    assert told.host["problem"] == "this controller has no agent"
    assert told.host["fix"] == "mxc-ops prep host --backend bubblewrap --feature sessions --yes"
