"""The workload's environment: exactly what was given, secrets from elsewhere, values in no message."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Environment, SecretSource
from backends.errors import ConfigError
from mxc_ops.policy.command import MAX_STRING_BYTES
from mxc_ops.policy.environment import (
    DEFAULT_ENVIRONMENT,
    read_secrets,
    resolve_environment,
)
from tests.conftest import User


def entries(*written: str, inherit_default: bool = False) -> dict[str, str]:
    environment, _ = resolve_environment(written, inherit_default=inherit_default)
    return dict(environment.entries)


def secret(**source: str | int) -> Environment:
    return Environment(secrets=(("TOKEN", SecretSource(**source)),))  # type: ignore[arg-type] - one of two kinds


def refusal(environment: Environment) -> str:
    with pytest.raises(ConfigError) as caught:
        read_secrets(environment)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("secret_unreadable", "/mxcOps/env/TOKEN")
    return problem.message


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_an_omitted_environment_is_the_default_one_and_an_empty_one_is_empty() -> None:
    assert resolve_environment(None)[0].entries == DEFAULT_ENVIRONMENT
    assert dict(DEFAULT_ENVIRONMENT)["TERM"] == "xterm-256color"
    assert entries() == {}


def test_entries_replace_the_default_unless_laid_over_it() -> None:
    assert entries("A=1") == {"A": "1"}
    laid_over = entries("A=1", "TERM=dumb", inherit_default=True)
    assert laid_over == {**dict(DEFAULT_ENVIRONMENT), "A": "1", "TERM": "dumb"}


def test_only_the_first_equals_sign_ends_the_name() -> None:
    assert entries("A=b=c=", "E=", "U=grün und  blau") == {"A": "b=c=", "E": "", "U": "grün und  blau"}


def test_of_a_name_given_twice_the_last_value_holds_and_a_warning_says_so() -> None:
    environment, (warning,) = resolve_environment(["A=first", "B=2", "A=last"])
    assert environment.entries == (("A", "last"), ("B", "2"))
    assert "/process/env/2" in warning
    assert "/process/env/0" in warning
    assert "first" not in warning
    assert "last value" in warning


def test_every_bad_entry_is_named_and_no_value_is_printed() -> None:
    written = ["hunter2", "=hunter2", "A=hunter2\0", "B=" + "hunter2" * 20_000, "GOOD=1"]
    with pytest.raises(ConfigError) as caught:
        resolve_environment(written)
    assert [problem.path for problem in caught.value.problems] == [
        f"/process/env/{index}" for index in range(4)
    ]
    assert "hunter2" not in str(caught.value)


def test_the_longest_entry_is_the_kernels() -> None:
    longest = "A=" + "x" * (MAX_STRING_BYTES - 3)
    assert len(entries(longest)["A"]) == MAX_STRING_BYTES - 3
    with pytest.raises(ConfigError):
        resolve_environment([longest + "x"])


def test_a_secret_takes_the_place_of_a_default_but_not_of_an_entry() -> None:
    source = {"TERM": SecretSource(file="/x")}
    environment, _ = resolve_environment(None, secrets=source)
    assert "TERM" not in dict(environment.entries)
    assert environment.secrets == (("TERM", SecretSource(file="/x")),)
    with pytest.raises(ConfigError, match="also given as a secret"):
        resolve_environment(["TERM=dumb"], secrets=source)


@given(st.lists(st.tuples(st.from_regex(r"[A-Z_]{1,4}", fullmatch=True), st.text("ab= ü", max_size=6))))
def test_any_environment_arrives_as_setenv_calls_in_order_would_leave_it(
    pairs: list[tuple[str, str]],
) -> None:
    environment, warnings = resolve_environment([f"{name}={value}" for name, value in pairs])
    assert environment.entries == tuple(dict(pairs).items())
    assert len(warnings) == len(pairs) - len(dict(pairs))


# --- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"s3cret\n", "s3cret"), (b"s3cret", "s3cret"), (b"two\n\n", "two\n"), (b"", ""), (b"\xff=", "\udcff=")],
)
def test_a_secret_file_is_read_to_its_last_byte_but_one_newline(
    tmp_path: Path, content: bytes, value: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    assert tuple(read_secrets(secret(file=str(file)))) == (("TOKEN", value),)


def test_secret_values_do_not_show_themselves(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hunter2")
    values = read_secrets(secret(file=str(file)))
    assert "hunter2" not in f"{values} {values!r}"


def test_a_secret_is_read_from_an_open_descriptor_that_stays_open(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, b"s3cret\n")
    os.close(writing)
    assert tuple(read_secrets(secret(fd=reading))) == (("TOKEN", "s3cret"),)
    os.fstat(reading)


def test_a_descriptor_that_does_not_end_is_given_up(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxc_ops.policy.environment._DESCRIPTOR_DEADLINE_S", 0.2)
    os.write(pipe[1], b"hunter2")
    message = refusal(secret(fd=pipe[0]))
    assert "did not end" in message
    assert "hunter2" not in message


def test_a_descriptor_that_is_not_open_is_refused(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    assert "descriptor" in refusal(secret(fd=pipe[0]))


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    assert "is not a regular file" in refusal(secret(file=str(tmp_path / "fifo")))
    assert "is not a regular file" in refusal(secret(file=str(tmp_path)))
    assert "cannot read" in refusal(secret(file=str(tmp_path / "socket")))
    assert "No such file" in refusal(secret(file=str(tmp_path / "missing")))
    assert "absolute" in refusal(secret(file="relative"))


@pytest.mark.parametrize("content", [b"hunter2\0hunter2", b"hunter2" * 20_000])
def test_a_value_that_no_environment_can_carry_is_refused_unseen(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    assert "hunter2" not in refusal(secret(file=str(file)))


def test_all_unreadable_secrets_are_named_at_once(tmp_path: Path) -> None:
    names = ("ONE", "a/b~c")
    sources = tuple((name, SecretSource(file=str(tmp_path / "missing"))) for name in names)
    with pytest.raises(ConfigError) as caught:
        read_secrets(Environment(secrets=sources))
    assert [problem.path for problem in caught.value.problems] == ["/mxcOps/env/ONE", "/mxcOps/env/a~1b~0c"]


def test_a_file_that_the_user_behind_sudo_cannot_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root acts for somebody else")
    file = tmp_path / "token"
    file.write_text("hunter2")
    file.chmod(0o600)
    assert len(read_secrets(secret(file=str(file)))) == 1
    nobody = 65534
    monkeypatch.setenv("SUDO_UID", str(nobody))
    assert "Permission denied" in refusal(secret(file=str(file)))


def test_a_plain_user_reads_what_is_theirs_and_nothing_else(as_user: User) -> None:
    source = """
from backends.base import Environment, SecretSource
from backends.errors import ConfigError
from mxc_ops.policy.environment import read_secrets
from pathlib import Path
Path("token").write_text("mine")
print(tuple(read_secrets(Environment(secrets=(("A", SecretSource(file=str(Path("token").resolve()))),)))))
try:
    read_secrets(Environment(secrets=(("A", SecretSource(file="/etc/shadow")),)))
except ConfigError as error:
    print(error.problems[0].message)
"""
    done = as_user(source)
    assert done.stdout.splitlines() == ["(('A', 'mine'),)", "cannot read /etc/shadow: Permission denied"], (
        done
    )
