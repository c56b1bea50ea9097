"""Hosts that are reached by SSH, or not: what is told of them, and that the others go on meanwhile."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import wait_until
from tests.prep.hiding import HIDE
from tests.prep.loopback import Sshd, missing

pytestmark = [pytest.mark.backend("bubblewrap"), pytest.mark.skipif(bool(missing()), reason=missing())]

MXC_OPS = str(Path(sys.executable).with_name("mxc-ops"))
_DEADLINE_S = 120
# What is written there stays there, and nothing of what this machine records of itself is seen.
UNPREPARED = rf"""
{HIDE}
mkdir -p /run/own/etc.upper /run/own/usr.upper /run/own/var.upper
hide /etc /run/own/etc.upper mxc-ops
hide /usr /run/own/usr.upper local/lib/mxc-ops
hide /var /run/own/var.upper lib/mxc-ops
for tree in etc usr var; do
    mkdir -p /run/own/$tree.work
    over="upperdir=/run/own/$tree.upper,workdir=/run/own/$tree.work"
    mount -t overlay -o "lowerdir=/$tree,$over" overlay /$tree
done
for name in passwd shadow; do mount --bind /run/$name /etc/$name; done
"""
# What root's runs log belongs below /var/log, where it would get among this host's own.
OWN_LOGS = 'mount --bind "$1" /var/log; shift; exec "$@"'
ITEM = "bubblewrap.directory.helpers"
# sudo gives root's rights for one harmless command.
STINGY_SUDO = r"""
mkdir /run/bin
cat > /run/bin/sudo <<'END'
#!/bin/sh
test "$*" = "-n true" && exit
echo "Sorry, user ops is not allowed to execute that as root" >&2
exit 1
END
chmod 755 /run/bin/sudo
mount --bind /run/bin /usr/local/bin
"""
# The first command, or the first upload, stops whoever serves the connection.
SILENT_AT_COMMANDS = """echo 'ForceCommand kill -STOP $PPID' >> "$1"\n"""
SILENT_AT_UPLOADS = """sed -i 's/^Subsystem .*/Subsystem sftp kill -STOP $PPID/' "$1"\n"""


@pytest.fixture(scope="module")
def host() -> Iterator[Sshd]:
    with Sshd(UNPREPARED) as running:
        yield running


def inventory(folder: Path, hosts: Mapping[str, dict[str, Any]]) -> Path:
    path = folder / "inventory.py"
    path.write_text(f"hosts = {list(hosts.items())!r}\n")
    return path


def logging_to(folder: Path) -> list[str]:
    """To be put before a command."""
    logs = folder / "log"
    logs.mkdir(exist_ok=True)
    return ["unshare", "--mount", "sh", "-euc", OWN_LOGS, "sh", str(logs)]


def verified(folder: Path, hosts: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What ``prep verify`` reports of each host; it changes nothing there."""
    report = json.loads(printed(folder, hosts, "prep", "verify").splitlines()[-1])
    return {host["name"]: host for host in report["hosts"]}


