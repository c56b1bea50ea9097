"""Typing into the caller's terminal (CVE-2017-5226, CVE-2019-10063; upstream-gaps.md P4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.security.callers import Caller, Told, bubblewrap_alone
from tests.security.upstream import upstream_argv

ATTEMPTS = ("tiocsti", "tiocsti-high", "tioclinux", "tioclinux-high")
OURS = """
import sys
from mxc_ops import Policy, run
containment, tty, folder, *command = sys.argv[1:]
policy = Policy(containment=containment, read_only=[folder], tty=tty == "tty", timeout_s=20)
run(policy, command, stdin=0, stdout=1, stderr=2)
"""


def _on_our_terminal(caller: Caller, probe: Path, tty: str, *attempts: str) -> Told:
    return caller.on_terminal(
        [caller.python, "-c", OURS, caller.containment, tty, probe.parent, probe, *attempts]
    )


@bubblewrap_alone
def test_upstream_lets_the_sandbox_type(caller: Caller, probe: Path) -> None:
    argv = upstream_argv([str(probe), *ATTEMPTS], read_only=[probe.parent])
    results = caller.on_terminal(argv).stdout.replace("\r", "")
    if Path("/proc/sys/dev/tty/legacy_tiocsti").read_text() == "0\n":
        pytest.skip("this kernel refuses TIOCSTI to everybody: nothing to show")
    assert "tiocsti ok" in results and "tiocsti-high ok" in results


@pytest.mark.parametrize("tty", ["tty", "inherited"])
def test_nothing_can_be_typed_from_ours(caller: Caller, probe: Path, tty: str) -> None:
    """Neither into a terminal handed over as stdin nor into the sandbox's own."""
    told = _on_our_terminal(caller, probe, tty, *ATTEMPTS)
    lines = told.stdout.replace("\r", "").splitlines()
    assert sorted(lines) == sorted(f"{attempt} EPERM" for attempt in ATTEMPTS)


def test_a_command_typed_by_the_attack_is_run_by_the_callers_shell(
    caller: Caller, probe: Path, place: Path
) -> None:
    """The whole way, as an attacker would go it: what is typed is read by the shell that comes next."""
    typed = "owned"
    theirs = upstream_argv([str(probe), f"tiocsti={typed}\n"], read_only=[probe.parent])
    words = (caller.containment, "inherited", str(probe.parent), str(probe), f"tiocsti={typed}\n")
    ours = [caller.python, "-c", OURS, *words]
    reader = '"$@"; read -t 2 line; echo "the shell read: [$line]"'
    if Path("/proc/sys/dev/tty/legacy_tiocsti").read_text() != "0\n":
        assert "the shell read: [owned]" in caller.on_terminal(["bash", "-c", reader, "bash", *theirs]).stdout
    assert "the shell read: []" in caller.on_terminal(["bash", "-c", reader, "bash", *ours]).stdout


def test_the_callers_terminal_is_not_the_controlling_one(caller: Caller, probe: Path) -> None:
    attack = [str(probe), "open-read=/dev/tty"]
    theirs = upstream_argv(attack, read_only=[probe.parent])
    assert "open-read ok" in caller.on_terminal(theirs).stdout
    assert "open-read ENXIO" in _on_our_terminal(caller, probe, "inherited", attack[1]).stdout
