"""Five hundred hosts that only answer: what they say was recorded from a real Debian."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.prep.private_host import PrivateHost, Reported, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
HOSTS = 500
MXC_OPS = Path(sys.executable).with_name("mxc-ops")
# What tells the first survey, of the host, from the second, of the items.
FIRST, SECOND = "os-release", "max_user_namespaces"
_RECORDING = """
mv /usr/sbin/chroot /usr/sbin/chroot.real
cat > /usr/sbin/chroot <<'END'
#!/bin/sh
printf %s "$*" > /run/said.$$
chroot.real "$@" | tee /run/heard.$$
END
chmod 755 /usr/sbin/chroot
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, list[str]]:
    """What a real host answers to each survey, by what tells the surveys apart."""
    with PrivateHost() as host:
        host.sh(_RECORDING)
        inventory = host.inventory("debian.py", f"machines = ['@chroot/{host.debian}']\n")
        assert host.prep("host", "--inventory", inventory).exit_code == 3
        found: dict[str, list[str]] = {}
        for said in host.seen("/run").glob("said.*"):
            heard = said.with_name(said.name.replace("said", "heard"))
            for mark in (FIRST, SECOND):
                if mark in said.read_text():
                    found[mark] = heard.read_text().splitlines()
    assert set(found) == {FIRST, SECOND}
    return found


def inventory(folder: Path, groups: Mapping[str, tuple[int, Mapping[str, object]]]) -> Path:
    """An inventory of so many hosts in each group, with what they answer."""
    lines: list[str] = []
    for group, (count, answers) in groups.items():
        data = {"fake_responses": dict(answers), "fake_delay": 0, "fake_delay_jitter": 0}
        names = [f"@fake/{group}-{number}" for number in range(count)]
        lines.append(f"{group} = ({names!r}, {data!r})\n")
    path = folder / "fleet.py"
    path.write_text("".join(lines))
    return path


def prep(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MXC_OPS, "prep", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TERM": "dumb"},
    )


def test_all_are_planned_and_summed_up_in_one_table(answers: Mapping[str, list[str]], tmp_path: Path) -> None:
    fleet = inventory(tmp_path, {"web": (HOSTS, answers)})
    done = prep("host", "--inventory", fleet)
    assert (done.returncode, done.stderr) == (3, "")
    *_, summary = done.stdout.split("\n\n")
    heading, *rows = summary.splitlines()
    assert heading.split() == ["host", "state", "changed", "as", "wanted", "wrong"]
    assert [row.split()[0] for row in rows] == [f"@fake/web-{number}" for number in range(HOSTS)]
    assert {" ".join(row.split()[1:3]) for row in rows} == {"changes pending"}


def test_each_host_is_told_as_it_is_and_failures_come_first(
    answers: Mapping[str, list[str]], tmp_path: Path
) -> None:
    other = [line.replace("ID=debian", "ID=nixos") for line in answers[FIRST]]
    fleet = inventory(
        tmp_path,
        {
            "web": (HOSTS - 20, answers),
            "refusing": (5, {"": {"success": False, "stderr": "this account is not available"}}),
            "nixos": (5, {**answers, FIRST: other}),
            "cut": (5, {**answers, SECOND: answers[SECOND][:-1]}),
            "mute": (5, {}),
        },
    )
    told = Reported(prep("host", "--inventory", fleet, "--json"))
    states = Counter((host["name"].split("-")[0], host["state"]) for host in told.report["hosts"])
    assert told.exit_code == 1
    assert states == {
        ("@fake/web", "changes pending"): HOSTS - 20,
        ("@fake/refusing", "failed"): 5,
        ("@fake/nixos", "unsupported"): 5,
        ("@fake/cut", "failed"): 5,
        ("@fake/mute", "failed"): 5,
    }
    problems = {host["name"].split("-")[0]: host["problem"] for host in told.report["hosts"]}
    assert problems["@fake/refusing"] == "this account is not available"
    assert "questions" in problems["@fake/cut"]
    assert Reported(prep("host", "--inventory", fleet, "--limit", "nixos", "--json")).exit_code == 5


def test_verify_of_hosts_without_records_finds_no_drift(
    answers: Mapping[str, list[str]], tmp_path: Path
) -> None:
    told = Reported(prep("verify", "--inventory", inventory(tmp_path, {"web": (HOSTS, answers)}), "--json"))
    assert told.exit_code == 0
    assert Counter(host["state"] for host in told.report["hosts"]) == {"as recorded": HOSTS}
    assert json.dumps(told.report).count("nothing is recorded here") == HOSTS
