"""Directories between a read-write grant and a stricter path in it keep their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.base import Access, Effect, ObjectKind
from tests.unit.observing import DENIED, RO, RW, resolve
from tests.unit.policy_paths import there


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """``tmp_path/a/b/c``, three directories."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    return folder


def _binds(tmp_path: Path, *policy: tuple[str | Path, Access]) -> list[tuple[str, str]]:
    entries = resolve(*policy).entries
    return [(entry.effect.value, str(Path(entry.path).relative_to(tmp_path))) for entry in entries]


@pytest.mark.parametrize(("access", "effect"), [(RO, Effect.BIND_READ_ONLY), (DENIED, Effect.MASK_DIRECTORY)])
def test_every_parent_below_the_grant_is_mounted_on_itself(
    tmp_path: Path, deep: Path, access: Access, effect: Effect
) -> None:
    assert _binds(tmp_path, (tmp_path, RW), (deep, access)) == [
        ("read-write", "."),
        ("read-write", "a"),
        ("read-write", "a/b"),
        (effect.value, "a/b/c"),
    ]


def test_parents_are_opened_below_the_grant_and_carry_its_owner(tmp_path: Path, deep: Path) -> None:
    entries = {entry.path: entry for entry in resolve((tmp_path, RW), (deep, RO)).entries}
    grant, parent = entries[str(tmp_path)], entries[str(deep.parent)]
    found = deep.parent.stat()
    assert parent.object == (found.st_dev, found.st_ino)
    assert (parent.kind, parent.owner) == (ObjectKind.DIRECTORY, grant.owner)


def test_where_the_sandbox_cannot_rename_nothing_is_added(tmp_path: Path, deep: Path) -> None:
    assert _binds(tmp_path, (tmp_path, RO), (deep, DENIED)) == [
        ("read-only", "."),
        ("mask directory", "a/b/c"),
    ]
    between = _binds(tmp_path, (tmp_path, RW), (tmp_path / "a", RO), (deep, DENIED))
    assert between == [("read-write", "."), ("read-only", "a"), ("mask directory", "a/b/c")]


def test_a_deeper_grant_is_where_the_parents_begin(tmp_path: Path, deep: Path) -> None:
    assert _binds(tmp_path, (tmp_path, RO), (tmp_path / "a", RW), (deep, RO)) == [
        ("read-only", "."),
        ("read-write", "a"),
        ("read-write", "a/b"),
        ("read-only", "a/b/c"),
    ]


def test_a_link_that_the_sandbox_may_replace_is_warned_about() -> None:
    from mxc_ops.policy.filesystem import resolve_filesystem

    link = there("/w/link/x", DENIED, canonical="/w/real/x", hops=[("/w/link", "real")])
    [warning] = resolve_filesystem([there("/w", RW), link]).warnings
    assert "'/w/link'" in warning and "'/w/real/x'" in warning
    assert resolve_filesystem([there("/w", RO), link]).warnings == ()
