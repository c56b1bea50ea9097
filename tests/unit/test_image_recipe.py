"""Recipes: what is accepted, and how every mistake is told; requirements are pinned or refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError
from vm_images.recipe import COMMAND_LINE, Format
from vm_images.recipe_document import shipped, shipped_recipe
from vm_images.recipe_file import check_document, extend, load_recipe
from vm_images.requirements import check_requirements, logical_lines

FOLDER = Path(__file__).resolve().parents[2] / "vm_images/recipes"
WHOLE = 'name = "mine"\nkernel = "linux-image-cloud-amd64"\nmodules = ["virtio_mmio"]\n'
HASH = f"--hash=sha256:{'a' * 64}"


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_has_the_shape_that_a_users_must_have(name: str) -> None:
    path = FOLDER / f"{name}.toml"
    check_document(tomllib.loads(path.read_text()), path)
    recipe = shipped_recipe(name)
    assert recipe.name == name and recipe.description
    assert {"virtio_mmio", "virtio_pci", "virtio_console"} <= set(recipe.modules)
    assert load_recipe(name) == recipe


def test_the_shipped_recipes_are_what_the_docs_say() -> None:
    tiny, base, python = (shipped_recipe(name) for name in ("tiny", "base", "python"))
    assert (tiny.format, tiny.busybox, tiny.packages) == (Format.NONE, True, ())
    assert (base.format, base.zygote, base.busybox) == (Format.EROFS, "", False)
    assert python.zygote == "python" and "python3" in python.packages
    node = shipped_recipe("node")
    assert node.zygote == "node" and "nodejs" in node.packages
    assert tiny.all_modules == tiny.modules
    assert python.all_modules[-2:] == ("erofs", "overlay")


def test_nothing_of_a_host_is_in_the_command_line_of_the_kernel() -> None:
    assert "tsc_early_khz" not in COMMAND_LINE and "noreplace-smp" not in COMMAND_LINE


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        (WHOLE + "memory = 5\n", "memory", "one of the keys"),
        ('name = "mine"\nmodules = []\n', "kernel", "a value"),
        (WHOLE + 'memory_mib = "256"\n', "memory_mib", "a whole number"),
        (WHOLE + "memory_mib = 1\n", "memory_mib", "at least 64"),
        (WHOLE + 'format = "ext4"\n', "format", "'none', 'erofs' or 'squashfs'"),
        (WHOLE + 'packages = ["Bad Name"]\n', "packages.0", "text that matches"),
        (WHOLE + 'packages = ["--option"]\n', "packages.0", "text that matches"),
        (WHOLE.replace("mine", "../mine"), "name", "text that matches"),
        (WHOLE + "zygote = true\n", "zygote", "'python' or 'node'"),
        (WHOLE + 'zygote = "python"\n', "packages", "python3 among them"),
        (WHOLE + 'zygote = "node"\n', "packages", "nodejs among them"),
        (WHOLE + 'zygote = "perl"\n', "zygote", "'python' or 'node'"),
        (WHOLE + 'format = "none"\npackages = ["tree"]\n', "format", "erofs or squashfs"),
        (WHOLE + '[[files]]\npath = "/etc/motd"\n', "files.0", "text = …"),
        (WHOLE + '[[files]]\npath = "etc/motd"\ntext = ""\n', "files.0.path", "text that matches"),
        (WHOLE + '[[files]]\npath = "/etc/../motd"\ntext = ""\n', "files.0.path", "without . and .."),
        (WHOLE + '[[files]]\npath = "/x"\ntext = ""\nmode = "4755"\n', "files.0.mode", "text that matches"),
        (WHOLE + '[[files]]\npath = "/x"\nsource = "nothing"\n', "files.0.source", "a file"),
        (WHOLE + 'agent = "mine.toml"\n', "agent", "a static executable"),
        (WHOLE + "name =", "", "a TOML document"),
    ],
)
def test_a_mistake_is_told_with_file_key_and_what_was_expected(
    text: str, place: str, expected: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    [problem] = caught.value.problems
    assert problem.path == (f"{path}: {place}" if place else path)
    assert expected in problem.expected


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, 'name = 1\nkernel = ""\nmodules = ["a b"]\nextra = 1\n'))
    assert len(caught.value.problems) == 4


def test_what_a_recipe_names_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("welcome")
    (tmp_path / "pins.txt").write_text(f"six==1.16.0 {HASH}\n")
    text = 'packages = ["python3"]\nrequirements = "pins.txt"\n'
    text += '[[files]]\npath = "/etc/motd"\nsource = "motd"\nmode = "0600"\n'
    recipe = load_recipe(write(tmp_path, WHOLE + text))
    assert [(file.path, file.content, file.mode) for file in recipe.files] == [
        ("/etc/motd", b"welcome", 0o600)
    ]
    assert HASH in recipe.requirements


def test_an_unknown_name_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="base, node, python, tiny"):
        load_recipe("pyton")


def test_an_image_with_more_in_it_needs_a_name_of_its_own(tmp_path: Path) -> None:
    python = shipped_recipe("python")
    with pytest.raises(ConfigError, match="--name my-python"):
        extend(python, packages=("tree",))
    extended = extend(python, packages=("tree", "python3"), name="mine", kind="squashfs")
    assert (extended.name, extended.packages) == ("mine", ("python3", "tree"))
    assert extended.all_modules[-2:] == ("squashfs", "overlay")
    assert extend(python) == python
    for wrong in ({"packages": ("tree",)}, {"kind": "erofs"}):
        with pytest.raises(ConfigError, match="has no root file system"):
            extend(shipped_recipe("tiny"), name="mine", **wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError) as caught:
        extend(python, packages=("-o=x",), name="Mine")
    assert [problem.path.partition(":")[0] for problem in caught.value.problems] == ["--name", "--package"]


@pytest.mark.parametrize(
    "line",
    [
        f"six==1.16.0 {HASH}",
        f"requests[socks]==2.31.0 ; python_version >= '3.8' {HASH} {HASH}",
        f"six == 1.16.0 \\\n    {HASH} \\\n    {HASH}  # via something",
    ],
)
def test_a_pinned_version_with_hashes_is_accepted(line: str) -> None:
    assert check_requirements(f"# a comment\n\n{line}\n", "r.txt") == []


@pytest.mark.parametrize(
    "line",
    [
        "six",
        "six==1.16.0",
        f"six>=1.16.0 {HASH}",
        f"six==1.* {HASH}",
        "six==1.16.0 --hash=md5:aa",
        f"six==1.16.0 --hash=sha256:{'a' * 63}",
        f"six @ https://example.org/six.whl {HASH}",
        f"./six.whl {HASH}",
        f"-e . {HASH}",
        "--index-url https://example.org",
        "--extra-index-url=https://example.org",
        "-r other.txt",
        f"six==1.16.0 --index-url https://example.org {HASH}",
        f"six==1.16.0 {HASH} --find-links /srv/x",
    ],
)
def test_anything_else_is_refused_with_its_line(line: str) -> None:
    [problem] = check_requirements(f"six==1.16.0 {HASH}\n# more\n{line}\n", "r.txt")
    assert problem.path == "r.txt: line 3" and problem.fix


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=5))
def test_lines_mean_the_same_wherever_they_are_continued(breaks: list[list[bool]]) -> None:
    words = ["six==1.16.0", ";", "x", HASH]
    text = ""
    first: list[int] = []
    for places in breaks:
        first.append(text.count("\n") + 1)
        for word, broken in zip(words, [*places, False], strict=True):
            text += word + (" \\\n  " if broken else " ")
        text += "# why\n"
    found = [(number, line.split()) for number, line in logical_lines(text)]
    assert found == [(number, words) for number in first]
