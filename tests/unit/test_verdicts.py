"""Verdicts on documents: the same answer as loading, for their owner alone, never the document itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from backends.errors import ConfigError
from mxc_ops.config import verdicts
from mxc_ops.config.document import Strictness
from mxc_ops.config.loader import load
from mxc_ops.config.verdicts import load_cached
from tests.conftest import CHECKOUT, User

DOCUMENT = b'{"version": "0.6.0-alpha", "process": {"commandLine": "true"}, "experimental": {}}'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return folder


def stored(home: Path) -> list[Path]:
    folder = home / ".cache/mxc-ops/verdicts"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def modules_after(home: Path, source: bytes) -> set[str]:
    """Which of the heavy modules a fresh process has loaded once it knows the document."""
    code = (
        "import sys\nfrom mxc_ops.config.verdicts import load_cached\n"
        f"load_cached({source!r})\n"
        "print(*sys.modules)"
    )
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
        env=environment,
    )
    heavy = {
        "pydantic",
        "pydantic_core",
        "hashlib",
        "pathlib",
        "mxc_ops.config.loader",
        "mxc_ops.config.models",
    }
    return heavy & set(done.stdout.split())


def test_the_second_time_gives_the_same_document_warnings_included(home: Path) -> None:
    first, second = load_cached(DOCUMENT), load_cached(DOCUMENT)
    plain = load(DOCUMENT)
    assert len(stored(home)) == 1
    assert first.warnings
    for document in (first, second):
        assert (document.declared_version, document.contract) == (plain.declared_version, plain.contract)
        assert (document.kind, document.body) == (plain.kind, plain.body)
        assert [each.as_dict() for each in document.warnings] == [each.as_dict() for each in plain.warnings]


def test_a_known_document_is_not_validated_again(home: Path) -> None:
    load_cached(DOCUMENT)
    assert modules_after(home, DOCUMENT) == set()


def test_an_unknown_document_is(home: Path) -> None:
    assert "mxc_ops.config.loader" in modules_after(home, DOCUMENT)


def test_a_document_with_problems_is_refused_every_time(home: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError):
            load_cached(b'{"process": {}}')
    assert stored(home) == []


@pytest.mark.parametrize("source", [b"", b"[]", b'{"a": 1, "a": 1}', b" " * 2_000_000, b"\xff"])
def test_what_is_no_document_is_refused_as_loading_refuses_it(source: bytes) -> None:
    with pytest.raises(ConfigError) as cached:
        load_cached(source)
    with pytest.raises(ConfigError) as loaded:
        load(source)
    assert cached.value.as_dict() == loaded.value.as_dict()


def test_a_verdict_holds_only_for_the_strictness_it_was_given_under() -> None:
    load_cached(DOCUMENT)
    with pytest.raises(ConfigError):
        load_cached(DOCUMENT, strictness=Strictness.CONTRACT)
    phase = b'{"version": "1.0.0", "phase": "stop", "sandboxId": "wslc:1"}'
    load_cached(phase)
    with pytest.raises(ConfigError):
        load_cached(phase, one_shot_only=True)


def test_a_changed_rule_makes_all_verdicts_void(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_cached(DOCUMENT)
    monkeypatch.setattr(verdicts, "__version__", "99")
    load_cached(DOCUMENT)
    assert len(stored(home)) == 2


def test_nothing_of_the_document_is_stored(home: Path) -> None:
    load_cached(b'{"version": "1.0.0", "process": {"commandLine": "print-me", "env": ["NAME=value-of-it"]}}')
    (file,) = stored(home)
    text = file.read_text() + file.name
    assert "print-me" not in text
    assert "value-of-it" not in text
    assert json.loads(file.read_text())["declaredVersion"] == "1.0.0"


@pytest.mark.parametrize(
    "fields",
    [
        {"process": {"commandLine": "true", "env": ["API_TOKEN=hunter2"]}},
        {"process": {"commandLine": "true", "env": ["db-password=hunter2"]}},
        {"network": {"proxy": {"url": "http://me:hunter2@127.0.0.1:8080"}}},
        {"mxcOps": {"stdin": {"text": "hunter2"}}},
    ],
)
def test_a_document_that_holds_a_secret_leaves_no_trace(home: Path, fields: dict[str, Any]) -> None:
    body = {"version": "0.7.0-alpha", "process": {"commandLine": "true"}, **fields}
    load_cached(json.dumps(body).encode())
    assert stored(home) == []


def test_naming_where_a_secret_is_does_not_hinder(home: Path) -> None:
    body = {
        "process": {"commandLine": "true"},
        "filesystem": {"deniedPaths": ["/home/me/.secrets"]},
        "mxcOps": {"env": {"API_TOKEN": {"file": "/home/me/.secrets/token"}}},
    }
    load_cached(json.dumps(body).encode())
    assert len(stored(home)) == 1


# --- the directory ---------------------------------------------------------------------------------


def test_directory_and_verdicts_are_the_owners_alone(home: Path) -> None:
    load_cached(DOCUMENT)
    folders = (home / ".cache", home / ".cache/mxc-ops", home / ".cache/mxc-ops/verdicts")
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700] * 3
    assert [file.stat().st_mode & 0o777 for file in stored(home)] == [0o600]


def test_the_configured_cache_home_is_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_cached(DOCUMENT)
    assert stored(home) == []
    assert len(list((tmp_path / "cache/mxc-ops/verdicts").iterdir())) == 1


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_without_a_home_there_is_no_cache_and_no_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    assert load_cached(DOCUMENT).body == load(DOCUMENT).body
    assert not Path("relative").exists()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o707, 0o701])
@pytest.mark.parametrize("below", ["mxc-ops", "mxc-ops/verdicts"])
def test_a_directory_open_to_others_is_not_used(home: Path, mode: int, below: str) -> None:
    folder = home / ".cache" / below
    folder.mkdir(parents=True, mode=0o700)
    (home / ".cache/mxc-ops").chmod(0o700)
    folder.chmod(mode)
    load_cached(DOCUMENT)
    assert stored(home) == []


def test_a_symbolic_link_is_not_followed(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (home / ".cache/mxc-ops").mkdir(parents=True, mode=0o700)
    (home / ".cache/mxc-ops/verdicts").symlink_to(elsewhere)
    load_cached(DOCUMENT)
    assert list(elsewhere.iterdir()) == []


def test_a_directory_of_somebody_else_is_not_used(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give directories away")
    load_cached(DOCUMENT)
    (file,) = stored(home)
    file.unlink()
    os.chown(home / ".cache/mxc-ops/verdicts", 65534, 65534)
    load_cached(DOCUMENT)
    assert stored(home) == []


def test_root_leaves_nothing_in_somebody_elses_home(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give directories away")
    os.chown(home, 65534, 65534)
    load_cached(DOCUMENT)
    assert list(home.iterdir()) == []


def test_an_unwritable_home_is_no_error(as_user: User) -> None:
    source = f"from mxc_ops.config.verdicts import load_cached\nprint(load_cached({DOCUMENT!r}).kind.value)"
    for home in ("/proc", "/nonexistent"):
        assert as_user(source, env={"HOME": home}).stdout == "one-shot\n"


# --- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b'{"kind": "exec"}', b"\xff\xfe", b"9" * 200_000, b'{"kind": 7}'],
)
def test_a_damaged_verdict_is_ignored_and_replaced(home: Path, content: bytes) -> None:
    load_cached(DOCUMENT)
    (file,) = stored(home)
    good = file.read_bytes()
    file.write_bytes(content)
    assert load_cached(DOCUMENT).body == load(DOCUMENT).body
    assert stored(home)[0].read_bytes() == good


def test_a_verdict_that_is_no_plain_file_is_ignored(home: Path) -> None:
    load_cached(DOCUMENT)
    (file,) = stored(home)
    file.unlink()
    os.mkfifo(file)
    assert load_cached(DOCUMENT).body == load(DOCUMENT).body


def test_the_number_of_verdicts_is_bounded_and_the_oldest_go(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "MAX_ENTRIES", 8)
    for number in range(9):
        load_cached(b'{"process": {"commandLine": "%d"}}' % number)
        for file in stored(home):
            age = file.stat().st_mtime - 10
            os.utime(file, (age, age))
    assert len(stored(home)) == 4
    newest = b'{"process": {"commandLine": "8"}}'
    assert modules_after(home, newest) == set()


def test_many_threads_may_ask_at_once(home: Path) -> None:
    kinds: list[str] = []

    def ask() -> None:
        for number in range(20):
            source = b'{"process": {"commandLine": "%d"}}' % number
            kinds.append(load_cached(source).body["process"]["commandLine"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kinds) == sorted(str(number) for number in range(20) for _ in range(8))
    assert len(stored(home)) == 20
