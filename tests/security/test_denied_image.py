"""What the image has under a denied name is hidden, whichever way the workload reaches for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mxc_ops import CommandKind, Limits, Policy, PolicyRefused, Result, VirtualMachine, run
from tests.e2e.containments import LXC, VM, Containment
from tests.images import image

READ = 'for file in {names}; do head -c 1 "$file" >/dev/null && echo "$file"; done; exit 0'
WHICH = ("/usr/bin/which", "/usr/bin/which.debianutils", "/proc/self/root/usr/bin/which.debianutils")
PERL = ("/usr/bin/perl", "/usr/bin/perl5.36.0", "/bin/perl")


class Inside:
    """Runs lines in a sandbox that has an image of its own."""

    def __init__(self, containment: Containment) -> None:
        self.containment = containment

    def __call__(self, line: str, denied: Sequence[str], read_only: Sequence[str | Path] = ()) -> Result:
        return run(self.containment.policy(denied=denied, read_only=read_only, limits=Limits(pids=20)), line)

    def read(self, names: Sequence[str], denied: Sequence[str]) -> list[str]:
        """Those of which the workload could read something."""
        result = self(READ.format(names=" ".join(names)), denied)
        assert result.exit_code == 0
        return result.stdout.decode().split()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(VM, id="vm", marks=pytest.mark.backend("vm")),
        pytest.param(LXC, id="lxc", marks=pytest.mark.backend("lxc")),
    ],
)
def inside(request: pytest.FixtureRequest) -> Inside:
    image("base")
    return Inside(request.param)


@pytest.mark.parametrize(
    ("names", "denied"),
    [
        (["/etc/debian_version"], ["/etc/debian_version"]),
        (WHICH, ["/usr/bin/which"]),  # a link of the image, wherever the host's leads
        (WHICH, ["/usr/bin/which.debianutils"]),
        (WHICH, ["/bin/which"]),
        (WHICH, ["/etc/alternatives/which"]),
        (PERL, ["/usr/bin/perl5.36.0"]),  # two names of one file
        (PERL, ["/usr/bin/perl", "/usr/bin/perl5.36.0"]),
        (["/usr/lib/os-release", "/etc/os-release"], ["/usr/lib/../lib/os-release"]),
        (["/usr/share/common-licenses/BSD"], ["/usr/share/common-licenses", "/usr/share"]),
        (["/sys/kernel/vmcoreinfo"], ["/sys"]),
        (["/sys/kernel/vmcoreinfo"], ["/sys/kernel"]),
    ],
)
def test_by_any_of_its_names(inside: Inside, names: list[str], denied: list[str]) -> None:
    assert set(inside.read(names, [])) == set(names)
    assert inside.read(names, denied) == []


def test_a_name_of_a_file_in_a_denied_directory(inside: Inside) -> None:
    """perlbug and perlthanks are one file."""
    line = "ln -s / /tmp/x; " + READ.format(names="/usr/bin/perlthanks /tmp/x/usr/bin/perlthanks")
    assert inside(line, []).stdout.decode().split() == ["/usr/bin/perlthanks", "/tmp/x/usr/bin/perlthanks"]
    assert inside(line, ["/usr/bin/perlbug"]).stdout == b""


def test_what_is_denied_cannot_be_uncovered_changed_or_run(inside: Inside) -> None:
    line = (
        "umount /usr/bin/perl; rm -f /usr/bin/perl; mv /usr/bin/perl /tmp/p;"
        " chmod 755 /usr/bin/perl; echo x > /usr/bin/perl; touch /usr/share/new;"
        " ls /usr/share; unshare -rm sh -c 'umount /usr/bin/perl; cat /usr/bin/perl';"
        " /usr/bin/perl -e 'print(1)'"
    )
    result = inside(line, ["/usr/bin/perl", "/usr/share"])
    assert (result.exit_code, result.stdout) == (126, b"")


def test_only_the_grant_below_a_denied_directory_of_the_image_is_there(inside: Inside) -> None:
    """As in every sandbox: passed, not looked at."""
    granted = Path("/usr/share/keyrings")  # every Debian has it, and its apt the files in it
    line = f"ls {granted}; ls /usr/share; ls /usr/share/common-licenses; touch /usr/share/x"
    result = inside(line, ["/usr/share"], [granted])
    assert result.stdout.decode().split() == sorted(file.name for file in granted.iterdir())
    assert b"/usr/share'" in result.stderr


def test_names_that_nothing_has_are_no_hindrance(inside: Inside) -> None:
    assert inside("echo fine", ["/nowhere/at/all", "/etc/passwd/x", "/home/nobody/.ssh"]).stdout == b"fine\n"


def test_without_a_folder_for_temporary_files_everything_else_works(inside: Inside) -> None:
    """Every sandbox may write there; where it is denied, it is not there."""
    result = inside("touch /var/tmp/x; ls /var/tmp; touch /tmp/x && echo fine", ["/var"])
    assert result.stdout == b"fine\n"
    assert inside("touch /var/tmp/x && echo fine", []).stdout == b"fine\n"


@pytest.mark.backend("vm")
def test_source_is_not_run_by_an_interpreter_that_is_denied() -> None:
    """It waits in every clone, and /proc/self/exe of a fork of it is the denied file."""
    image("python")
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