def printed(folder: Path, hosts: Mapping[str, dict[str, Any]], *command: str) -> str:
    """What a command with ``--json`` prints about these hosts."""
    done = subprocess.run(
        [*logging_to(folder), MXC_OPS, *command, "--inventory", str(inventory(folder, hosts)), "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
    )
    assert done.stdout, done.stderr
    return done.stdout


def behind(jump: Sshd, host: Sshd, folder: Path) -> dict[str, Any]:
    """The host's data, when it is reached through another; only its own key is known."""
    config = folder / "ssh_config"
    config.write_text(
        f"Host jump\n HostName 127.0.0.1\n Port {jump.port}\n User root\n"
        f" IdentityFile {jump.data()['ssh_key']}\n"
        f"Host behind\n HostName 127.0.0.1\n ProxyJump jump\n"
    )
    known = folder / "known_hosts"
    known.write_text(Path(host.data()["ssh_known_hosts_file"]).read_text())
    return host.data(ssh_hostname="behind", ssh_config_file=str(config), ssh_known_hosts_file=str(known))


def test_a_jump_host_is_checked_as_the_host_behind_it(host: Sshd, tmp_path: Path) -> None:
    with Sshd() as jump:
        data = behind(jump, host, tmp_path)
        told = verified(tmp_path, {"behind": data, "near": host.data()})
        known = Path(data["ssh_known_hosts_file"])
        assert told["near"]["state"] == "as recorded"
        assert told["behind"]["state"] == "unreachable"
        missing_key = (
            f"the key of jump host [127.0.0.1]:{jump.port} is not known: it does not stand in {known}"
        )
        assert missing_key in told["behind"]["problem"]
        with known.open("a") as file:
            file.write(Path(jump.data()["ssh_known_hosts_file"]).read_text())
        assert verified(tmp_path, {"behind": data})["behind"]["state"] == "as recorded"


def test_an_inventory_that_wants_to_be_asked_about_keys_is_told_what_is_missing(
    host: Sshd, tmp_path: Path
) -> None:
    nowhere = tmp_path / "known_hosts"
    nowhere.touch()
    unknown = host.data(ssh_known_hosts_file=str(nowhere), ssh_strict_host_key_checking="ask")
    told = verified(tmp_path, {"unknown": unknown, "near": host.data()})
    assert (told["unknown"]["state"], told["near"]["state"]) == ("unreachable", "as recorded")
    assert f"is not known: it does not stand in {nowhere}" in told["unknown"]["problem"]


def mended(fix: str) -> None:
    """Do what the fix says after its last colon, as a person would paste it."""
    command = fix.rpartition(": ")[2]
    subprocess.run(["sh", "-euc", command], check=True, capture_output=True, timeout=_DEADLINE_S)


def test_an_unknown_key_is_known_after_what_the_fix_says(host: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known hosts"
    data = {"one": host.data(ssh_known_hosts_file=str(known))}
    told = verified(tmp_path, data)["one"]
    assert told["state"] == "unreachable"
    assert told["problem"] == (
        f"the key of [127.0.0.1]:{host.port} is not known: it does not stand in {known}"
    )
    mended(told["fix"])
    assert verified(tmp_path, data)["one"]["state"] == "as recorded"


def test_a_changed_key_may_be_an_attack_and_is_forgotten_first(host: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    with Sshd() as other:
        key = Path(other.data()["ssh_known_hosts_file"]).read_text().partition(" ")[2]
    known.write_text(f"[127.0.0.1]:{host.port} {key}")
    data = {"one": host.data(ssh_known_hosts_file=str(known))}
    told = verified(tmp_path, data)["one"]
    assert told["state"] == "unreachable"
    assert "has changed" in told["problem"]
    assert "may be an attack" in told["problem"]
    mended(told["fix"])
    assert verified(tmp_path, data)["one"]["state"] == "as recorded"


def test_a_changed_key_of_a_jump_host_is_told_as_the_jump_hosts(host: Sshd, tmp_path: Path) -> None:
    with Sshd() as jump:
        data = behind(jump, host, tmp_path)
        known = Path(data["ssh_known_hosts_file"])
        key = known.read_text().partition(" ")[2]
        known.write_text(f"[127.0.0.1]:{jump.port} {key}{known.read_text()}")
        told = verified(tmp_path, {"behind": data})["behind"]
        assert told["state"] == "unreachable"
        assert told["problem"].startswith(f"the key of jump host [127.0.0.1]:{jump.port} has changed")
        mended(told["fix"])
        assert verified(tmp_path, {"behind": data})["behind"]["state"] == "as recorded"


def test_a_key_behind_a_jump_host_is_fetched_through_it(host: Sshd, tmp_path: Path) -> None:
    with Sshd() as jump:
        data = behind(jump, host, tmp_path)
        Path(data["ssh_known_hosts_file"]).write_text(Path(jump.data()["ssh_known_hosts_file"]).read_text())
        told = verified(tmp_path, {"behind": data})["behind"]
    assert told["problem"].startswith(f"the key of [127.0.0.1]:{host.port} is not known")
    assert told["fix"] == (
        "check the host's key, then add it: ssh -o StrictHostKeyChecking=ask"
        f" -p {host.port} -l root -i {data['ssh_key']} -F {data['ssh_config_file']}"
        f" -o UserKnownHostsFile={data['ssh_known_hosts_file']} behind true"
    )


def test_a_host_that_refuses_us_is_tried_by_hand_as_the_inventory_says(host: Sshd, tmp_path: Path) -> None:
    data = host.data("nobody-here")
    told = verified(tmp_path, {"one": data})["one"]
    assert told["state"] == "unreachable"
    assert told["fix"] == (
        f"see whether it can be reached from here: ssh -p {host.port} -l nobody-here -i {data['ssh_key']}"
        f" -o UserKnownHostsFile={data['ssh_known_hosts_file']} 127.0.0.1 true"
    )


def impatient(folder: Path) -> dict[str, str]:
    """Data of hosts that are asked every second whether they are still there."""
    config = folder / "ssh_config"
    config.write_text("Host *\n ServerAliveInterval 1\n")
    return {"ssh_config_file": str(config)}


def test_a_host_that_logs_us_in_and_falls_silent_holds_up_nobody(host: Sshd, tmp_path: Path) -> None:
    with Sshd(SILENT_AT_COMMANDS) as silent:
        told = verified(tmp_path, {"silent": silent.data(**impatient(tmp_path)), "near": host.data()})
    assert (told["silent"]["state"], told["near"]["state"]) == ("unreachable", "as recorded")
    assert told["silent"]["problem"] == "it has fallen silent: it does not answer any more"


def test_a_host_that_falls_silent_when_something_is_brought_there_is_given_up(tmp_path: Path) -> None:
    with Sshd(SILENT_AT_UPLOADS) as silent:
        told = printed(tmp_path, {"silent": silent.data(**impatient(tmp_path))}, "doctor")
    (found,) = json.loads(told)["hosts"]
    assert (found["state"], found["problem"]) == (
        "unreachable",
        "it has fallen silent: it does not answer any more",
    )


def prepared(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """What is reported of the preparation of one host with one item."""
    told = printed(folder, {"one": data}, "prep", "host", "--item", ITEM, "--yes")
    (host,) = json.loads(told.splitlines()[-1])["hosts"]
    return host


def test_a_host_that_cannot_be_locked_has_failed_and_says_why(tmp_path: Path) -> None:
    read_only = "mkdir -p /var/lib/mxc-ops; mount -t tmpfs -o ro tmpfs /var/lib/mxc-ops\n"
    with Sshd(f"{UNPREPARED}{read_only}") as host:
        told = prepared(tmp_path, host.data())
    assert (told["state"], told["exitCode"]) == ("failed", 1)
    assert "Read-only file system" in told["problem"]
    assert told["fix"] == "mend what the message says, then the same command again"


def test_a_sudo_that_refuses_what_is_needed_is_a_failure_of_the_host(tmp_path: Path) -> None:
    with Sshd(f"{UNPREPARED}{STINGY_SUDO}") as host:
        told = prepared(tmp_path, host.data("ops"))
    assert (told["state"], told["problem"]) == (
        "failed",
        "Sorry, user ops is not allowed to execute that as root",
    )


def test_a_connection_that_is_lost_before_the_answer_is_told_as_such(tmp_path: Path) -> None:
    with Sshd(UNPREPARED) as host:
        path = inventory(tmp_path, {"one": host.data()})
        command = [MXC_OPS, "prep", "host", "--inventory", str(path), "--item", ITEM]
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            [*logging_to(tmp_path), *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "160"},
            start_new_session=True,
        )
        os.close(theirs)
        with FileIO(ours, "r+") as terminal:
            seen = b""
            while b"[y/N]" not in seen:
                seen += terminal.read(1000)
            host.close()
            wait_until(lambda: not connections(host.port), "the loss is not noticed")
            terminal.write(b"y\n")
            told = rest(terminal)
        assert child.wait(timeout=_DEADLINE_S) == 1, told
    assert ": unreachable" in told
    assert "please report this" not in told
    assert f"ssh -p {host.port} -l root" in told


# The change begins, and ends only long after the connection.
SLOW_CHMOD = r"""
mkdir /run/bin
cat > /run/bin/chmod <<'END'
#!/bin/sh
case $* in */mxc-ops/*) touch /run/begun; sleep 5 ;; esac
exec /bin/chmod "$@"
END
/bin/chmod 755 /run/bin/chmod
mount --bind /run/bin /usr/local/bin
"""


def test_a_connection_that_is_lost_during_a_change_is_the_hosts_trouble_and_not_the_items(
    tmp_path: Path,
) -> None:
    with Sshd(f"{UNPREPARED}{SLOW_CHMOD}") as host:
        path = inventory(tmp_path, {"one": host.data()})
        command = [MXC_OPS, "prep", "host", "--inventory", str(path), "--item", ITEM, "--yes", "--json"]
        with subprocess.Popen([*logging_to(tmp_path), *command], stdout=subprocess.PIPE, text=True) as child:
            wait_until(lambda: "begun" in host.names_in("/run"), "the change does not begin")
            host.hang_up()
            told = child.communicate(timeout=_DEADLINE_S)[0]
        wait_until(lambda: "helpers" in host.names_in("/usr/local/lib/mxc-ops"), "it did not end there")
    report = json.loads(told.splitlines()[-1])
    (one,) = report["hosts"]
    assert (report["exitCode"], one["state"]) == (1, "unreachable"), told
    assert one["items"][0]["state"] == "would change"


def connections(port: int) -> list[str]:
    """Those to a port that somebody here has open still: established, or to be closed (proc_pid_net(5))."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return [row[1] for row in rows if row[2].endswith(f":{port:04X}") and row[3] in ("01", "08")]


def rest(terminal: FileIO) -> str:
    """What is still shown there until the last writer has gone."""
    shown = b""
    with suppress(OSError):  # EIO: it has (pty(7))
        while part := terminal.read(1000):
            shown += part
    return shown.decode()
