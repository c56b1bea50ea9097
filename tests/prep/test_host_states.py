"""What `mxc-ops prep` says of a host that cannot simply be made ready, and how it says it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, User
from tests.prep.private_host import PrivateHost, missing

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
RECEIPTS = "/var/lib/mxc-ops/receipts"
IDS = "bubblewrap.ids.workloads"
QUICK = ("--item", "bubblewrap.ids.workloads", "--item", "bubblewrap.directory.helpers")
ESCAPE = "\x1b"


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    with PrivateHost() as made:
        yield made


def test_a_restart_that_is_needed_is_told_and_never_made(host: PrivateHost) -> None:
    host.sh("touch /run/reboot-required; printf 'linux-image\\nlibc6\\nlibc6\\n' > /run/reboot-required.pkgs")
    made = host.prep("host", *QUICK, "--yes")
    assert (made.exit_code, made.host["state"]) == (6, "needs a restart"), made
    assert made.host["restart"] == "asked for by libc6, linux-image"
    assert set(made.states.values()) == {"changed"}
    assert not host.seen("/run/restarted").exists()


def test_undo_asks_for_no_restart_that_others_need(host: PrivateHost) -> None:
    assert host.prep("host", *QUICK, "--yes").exit_code == 0
    host.sh("touch /run/reboot-required")
    undone = host.prep("undo", "--yes")
    assert (undone.exit_code, undone.host["state"], undone.host["restart"]) == (0, "undone", ""), undone


def test_a_command_that_says_what_sudo_asks_fails_and_nobody_is_asked(host: PrivateHost) -> None:
    host.sh("printf '#!/bin/sh\\necho sudo: a password is required >&2\\nexit 1\\n' > /usr/bin/apt-get")
    made = host.prep("host", "--item", "bubblewrap.package.bwrap", "--yes")
    assert (made.exit_code, made.states) == (1, {"bubblewrap.package.bwrap": "failed"}), made
    assert "sudo: a password is required" in made.items["bubblewrap.package.bwrap"]["message"]


def test_an_unknown_distribution_is_not_supported_and_told_what_to_install(host: PrivateHost) -> None:
    before = host.differences()
    host.sh("mount -t tmpfs tmpfs /mnt; echo 'ID=nixos\nPRETTY_NAME=\"NixOS 24\"' > /mnt/release")
    host.sh("mount --bind /mnt/release /usr/lib/os-release")
    told = host.prep("host", "--yes")
    assert (told.exit_code, told.host["state"], told.items) == (5, "unsupported", {}), told
    assert told.host["problem"] == "mxc-ops cannot install packages on NixOS 24"
    assert told.host["fix"].startswith("install by hand what Debian calls bubblewrap gcc")
    host.sh("umount /usr/lib/os-release")
    assert host.differences() == before


def test_a_user_without_root_is_told_what_needs_it(host: PrivateHost, as_user: User) -> None:
    site = next(path for path in sys.path if path.endswith("site-packages"))
    host.sh(f"mount --bind {site} {as_user.tree}/site-packages")
    before = host.differences()
    rights = ["--reuid", str(as_user.uid), "--regid", str(as_user.gid), "--clear-groups"]
    program = as_user.tree / "bin/mxc-ops"
    done = subprocess.run(
        host.inside(["setpriv", *rights, program, "prep", "host", "--yes", "--json"]),
        capture_output=True,
        text=True,
        env={**as_user.environment, "PYTHONPATH": f"{as_user.tree}:{as_user.tree}/site-packages"},
        timeout=60,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    (told,) = report["hosts"]
    assert (done.returncode, told["state"]) == (4, "needs privilege"), done.stderr
    assert IDS in told["problem"]
    assert told["fix"].startswith("sudo ")
    assert told["fix"].endswith("mxc-ops prep host --yes")
    assert host.differences() == before


# Empty, cut off, no text, of a later version.
UNREADABLE = (
    b"",
    b'{"schemaVersion": 1, "item": "bubble',
    b"\xff\xfe\x00binary\n\r",
    b'{"schemaVersion": 99}',
)


def test_a_record_that_cannot_be_understood_stops_everything_and_stays(host: PrivateHost) -> None:
    assert host.prep("host", *QUICK, "--yes").exit_code == 0
    whole = host.receipts()[IDS]
    strange = {**whole, "operation": "ids.divined"}
    path = f"{RECEIPTS}/{IDS}.json"
    for content in [*UNREADABLE, json.dumps(strange).encode()]:
        host.seen(path).write_bytes(content)
        made = host.prep("host", *QUICK, "--item", "bubblewrap.package.bwrap", "--yes")
        assert (made.exit_code, made.states[IDS]) == (1, "refused"), made
        assert made.states["bubblewrap.package.bwrap"] == "would change"
        assert path in made.items[IDS]["message"]
        assert made.items[IDS]["fix"].startswith("look at it, then: rm ")
        assert made.items[IDS]["fix"].endswith(path)
        assert host.seen(path).read_bytes() == content
    before = host.differences()
    verified = host.prep("verify")
    assert (verified.exit_code, verified.states[IDS]) == (7, "unknown"), verified
    undone = host.prep("undo", "--yes")
    assert undone.exit_code == 1
    assert undone.states == {"bubblewrap.directory.helpers": "would undo", IDS: "refused"}
    assert host.differences() == before


def test_ids_that_somebody_has_stop_everything_before_anything_is_changed(host: PrivateHost) -> None:
    host.sh("echo eve:1900000000:65536 >> /etc/subuid")
    before = host.differences()
    told = host.prep("host", "--yes")
    assert (told.exit_code, told.host["state"], told.states[IDS]) == (1, "failed", "refused"), told
    assert told.items[IDS]["message"] == "/etc/subuid gives eve 1900000000 to 1900065535"
    assert told.items[IDS]["fix"]
    assert told.states["bubblewrap.helper.launcher"] == "would change"
    assert host.differences() == before


def test_an_item_that_fails_is_told_with_its_command_and_the_rest_is_not_tried(host: PrivateHost) -> None:
    host.sh("mount -t tmpfs -o ro tmpfs /usr/local/lib")
    told = host.prep("host", *QUICK, "--yes")
    failed = told.items["bubblewrap.directory.helpers"]
    assert (told.exit_code, failed["state"]) == (1, "failed"), told
    assert "Read-only file system" in failed["message"]
    assert failed["fix"].startswith("sh -c 'umask 022 && mkdir -p ")
    assert told.states[IDS] == "would change"
    assert set(host.receipts()) == {"bubblewrap.directory.helpers"}
    assert host.prep("verify").states == {"bubblewrap.directory.helpers": "unfinished"}
    host.sh("umount /usr/local/lib")
    assert host.prep("host", *QUICK, "--yes").exit_code == 0
    assert host.prep("verify").exit_code == 0


def test_what_others_install_after_an_installation_that_failed_stays_theirs(host: PrivateHost) -> None:
    bwrap = ("--item", "bubblewrap.package.bwrap", "--yes")
    before = host.packages()
    host.sh("mount -t tmpfs tmpfs /run/packages")
    assert host.prep("host", *bwrap).states == {"bubblewrap.package.bwrap": "failed"}
    assert host.receipts()["bubblewrap.package.bwrap"]["state"] == "failed"
    assert host.prep("undo", "--yes").exit_code == 0
    assert host.receipts() == {}

    assert host.prep("host", *bwrap).exit_code == 1
    host.sh(
        "umount /run/packages; apt-get -q update; apt-get -q -y --no-install-recommends install musl-tools"
    )
    theirs = host.packages()
    assert theirs != before
    assert host.prep("host", *bwrap).exit_code == 0
    assert host.prep("undo", "--yes").exit_code == 0
    assert host.packages() == theirs


def test_what_others_install_while_we_do_is_not_taken_away_with_ours(host: PrivateHost) -> None:
    """Between the list of what is there and our turn: apt waits for the lock that another one holds."""
    hook = "/etc/apt/apt.conf.d/meanwhile"
    install = "apt-get -q -y --no-install-recommends install musl-tools"
    host.sh(f"apt-get -q update; echo 'APT::Update::Pre-Invoke {{\"{install} >&2\";}};' > {hook}")
    assert host.prep("host", "--item", "bubblewrap.package.bwrap", "--yes").exit_code == 0
    host.sh(f"rm {hook}")
    both = host.packages()
    assert "\nbubblewrap " in both and "\nmusl-tools " in both
    undone = host.prep("undo", "--yes")
    item = undone.items["bubblewrap.package.bwrap"]
    assert (undone.exit_code, item["state"]) == (1, "refused"), undone
    assert "asked for by somebody else: musl-tools" in str(item)
    assert host.packages() == both


# A module that brings settings along that are wrong.
_NOBODY_MAY_PING = """
mkdir -p /usr/lib/modules/$(uname -r)
echo 'kernel/net/netfilter/nf_conntrack.ko:' > /usr/lib/modules/$(uname -r)/modules.dep
mount -t tmpfs tmpfs /proc/sys/net
mount -t tmpfs tmpfs /sys/module
: > /usr/lib/modules/$(uname -r)/modules.builtin
: > /run/none
test ! -e /proc/modules || mount --bind /run/none /proc/modules
cat > /usr/sbin/modprobe <<'END'
#!/bin/sh
mkdir -p /proc/sys/net/ipv4 /sys/module/nf_conntrack
printf '1\t0\n' > /proc/sys/net/ipv4/ping_group_range
END
chmod 755 /usr/sbin/modprobe
"""


def test_what_an_earlier_change_brings_along_is_made_right_in_the_same_run(host: PrivateHost) -> None:
    host.sh(_NOBODY_MAY_PING)
    wanted = (
        "--backend",
        "lxc",
        "--feature",
        "network",
        "--item",
        "lxc.network.module.*",
        "--item",
        "lxc.network.sysctl.ping-*",
    )
    planned = host.prep("host", *wanted)
    assert set(planned.states.values()) == {"would change", "as wanted"}
    made = host.prep("host", *wanted, "--yes")
    assert (made.exit_code, set(made.states.values())) == (0, {"changed"}), made
    assert host.sh("cat /proc/sys/net/ipv4/ping_group_range") == "0 2147483647\n"
    late = made.items["lxc.network.sysctl.ping-groups"]
    assert (late["before"], len(late["files"])) == ("1 0", 1)
    again = host.prep("host", *wanted, "--yes")
    assert set(again.states.values()) == {"as wanted"}, again


def test_a_host_that_cannot_keep_records_is_not_changed(host: PrivateHost) -> None:
    host.sh("mkdir /var/lib/mxc-ops; mount -t tmpfs -o ro tmpfs /var/lib/mxc-ops")
    told = host.prep("host", *QUICK, "--yes")
    assert told.exit_code == 1
    assert "Read-only file system" in told.host["problem"]
    assert not host.seen("/etc/mxc-ops").exists()


def test_nothing_is_imported_from_the_directory_that_one_happens_to_be_in(
    host: PrivateHost, tmp_path: Path
) -> None:
    for name in ("gevent", "pathlib", "json", "pyinfra"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from here')")
    program = f"import sys; sys.path[0] = {str(CHECKOUT)!r}; from mxc_ops.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "prep", "host", *QUICK, "--yes"]
    done = subprocess.run(
        host.inside(["sh", "-c", 'cd "$0" && exec "$@"', tmp_path, *command]),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- how it is said


def test_a_plan_says_what_is_and_what_would_be_and_a_report_what_came_of_it(host: PrivateHost) -> None:
    planned = host.run("prep", "host", *QUICK).stdout.splitlines()
    (row,) = [line for line in planned if line.startswith(IDS)]
    assert row.split(None, 1)[1].startswith("would change  none recorded")
    assert row.endswith("ids 1900000000 to 1900004095")
    assert not any(line.startswith("---") for line in planned)
    done = host.run("prep", "host", *QUICK, "--yes").stdout.splitlines()
    assert [line.split() for line in done if line.startswith(IDS)] == [[IDS, "changed"]]


def test_on_a_pipe_it_says_what_would_change_in_plain_lines(host: PrivateHost) -> None:
    done = host.run("prep", "host", "--diff", env={"TERM": "xterm-256color", "COLORTERM": "truecolor"})
    assert (done.returncode, done.stderr) == (3, "")
    assert ESCAPE not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("@local (") and lines[0].endswith(": changes pending")
    (row,) = [line for line in lines if line.startswith(IDS)]
    assert row.split(None, 1)[1].startswith("would change  none recorded")
    start = lines.index("--- /dev/null")
    assert lines[start + 1 : start + 4] == ["+++ /etc/mxc-ops/host.json", "@@ -0,0 +1,7 @@", "+{"]


def test_a_changed_file_is_shown_as_a_unified_difference(host: PrivateHost) -> None:
    host.sh('mkdir /etc/mxc-ops; echo \'{"site": "north"}\' > /etc/mxc-ops/host.json')
    done = host.run("prep", "host", "--diff", "--item", IDS)
    lines = done.stdout.splitlines()
    start = lines.index("--- /etc/mxc-ops/host.json")
    assert lines[start + 1] == "+++ /etc/mxc-ops/host.json"
    assert '-{"site": "north"}' in lines
    assert '+  "site": "north",' in lines


def test_json_is_one_object_a_line_and_the_last_is_the_report(host: PrivateHost) -> None:
    made = host.prep("host", *QUICK, "--yes")
    kinds = [event["event"] for event in made.events]
    assert kinds[0] == "hosts"
    assert kinds[-1] == "report"
    assert kinds.count("report") == 1
    for item in made.items:
        told = [event["event"] for event in made.events if event.get("item") == item]
        assert told == ["started", "changed", "checked"]
    assert made.report["exitCode"] == made.exit_code == 0
    assert made.report["schemaVersion"]


@pytest.mark.parametrize(("answer", "code"), [("n", 3), ("", 3), ("yes", 0)])
def test_on_a_terminal_it_asks_first(host: PrivateHost, answer: str, code: int) -> None:
    seen, exit_code = _on_a_terminal(host, answer, "prep", "host", *QUICK)
    assert exit_code == code, seen
    assert "would change" in seen
    assert host.seen("/etc/mxc-ops/host.json").exists() == (code == 0)


_SILENCE_S = 60


def _on_a_terminal(host: PrivateHost, answer: str, *arguments: str) -> tuple[str, int]:
    """What a terminal shows when the question is answered so, and the exit code."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        host.inside([host.program, *arguments]),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = ""
    while select.select([ours], [], [], _SILENCE_S)[0]:
        try:
            part = os.read(ours, 65536).decode()
        except OSError:  # EIO: the last writer is gone (pty(7))
            break
        if "[y/N]" not in seen and "[y/N]" in seen + part:
            os.write(ours, f"{answer}\n".encode())
        seen += part
    os.close(ours)
    try:
        return seen, child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        pytest.fail(f"nothing more was said after: {seen}")
