"""Fixes are commands to be pasted where `mxc-ops` ran: they must get to the host that they are for.

A host that is reached by SSH is this machine; what a test changes there lies in memory of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.prep.loopback import USER, Sshd, missing

pytestmark = [pytest.mark.backend("bubblewrap"), pytest.mark.skipif(bool(missing()), reason=missing())]

MXC_OPS = str(Path(sys.executable).with_name("mxc-ops"))
DIRECTORY = "bubblewrap.directory.helpers"
NOTHING_PREPARED = "mount -t tmpfs tmpfs /var/lib; mount -t tmpfs tmpfs /usr/local/lib"
# What root's runs log belongs below /var/log, where it would get among this host's own.
_OWN_LOGS = 'mount --bind "$1" /var/log; shift; exec "$@"'


def inventory(folder: Path, host: str, data: dict[str, Any]) -> Path:
    path = folder / "fleet.py"
    path.write_text(f"hosts = {[(host, data)]!r}\n")
    return path


def report(folder: Path, *arguments: str | Path, stdin: str = "") -> dict[str, Any]:
    """What a command with ``--json`` says of its one host."""
    (folder / "log").mkdir(exist_ok=True)
    command = [MXC_OPS, *map(str, arguments), "--json"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", _OWN_LOGS, "sh", str(folder / "log"), *command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,  # so that passwords are not asked for on somebody's terminal
        env={**os.environ, "TERM": "dumb"},
    )
    assert done.stdout, done.stderr
    text = done.stdout if arguments[0] == "doctor" else done.stdout.splitlines()[-1]
    (host,) = json.loads(text)["hosts"]
    return host


def test_whoever_was_asked_for_a_password_of_ssh_is_asked_by_the_fix_too(tmp_path: Path) -> None:
    secret = "correct-horse"
    with Sshd(NOTHING_PREPARED) as server:
        path = inventory(tmp_path, "one", server.data(USER))
        asking = ["--inventory", path, "--ask-ssh-password"]
        refused = report(tmp_path, "prep", "host", *asking, "--item", DIRECTORY, stdin=f"{secret}\n")
        examined = report(tmp_path, "doctor", *asking, stdin=f"{secret}\n")
    assert refused["fix"] == (
        f"mxc-ops prep host --item {DIRECTORY} --inventory {path} --limit one"
        " --ask-sudo-password --ask-ssh-password --yes"
    )
    fixes = [probe["fix"] for probe in examined["probes"] if "mxc-ops prep host" in probe["fix"]]
    flags = f"mxc-ops prep host --inventory {path} --limit one --ask-sudo-password --ask-ssh-password"
    assert fixes
    assert [fix for fix in fixes if flags not in fix] == []
    assert secret not in repr((refused, examined))


# A sudo that only says so: what it is asked to run keeps the rights of whoever asks.
SUDO_IN_NAME = r"""
mkdir /run/bin
cat > /run/bin/sudo <<'END'
#!/bin/sh
while test "${1#-}" != "$1"; do shift; done
exec "$@"
END
chmod 755 /run/bin/sudo
mount --bind /run/bin /usr/local/bin
chown ops /usr/local/lib /var/lib
"""
READ_ONLY = "mount -o remount,ro /usr/local/lib"
WRITABLE = "mount -o remount,rw /usr/local/lib"


def pasted(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("user", "setup", "rights"), [("root", "", ""), (USER, SUDO_IN_NAME, "--sudo ")])
@pytest.mark.parametrize("name", ["one", "@ssh/one"])
def test_the_command_of_a_failed_item_goes_to_its_host(
    tmp_path: Path, name: str, user: str, setup: str, rights: str
) -> None:
    with Sshd(f"{NOTHING_PREPARED}; {setup}\n{READ_ONLY}") as server:
        path = inventory(tmp_path, name, server.data(user))
        told = report(tmp_path, "prep", "host", "--inventory", path, "--item", DIRECTORY, "--yes")
        (failed,) = told["items"]
        assert failed["state"] == "failed", told
        assert failed["fix"].startswith(
            f"pyinfra -y {rights}--limit {name} {path} exec -- 'umask 022 && mkdir "
        )
        assert "Read-only file system" in (again := pasted(failed["fix"])).stdout + again.stderr, again
        subprocess.run(server.inside(["sh", "-c", WRITABLE]), check=True)
        assert pasted(failed["fix"]).returncode == 0
        assert server.names_in("/usr/local/lib/mxc-ops") == ["helpers"]
