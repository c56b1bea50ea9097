"""Building the launcher, and which stored one is trusted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from backends.errors import BackendUnavailable, PrepFailed
from backends.inside import build, store
from tests.conftest import User
from tests.unit.launching import launcher_path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "new" / "helpers"
    before = os.umask(0o077)
    try:
        return build.build_program(store.LAUNCHER, folder)
    finally:
        os.umask(before)


def test_it_is_stored_under_its_key_and_says_so_itself(built: Path) -> None:
    assert built.name == "launcher"
    assert built.parent.name == store.source_key(store.LAUNCHER)
    done = subprocess.run([built, "--version"], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == store.source_key(store.LAUNCHER)


def test_sandbox_identities_can_execute_it_whatever_the_umask_was(built: Path) -> None:
    assert [path.stat().st_mode & 0o777 for path in (built, built.parent, built.parent.parent)] == [0o755] * 3


def test_it_is_static_and_hardened(built: Path) -> None:
    headers = subprocess.run(["readelf", "-hldW", built], capture_output=True, check=True, text=True).stdout
    assert "EXEC (Executable file)" in headers
    assert "NEEDED" not in headers
    assert "INTERP" not in headers
    assert "GNU_RELRO" in headers
    [stack] = [line for line in headers.splitlines() if "GNU_STACK" in line]
    assert "RWE" not in stack


def test_building_leaves_nothing_else_behind(built: Path) -> None:
    assert list(built.parent.parent.iterdir()) == [built.parent]
    assert list(built.parent.iterdir()) == [built]


def test_wrong_usage_is_told() -> None:
    for arguments in ([], ["inside"], ["inside", "x"], ["outside", "-1"], ["inside", "0"], ["else", "5"]):
        done = subprocess.run([launcher_path(), *arguments], capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr[:6]) == (125, b"", b"usage:")


def test_without_a_compiler_the_package_to_install_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable) as caught:
        build.build_program(store.LAUNCHER, tmp_path / "store")
    assert "apt-get install --yes musl-tools" in caught.value.fix


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "musl-gcc"
    compiler.write_text("#!/bin/sh\necho cannot find -lc >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="cannot find -lc"):
        build.build_program(store.LAUNCHER, tmp_path / "store")
    assert list((tmp_path / "store" / store.source_key(store.LAUNCHER)).iterdir()) == []


def test_a_program_that_is_not_the_launcher_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "musl-gcc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp /bin/true "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PrepFailed, match="not its key"):
        build.build_program(store.LAUNCHER, tmp_path / "store")
    assert not (tmp_path / "store" / store.source_key(store.LAUNCHER) / "launcher").exists()


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrepFailed, match="could not be stored"):
        build.build_program(store.LAUNCHER, tmp_path / "file" / "store")


FIND_WITHOUT_SYSTEM_STORE = (
    "from backends.inside import store\n"
    "store.SYSTEM_STORE = '/nonexistent'\n"
    "print(store.find_program(store.LAUNCHER))"
)


@pytest.fixture
def own_store(as_user: User, built: Path) -> Path:
    """A store of the unprivileged user with the launcher in it."""
    key = as_user.home / ".local/share/mxc-ops/helpers" / store.source_key(store.LAUNCHER)
    as_user(["mkdir", "-p", key])
    (key / "launcher").unlink(missing_ok=True)
    (key / "launcher").write_bytes(built.read_bytes())
    (key / "launcher").chmod(0o755)
    os.chown(key / "launcher", as_user.uid, as_user.gid)
    return key


def test_a_user_finds_their_own(as_user: User, own_store: Path) -> None:
    assert as_user(FIND_WITHOUT_SYSTEM_STORE).stdout.strip() == str(own_store / "launcher")


@pytest.mark.parametrize("place", [".", "..", "launcher"])
def test_what_others_can_write_to_is_not_trusted(as_user: User, own_store: Path, place: str) -> None:
    weak = own_store / place
    mode = weak.stat().st_mode & 0o777
    weak.chmod(0o777)
    try:
        assert as_user(FIND_WITHOUT_SYSTEM_STORE).stdout.strip() == "None"
    finally:
        weak.chmod(mode)


def test_a_symbolic_link_is_not_trusted(as_user: User, own_store: Path) -> None:
    (own_store / "launcher").rename(own_store / "elsewhere")
    (own_store / "launcher").symlink_to("elsewhere")
    assert as_user(FIND_WITHOUT_SYSTEM_STORE).stdout.strip() == "None"
    (own_store / "elsewhere").unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="what root does: run as root")
def test_root_trusts_only_the_systems_store(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_store.parent
    monkeypatch.setenv("XDG_DATA_HOME", str(folder.parent.parent))
    assert store.user_store() == str(folder)
    monkeypatch.setattr(store, "SYSTEM_STORE", str(folder))
    assert store.find_program(store.LAUNCHER) is None  # owned by the user, not by root
    monkeypatch.setattr(store, "SYSTEM_STORE", "/nonexistent")
    assert store.find_program(store.LAUNCHER) is None
