"""Copying back against a model: only the guest changed it, only the host did, or both."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.guest_files import RW, File, Link, Run, Tree, build, host_tree

_EXAMPLES = 3000 if os.environ.get("MXC_SOAK") == "1" else 120
_NAMES = "ab"
_PLACES = [f"{a}{b}{c}" for a in _NAMES for b in ("", "/a", "/b") for c in ("", "/a", "/b") if b or not c]

# Of different lengths: what was written a moment ago with the same size may have the same time of change.
leaves = st.one_of(
    st.builds(File, st.sampled_from([b"", b"1", b"22", b"333"]), st.sampled_from([0o644, 0o600, 0o755])),
    st.sampled_from([Link("nowhere"), Link("../a")]),
)
things = st.one_of(leaves, st.just(0o755))
edits = st.lists(st.tuples(st.sampled_from(_PLACES), st.one_of(st.none(), things)), max_size=6)


def below(path: str, tree: Tree) -> list[str]:
    return [other for other in tree if other.startswith(f"{path}/")]


def edit(tree: Tree, changes: list[tuple[str, File | Link | int | None]]) -> None:
    """Put each thing where its parent is a directory, in place of what is there."""
    for path, thing in changes:
        if not isinstance(tree.get(path.rpartition("/")[0]), int):
            continue
        if isinstance(thing, int) and isinstance(tree.get(path), int):
            continue
        for gone in [path, *below(path, tree)]:
            tree.pop(gone, None)
        if thing is not None:
            tree[path] = thing


def edit_host(top: Path, changes: list[tuple[str, File | Link | int | None]]) -> set[str]:
    """The same on disk; returns the paths that were touched, even if they are alike again."""
    touched: set[str] = set()
    for path, thing in changes:
        tree = host_tree(top)
        if not isinstance(tree.get(path.rpartition("/")[0]), int):
            continue
        if isinstance(thing, int) and isinstance(tree.get(path), int):
            continue
        touched |= {path, *below(path, tree)}
        place = top / path
        if isinstance(tree.get(path), int):
            shutil.rmtree(place)
        elif path in tree:
            # Kept, so that its inode is not used again.
            place.rename(top.parent / f"gone-{len(list(top.parent.iterdir()))}")
        if thing is not None:
            build(top, {path: thing})
    return touched


class Model:
    def __init__(self, shipped: Tree, guest: Tree, host: Tree, touched: set[str]) -> None:
        self.shipped, self.guest, self.host, self.touched = shipped, guest, host, touched

    def untouched(self, path: str) -> bool:
        alike = self.host.get(path) == self.shipped.get(path)
        is_directory = isinstance(self.host.get(path), int)
        return alike and (is_directory or path not in self.touched or path not in self.host)

    def guest_wins(self, path: str) -> bool:
        return self.untouched(path) and self.has_directory(path.rpartition("/")[0])

    def has_directory(self, path: str) -> bool:
        """Whether the result has a directory there that the guest's files may go to."""
        if not path or isinstance(self.host.get(path), int):
            return True
        return isinstance(self.guest.get(path), int) and self.guest_wins(path)

    def result(self, path: str) -> File | Link | int | None:
        mine, theirs = self.host.get(path), self.guest.get(path)
        if theirs == self.shipped.get(path):
            return mine
        if not self.guest_wins(path):
            return mine
        if isinstance(mine, int) and not isinstance(theirs, int):
            rest = [
                p for p in {*below(path, self.host), *below(path, self.guest)} if self.result(p) is not None
            ]
            return mine if rest else theirs
        return theirs


@settings(max_examples=_EXAMPLES)
@given(edits, edits, edits)
# Both put a directory in place of the same link.
@example([("a", Link("nowhere"))], [("a", 0o755), ("a/a", Link("nowhere"))], [("a", 0o755)])
def test_each_path_is_as_who_alone_changed_it_left_it_and_nothing_is_lost(
    before: list[tuple[str, File | Link | int | None]],
    in_guest: list[tuple[str, File | Link | int | None]],
    on_host: list[tuple[str, File | Link | int | None]],
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mxc-model-"))
    try:
        top = folder / "grant"
        shipped: Tree = {"": 0o755}
        edit(shipped, before)
        build(top, shipped)
        run = Run((top, RW), journals=folder / "journals")
        assert run.guest == shipped
        edit(run.guest, in_guest)
        touched = edit_host(top, on_host)
        model = Model(shipped, run.guest, host_tree(top), touched)
        answer = run.back()
        now = host_tree(top)
        for path in _PLACES:
            assert now.get(path) == model.result(path), path
        kept = {conflict.path: conflict.kept_as for conflict in answer.conflicts}
        for path, thing in run.guest.items():
            was = shipped.get(path)
            if thing == was or isinstance(thing, int) or now.get(path) == thing:
                continue
            kept_as = kept[str(top / path)]
            if isinstance(thing, File) and isinstance(was, File) and thing.content == was.content:
                assert kept_as == ""  # permissions alone
            else:
                assert now[str(Path(kept_as).relative_to(top))] == thing
        extra = set(now) - set(_PLACES) - {""}
        assert all(".mxc-guest-" in path for path in extra)
        assert not list(folder.glob(".mxc*"))
        assert not list((folder / "journals").iterdir())
        run.handles.close()
    finally:
        shutil.rmtree(folder)
