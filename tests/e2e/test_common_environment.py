"""What a command starts with, the same in every containment: arguments, variables, directory, identity."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mxc_ops import LaunchFailed, MxcError, PolicyRefused, SecretSource, run
from tests.e2e.containments import Containment

ODD = {
    "A": "a=b c",
    "EMPTY": "",
    "LINES": "one\ntwo\n",
    "QUOTES": "'\"$(id)`id`\\",
    "Ünïcode": "Wörld ☃ \U0001f40d",
    "WITH.DOT": "1",
    "LONG": "x" * 100_000,
    "LD_PRELOAD": "",
    "IFS": "!",
}
START = """
echo id $(id -u) $(id -g) $(id -G)
echo umask $(umask)
echo cwd $(pwd)
echo descriptors $(ls /proc/self/fd | tr '\\n' ' ')
for field in NoNewPrivs Seccomp CapInh CapPrm CapEff CapBnd CapAmb Groups SigBlk SigCgt; do
    sed -n "s/^$field:[[:space:]]*/$field /p" /proc/self/status
done
echo core $(ulimit -c) processes $(ulimit -p)
echo shell $0
"""


def code_of(error: MxcError) -> tuple[str, str]:
    """Code and place of the one problem."""
    (problem,) = error.problems
    return problem.code, problem.path


def test_the_environment_is_exactly_what_was_given(
    contained: Containment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXC_TEST_OF_THE_CALLER", "secret")
    result = run(contained.policy(env=ODD), ["/usr/bin/env", "-0"])
    assert result.ok, result.stderr
    got = dict(entry.split("=", 1) for entry in result.stdout.decode().split("\0") if entry)
    assert got == ODD
    assert run(contained.policy(env={}), ["/usr/bin/env"]).stdout == b""


def test_without_an_environment_there_are_path_and_term(contained: Containment) -> None:
    lines = run(contained.policy(), ["env"]).stdout.decode().splitlines()
    assert sorted(line.partition("=")[0] for line in lines) == ["PATH", "TERM"]


def test_arguments_arrive_as_they_are(contained: Containment) -> None:
    odd = [
        "a b",
        "",
        "$HOME",
        "*",
        "-n",
        "two\nlines",
        "'\"`\\",
        "Wörld ☃",
        "\x01\x7f\x1b[31m",
        "x" * 100_000,
    ]
    result = run(contained.policy(), ["printf", r"%s\0", *odd, *(str(n) for n in range(2000))])
    assert result.stdout.decode().split("\0") == [*odd, *(str(n) for n in range(2000)), ""]


def test_a_line_is_for_the_shell(contained: Containment) -> None:
    result = run(contained.policy(), 'set -- "a  b"; echo "$((1 + 1)) $0 $1" | cat; no-such-program; echo $?')
    assert result.stdout == b"2 /bin/sh a  b\n127\n"
    assert b"no-such-program" in result.stderr


def test_what_a_command_starts_as(contained: Containment) -> None:
    said = run(contained.policy(), START).check().stdout.decode().splitlines()
    no_capability = [f"Cap{name} 0000000000000000" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    assert [line.rstrip() for line in said] == [
        *("id 1000 1000 1000", "umask 0022", "cwd /", "descriptors 0 1 2 3"),
        *("NoNewPrivs 1", "Seccomp 2", *no_capability, "Groups"),
        *("SigBlk 0000000000000000", "SigCgt 0000000000000000"),
        *("core 0 processes 1025", "shell /bin/sh"),
    ]


def test_secrets_come_from_files_and_descriptors_and_are_told_nobody(
    contained: Containment, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret-file\n")
    ours, theirs = os.pipe()
    os.write(theirs, b"s3cret-pipe")
    os.close(theirs)
    env = {"A": SecretSource(file=str(tmp_path / "token")), "B": SecretSource(fd=ours), "C": "plain"}
    result = run(contained.policy(env=env), 'echo "$A $B $C"')
    os.close(ours)
    assert result.stdout == b"s3cret-file s3cret-pipe plain\n"
    assert "s3cret" not in repr(result.provenance) + repr(result.enforced) + repr(result.origin.plan)


def test_the_working_directory(contained: Containment, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    place = tmp_path / "wörk ing"
    place.mkdir()
    (place / "here").touch()
    result = run(contained.policy(cwd=place, read_only=[place]), ["sh", "-c", "pwd; ls"])
    assert result.stdout.decode() == f"{place}\nhere\n"
    assert run(contained.policy(cwd="/tmp"), "pwd").stdout == b"/tmp\n"


@pytest.mark.parametrize("cwd", ["/no/such/directory", "/etc/passwd"])
def test_a_working_directory_that_cannot_be_entered(contained: Containment, cwd: str) -> None:
    with pytest.raises(PolicyRefused, match=cwd) as caught:
        run(contained.policy(cwd=cwd), "true")
    assert code_of(caught.value) == ("cwd_unusable", "cwd")
    with pytest.raises(PolicyRefused) as caught:
        run(contained.document("true", process={"cwd": cwd}))
    assert code_of(caught.value) == ("cwd_unusable", "/process/cwd")
    assert caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("no-such-program", "program_not_found"),
        ("/no/such/program", "program_not_found"),
        ("/etc/passwd", "program_not_executable"),
        ("/etc", "program_not_executable"),
        ("/etc/passwd/program", "program_not_executable"),
    ],
)
def test_a_program_that_cannot_be_started(contained: Containment, program: str, code: str) -> None:
    with pytest.raises(LaunchFailed, match=program) as caught:
        run(contained.policy(), [program, "argument"])
    assert code_of(caught.value) == (code, "command")


def test_more_arguments_than_a_kernel_takes(contained: Containment) -> None:
    with pytest.raises(LaunchFailed, match="too long") as caught:
        run(contained.policy(), ["echo", *(["x" * 100_000] * 30)])
    assert code_of(caught.value) == ("program_not_executable", "command")
    assert "shorter" in caught.value.problems[0].expected


def test_a_host_name_of_its_own(contained: Containment) -> None:
    said = run(contained.policy(), "hostname; cat /etc/hostname").stdout.decode().split()
    assert os.uname().nodename not in said
    assert said[0] == said[1]
