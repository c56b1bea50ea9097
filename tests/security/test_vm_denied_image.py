"""What a machine's own image has under a denied name is hidden, whichever way the workload reaches for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mxc_ops import CommandKind, Limits, Policy, PolicyRefused, Result, VirtualMachine, run
from tests.images import image

pytestmark = pytest.mark.backend("vm")

READ = 'for file in {names}; do head -c 1 "$file" >/dev/null && echo "$file"; done; exit 0'
PYTHON = ("/usr/bin/python3", "/usr/bin/python3.11", "/proc/self/root/usr/bin/python3.11")
PERL = ("/usr/bin/perl", "/usr/bin/perl5.36.0", "/bin/perl")


@pytest.fixture(scope="module", autouse=True)
def python_image() -> None:
    image("python")


def inside(line: str, denied: Sequence[str], read_only: Sequence[str | Path] = ()) -> Result:
    policy = Policy(
        containment="vm",
        vm=VirtualMachine("python"),
        denied=denied,
        read_only=read_only,
        limits=Limits(pids=20),
    )
    return run(policy, line)


def read(names: Sequence[str], denied: Sequence[str]) -> list[str]:
    """Those of which the workload could read something."""
    result = inside(READ.format(names=" ".join(names)), denied)
    assert result.exit_code == 0
    return result.stdout.decode().split()


@pytest.mark.parametrize(
    ("names", "denied"),
    [
        (["/etc/debian_version"], ["/etc/debian_version"]),
        (PYTHON, ["/usr/bin/python3"]),  # a link of the image, wherever the host's leads
        (PYTHON, ["/usr/bin/python3.11"]),
        (PYTHON, ["/bin/python3"]),
        (PERL, ["/usr/bin/perl5.36.0"]),  # two names of one file
        (PERL, ["/usr/bin/perl", "/usr/bin/perl5.36.0"]),
        (["/usr/lib/os-release", "/etc/os-release"], ["/usr/lib/../lib/os-release"]),
        (["/usr/share/common-licenses/BSD"], ["/usr/share/common-licenses", "/usr/share"]),
        (["/sys/kernel/vmcoreinfo"], ["/sys"]),
    ],
)
def test_by_any_of_its_names(names: list[str], denied: list[str]) -> None:
    assert set(read(names, [])) == set(names)
    assert read(names, denied) == []


def test_a_name_of_a_file_in_a_denied_directory() -> None:
    """perlbug and perlthanks are one file."""
    line = "ln -s / /tmp/x; " + READ.format(names="/usr/bin/perlthanks /tmp/x/usr/bin/perlthanks")
    assert inside(line, []).stdout.decode().split() == ["/usr/bin/perlthanks", "/tmp/x/usr/bin/perlthanks"]
    assert inside(line, ["/usr/bin/perlbug"]).stdout == b""


def test_what_is_denied_cannot_be_uncovered_changed_or_run() -> None:
    line = (
        "umount /usr/bin/python3.11; rm -f /usr/bin/python3.11; mv /usr/bin/python3.11 /tmp/p;"
        " chmod 755 /usr/bin/python3.11; echo x > /usr/bin/python3.11; touch /usr/share/new;"
        " ls /usr/share; unshare -rm sh -c 'umount /usr/bin/python3.11; cat /usr/bin/python3.11';"
        " /usr/bin/python3 -c 'print(1)'"
    )
    result = inside(line, ["/usr/bin/python3", "/usr/share"])
    assert (result.exit_code, result.stdout) == (126, b"")


def test_only_the_grant_below_a_denied_directory_of_the_image_is_there() -> None:
    """As in every sandbox: passed, not looked at."""
    granted = Path("/usr/share/keyrings")  # every Debian has it, and its apt the files in it
    line = f"ls {granted}; ls /usr/share; ls /usr/share/common-licenses; touch /usr/share/x"
    result = inside(line, ["/usr/share"], [granted])
    assert result.stdout.decode().split() == sorted(file.name for file in granted.iterdir())
    assert b"/usr/share'" in result.stderr


def test_names_that_nothing_has_are_no_hindrance() -> None:
    assert inside("echo fine", ["/nowhere/at/all", "/etc/passwd/x", "/home/nobody/.ssh"]).stdout == b"fine\n"


def test_source_is_not_run_by_an_interpreter_that_is_denied() -> None:
    """It waits in every clone, and /proc/self/exe of a fork of it is the denied file."""
    denied = Policy(containment="microvm", denied=["/usr/bin/python3"])
    with pytest.raises(PolicyRefused) as caught:
        run(denied, "print(open('/proc/self/exe', 'rb').read(4))")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("interpreter_denied", "denied[0]")
    assert problem.fix
    other = Policy(
        containment="microvm",
        denied=["/usr/bin/python3"],
        vm=VirtualMachine(command=CommandKind.SHELL),
    )
    assert run(other, "echo fine").stdout == b"fine\n"
    away = Policy(containment="microvm", denied=["/usr/share"])
    assert run(away, "print('fine')").stdout == b"fine\n"
