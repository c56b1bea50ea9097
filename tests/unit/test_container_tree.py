"""Whatever names layers have, what comes out lies below the root and has no link in it."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm_images.oci.limits import Limits
from vm_images.oci.refusals import BadEntry
from vm_images.oci.tree_model import Kind, Node, Tree, split

LIMITS = Limits(depth=16)


def folder(layer: int = 1) -> Node:
    return Node(Kind.DIRECTORY, layer)


def file(layer: int = 1) -> Node:
    return Node(Kind.FILE, layer, mode=0o755)


def link(target: str, layer: int = 1) -> Node:
    return Node(Kind.LINK, layer, target=target)


def code(tree: Tree, name: str, node: Node) -> str:
    with pytest.raises(BadEntry) as refused:
        tree.put(name, node)
    return refused.value.code


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a/..", "..", "./../x", "//x"])
def test_a_name_that_leads_out_is_refused(name: str) -> None:
    assert code(Tree(LIMITS), name, file()) == "image_escape"


def test_an_entry_through_a_link_lands_where_the_link_leads() -> None:
    tree = Tree(LIMITS)
    tree.put("usr/bin", folder())
    tree.put("bin", link("usr/bin"))
    tree.put("sbin", link("/bin"))
    assert tree.put("sbin/tool", file(2)).path == "usr/bin/tool"
    assert tree.find("/bin/tool") == tree.find("usr/bin/tool")


@pytest.mark.parametrize("target", ["..", "../etc", "/..", "/../etc", "a/../../etc"])
def test_an_entry_through_a_link_that_leads_out_is_refused(target: str) -> None:
    tree = Tree(LIMITS)
    tree.put("a", folder())
    tree.put("evil", link(target))
    assert code(tree, "evil/x", file(2)) == "image_escape"


def test_an_entry_through_an_absolute_link_stays_inside() -> None:
    tree = Tree(LIMITS)
    tree.put("evil", link("/etc"))
    assert tree.put("evil/passwd", file()).path == "etc/passwd"


def test_links_in_a_circle_are_refused() -> None:
    tree = Tree(LIMITS)
    tree.put("a", link("b"))
    tree.put("b", link("a"))
    assert code(tree, "a/x", file()) == "image_escape"
    assert tree.find("/a") is None


def test_a_walk_has_an_end_however_links_wander() -> None:
    tree = Tree(Limits())
    tree.put("d", folder())
    for number in range(39):
        tree.put(f"l{number}", link(f"{'d/../' * 800}l{number + 1}"))
    tree.put("l39", link("d"))
    assert code(tree, "l0/x", file()) == "image_escape"
    assert tree.find("/l0") is None
    assert tree.put("l37/x", file()).path == "d/x"


def test_all_walks_together_have_an_end() -> None:
    tree = Tree(Limits(entries=1))
    tree.put("d", folder())
    tree.put("l", link(f"{'d/../' * 600}d"))
    for number in range(3):
        tree.put(f"l/{number}", file())
    assert code(tree, "l/x", file()) == "image_too_large"
    with pytest.raises(BadEntry):
        tree.find("/l/0")


@pytest.mark.parametrize("target", [".wh.a", "d/.wh..wh..opq/e", "/.wh."])
def test_no_link_leads_to_a_directory_that_looks_like_a_whiteout(target: str) -> None:
    tree = Tree(LIMITS)
    tree.put("l", link(target))
    assert code(tree, "l/x", file()) == "image_whiteout"
    assert tree.find("/l/x") is None


def test_only_a_whiteout_is_named_like_one_and_at_its_end() -> None:
    assert split("d/.wh.x", LIMITS, hides=True) == ["d", ".wh.x"]
    for name, hides in (("d/.wh.x", False), (".wh.d/x", False), (".wh.d/.wh.x", True)):
        with pytest.raises(BadEntry, match="whiteout"):
            split(name, LIMITS, hides=hides)


def test_missing_directories_are_told() -> None:
    assert Tree(LIMITS).put("a/b/c", file()).made == ("a", "a/b")


def test_nothing_lies_below_a_file() -> None:
    tree = Tree(LIMITS)
    tree.put("a", file())
    assert code(tree, "a/b", file()) == "image_entry"


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.LINK])
def test_the_root_is_a_directory(kind: Kind) -> None:
    assert code(Tree(LIMITS), "./", Node(kind, 1, target="x")) == "image_entry"
    assert Tree(LIMITS).put("./", folder()).path == "."


@pytest.mark.parametrize("name", ["/".join("a" * 17), "x" * 256, "é" * 128, "a\0b"])
def test_names_are_bounded(name: str) -> None:
    with pytest.raises(BadEntry):
        split(name, LIMITS)


def test_a_whole_path_is_bounded() -> None:
    with pytest.raises(BadEntry):
        split("/".join(["x" * 250] * 17), Limits())


def test_a_link_cannot_make_a_path_deeper_than_allowed() -> None:
    tree = Tree(LIMITS)
    deep = "/".join("d" * 15)
    tree.put(deep, folder())
    tree.put("short", link(deep))
    assert code(tree, "short/a/b/c", file()) == "image_depth"


@pytest.mark.parametrize(
    ("target", "why"),
    [("nothing", "not in the image"), ("../x", "by .."), ("/etc/x", "absolute"), ("d", "is a directory")],
)
def test_a_hard_link_leads_to_a_file_of_the_image(target: str, why: str) -> None:
    tree = Tree(LIMITS)
    tree.put("d", folder())
    with pytest.raises(BadEntry, match=why):
        tree.hard_link("h", target, 1)


def test_a_hard_link_through_a_link_that_leads_out_is_refused() -> None:
    tree = Tree(LIMITS)
    tree.put("evil", link("../.."))
    with pytest.raises(BadEntry, match="leads out"):
        tree.hard_link("h", "evil/etc/shadow", 1)


def test_a_hard_link_to_a_link_is_that_link() -> None:
    tree = Tree(LIMITS)
    tree.put("l", link("/etc/shadow"))
    _, _, node = tree.hard_link("h", "l", 1)
    assert (node.kind, node.target) == (Kind.LINK, "/etc/shadow")


@pytest.mark.parametrize("name", ["f", "d"])
def test_a_hard_link_does_not_take_its_own_target_away(name: str) -> None:
    tree = Tree(LIMITS)
    tree.put("f", file())
    tree.put("d/f", file())
    with pytest.raises(BadEntry, match="what it replaces"):
        tree.hard_link(name, "f" if name == "f" else "d/f", 1)


def test_a_whiteout_takes_away_what_lower_layers_have_and_nothing_of_its_own() -> None:
    tree = Tree(LIMITS)
    tree.put("d/old", file(1))
    tree.put("d/new", file(2))
    assert tree.hide("", "d", 2) == "."
    assert tree.find("d/old") is None
    assert tree.find("d/new") is not None


def test_an_opaque_directory_has_only_what_its_own_layer_has() -> None:
    tree = Tree(LIMITS)
    tree.put("d/sub/old", file(1))
    tree.put("d/sub2/old", file(1))
    tree.put("d/sub/new", file(2))
    assert tree.hide_all("d", 2) == "d"
    assert (tree.find("d/sub/old"), tree.find("d/sub2")) == (None, None)
    assert tree.find("d/sub/new") is not None


@pytest.mark.parametrize("parent", ["", "root"])
def test_nothing_hides_the_whole_image(parent: str) -> None:
    tree = Tree(LIMITS)
    tree.put("root", link("/"))
    with pytest.raises(BadEntry, match="the whole image"):
        tree.hide_all(parent, 2)


def test_a_whiteout_through_a_link_that_leads_out_is_refused() -> None:
    tree = Tree(LIMITS)
    tree.put("evil", link("../../etc"))
    with pytest.raises(BadEntry, match="leads out"):
        tree.hide("evil", "passwd", 2)


NAMES = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), min_size=1, max_size=5).map("/".join)
ENTRIES = st.lists(
    st.tuples(st.sampled_from(["folder", "file", "link", "hard", "hide", "hide_all"]), NAMES, NAMES),
    max_size=25,
)


@given(ENTRIES)
def test_no_order_of_entries_writes_through_a_link_or_out_of_the_root(
    entries: list[tuple[str, str, str]],
) -> None:
    tree = Tree(LIMITS)
    for number, (kind, name, target) in enumerate(entries):
        layer = 1 + number // 8
        try:
            match kind:
                case "folder":
                    paths = [(placed := tree.put(name, folder(layer))).path, *placed.made]
                case "file":
                    paths = [(placed := tree.put(name, file(layer))).path, *placed.made]
                case "link":
                    paths = [(placed := tree.put(name, link(target or "x", layer))).path, *placed.made]
                case "hard":
                    placed, found, _ = tree.hard_link(name, target, layer)
                    paths = [placed.path, *placed.made, found]
                case "hide":
                    paths = [tree.hide(name, "a", layer)]
                case _:
                    paths = [tree.hide_all(name, layer)]
        except BadEntry:
            continue
        for path in filter(None, paths):
            assert not path.startswith("/")
            assert posixpath.normpath(path) == path
            assert ".." not in path.split("/")
            assert not has_link_above(tree, path)


def has_link_above(tree: Tree, path: str) -> bool:
    node = tree.root
    for part in [] if path == "." else path.split("/")[:-1]:
        node = node.children[part]
        if node.kind is Kind.LINK:
            return True
    return False


@given(st.text(alphabet="ab./\0é", max_size=40))
def test_a_split_name_is_plain(name: str) -> None:
    try:
        parts = split(name, LIMITS)
    except BadEntry:
        return
    assert all(part and part not in (".", "..") and "/" not in part for part in parts)
