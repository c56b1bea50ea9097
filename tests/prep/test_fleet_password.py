"""A password for sudo, asked for on a terminal: it works on a real host, and is to be found nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.controller import Controller, Outcome
from tests.fleet.fleet import PASSWORD_SUDO, Fleet, Machine, missing
from tests.fleet.image import package_source
from tests.fleet.inventory import Group, write_inventory

pytestmark = [pytest.mark.backend("bubblewrap"), pytest.mark.skipif(bool(missing()), reason=missing())]

HOSTS = ["asking", "free"]
PROMPT = "password for sudo: "
# Reads the secret, then looks at every process until it is told to stop; counts what it has looked at.
WATCH = """
cat > /run/watch.py <<'END'
import pathlib, sys
secret = sys.stdin.readline().strip().encode()
seen, found = set(), set()
pathlib.Path("/run/watching").touch()
while not pathlib.Path("/run/enough").exists():
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                text = (process / name).read_bytes()
            except OSError:
                continue
            seen.add(text)
            if secret in text:
                found.add(f"{name}: {text.decode(errors='replace')}")
pathlib.Path("/run/seen").write_bytes(b"\\n".join(sorted(seen)))
pathlib.Path("/run/found").write_text("\\n".join(sorted(found)))
END
read -r secret
(umask 077; printf '%s\\n' "$secret" > /run/secret)
python3 /run/watch.py < /run/secret >/dev/null 2>&1 &
until test -e /run/watching; do sleep 0.01; done
rm /run/secret
"""
STOP_WATCHING = "touch /run/enough; until test -e /run/found; do sleep 0.01; done; cat /run/found"
# As a pattern in a file, so that grep's own command line does not have it.
SEARCH = "cat > /run/pattern; grep -rlF -f /run/pattern /etc /home /root /tmp /usr/local /var || true"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    machines = [Machine("asking", sudo=PASSWORD_SUDO), Machine("free")]
    with Fleet(machines, package_source(["bubblewrap"])) as running:
        yield running


@pytest.fixture(scope="module")
def controller(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    folder = tmp_path_factory.mktemp("controller")
    group = Group(HOSTS, {"mxc_backends": ["bubblewrap"], "mxc_launcher": "push"})
    return Controller(fleet, write_inventory(folder / "fleet.py", fleet, {"all_of_them": group}), folder)


def asked(controller: Controller, password: str, command: str, *options: str) -> tuple[Outcome, str]:
    """The outcome, and the command lines and environments of all that ran here."""
    running = controller.start(command, "--ask-sudo-password", *options)
    running.type(password, at=PROMPT)
    running.await_event("planned")
    processes = [running.child.pid, *running.workers()]
    texts = [Path(f"/proc/{pid}/{name}").read_text() for pid in processes for name in ("cmdline", "environ")]
    return running.end(), "".join(texts)


def test_it_works_and_stands_nowhere(fleet: Fleet, controller: Controller) -> None:
    secret = fleet.sudo_password
    fleet.inside("asking", WATCH, stdin=f"{secret}\n")
    outcome, here = asked(controller, secret, "host", "--yes")
    found = fleet.inside("asking", STOP_WATCHING)

    assert (outcome.states, outcome.exit_code) == (dict.fromkeys(HOSTS, "ready"), 0)
    assert "mxc_ops.prep.worker" in here
    assert secret not in here
    assert secret not in json.dumps(outcome.events) + outcome.errors
    seen = fleet.inside("asking", "tr '\\0' ' ' < /run/seen")
    assert "sudo -S" in seen
    assert found == ""
    assert fleet.inside("asking", SEARCH, stdin=f"{secret}\n") == ""
    logs = [path.read_text() for path in controller.logs.rglob("*.log")]
    assert any("Setting up bubblewrap" in log for log in logs)
    assert [log for log in logs if secret in log] == []


def test_undo_takes_it_too(fleet: Fleet, controller: Controller) -> None:
    prepared, _ = asked(controller, fleet.sudo_password, "host", "--yes")
    assert prepared.exit_code == 0
    without = controller.run("undo", "--yes", "--limit", "asking")
    assert (without.states, without.exit_code) == ({"asking": "needs privilege"}, 4)
    undone, _ = asked(controller, fleet.sudo_password, "undo", "--yes")
    assert (undone.states, undone.exit_code) == (dict.fromkeys(HOSTS, "undone"), 0)
    assert fleet.inside("asking", "ls -d /usr/bin/bwrap /var/lib/mxc-ops 2>/dev/null || true") == ""


def test_a_wrong_one_is_told_and_nothing_is_changed(fleet: Fleet, controller: Controller) -> None:
    fleet.renew("asking")
    outcome, _ = asked(controller, "not-the-password", "host", "--yes", "--limit", "asking")
    assert (outcome.states, outcome.exit_code) == ({"asking": "needs privilege"}, 4)
    assert outcome.hosts["asking"]["problem"].endswith("; sudo refuses the password")
    assert "not-the-password" not in json.dumps(outcome.events)
    assert fleet.inside("asking", "ls -d /usr/bin/bwrap /var/lib/mxc-ops 2>/dev/null || true") == ""
