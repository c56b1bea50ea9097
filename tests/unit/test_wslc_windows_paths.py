"""Windows' path names: what means the same is read as the same, what can be read in two ways is refused."""

from __future__ import annotations

import ntpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Problem
from backends.wslc.windows.paths import WindowsPath, read_path

POINTER = "/filesystem/readonlyPaths/0"


def read(written: str) -> WindowsPath:
    path = read_path(written, POINTER)
    assert isinstance(path, WindowsPath), path
    return path


@pytest.mark.parametrize(
    ("written", "host", "inside"),
    [
        ("C:\\x\\y", "C:\\x\\y", "/mnt/c/x/y"),
        ("c:/x/y", "C:\\x\\y", "/mnt/c/x/y"),
        ("C:\\Code/src\\", "C:\\Code\\src", "/mnt/c/Code/src"),
        ("d:\\\\a\\.\\b", "D:\\a\\b", "/mnt/d/a/b"),
        ("C:\\", "C:\\", "/mnt/c"),
        ("C:\\Program Files\\täglich", "C:\\Program Files\\täglich", "/mnt/c/Program Files/täglich"),
        ("C:\\it's", "C:\\it's", "/mnt/c/it's"),
        ("C:\\.git\\a.b.c", "C:\\.git\\a.b.c", "/mnt/c/.git/a.b.c"),
        ("C:\\CONSOLE\\nulls.txt", "C:\\CONSOLE\\nulls.txt", "/mnt/c/CONSOLE/nulls.txt"),
    ],
)
def test_what_means_the_same_is_read_as_the_same(written: str, host: str, inside: str) -> None:
    path = read(written)
    assert (str(path), path.inside) == (host, inside)


@pytest.mark.parametrize(
    ("written", "code", "fix"),
    [
        ("\\\\server\\share\\x", "path_unc", "copy what is needed to a local drive, and grant that"),
        ("//server/share", "path_unc", "copy what is needed to a local drive, and grant that"),
        ("relative\\x", "path_relative", "write the path with its drive"),
        ("\\rooted", "path_relative", "write the path with its drive"),
        ("", "path_relative", "write the path with its drive"),
        (" C:\\x", "path_relative", "write the path with its drive"),
        ("C:x", "path_relative", "write 'C:\\x' if that is meant"),
        ("C:", "path_relative", "write 'C:\\' if that is meant"),
        ("/mnt/c/code", "path_relative", "write 'C:\\code'"),
        ("/mnt/d", "path_relative", "write 'D:\\'"),
        ("/home/dev", "path_relative", "write the path with its drive"),
        ("\\\\?\\C:\\x", "path_device", "write 'C:\\x'"),
        ("\\\\.\\PhysicalDrive0", "path_device", "name the file or directory by its drive"),
        ("//?/C:/x", "path_device", "name the file or directory by its drive"),
        ("\\??\\C:\\x", "path_device", "name the file or directory by its drive"),
        ("C:\\a\\..\\b", "path_ambiguous", "write 'C:\\b' if that is meant"),
        ("C:\\..\\..\\b", "path_ambiguous", "write 'C:\\b' if that is meant"),
        ("C:\\a.txt:stream", "path_stream", "name 'a.txt' without what follows the colon"),
        ("C:\\a:b\\c", "path_stream", "name 'a' without what follows the colon"),
        ("C:\\a::$DATA", "path_stream", "name 'a' without what follows the colon"),
        ("C:\\NUL", "path_reserved", "remove the entry"),
        ("C:\\x\\con.txt", "path_reserved", "remove the entry"),
        ("C:\\aux \\x", "path_reserved", "remove the entry"),
        ("C:\\com1", "path_reserved", "remove the entry"),
        ("C:\\LPT³.log", "path_reserved", "remove the entry"),
        ("C:\\x.", "path_trailing", "write 'x' if that is meant"),
        ("C:\\x \\y", "path_trailing", "write 'x' if that is meant"),
        ("C:\\...", "path_trailing", "remove it from the path"),
        ("C:\\a\0b", "path_characters", "correct 'a\\x00b'"),
        ('C:\\a"b', "path_characters", "correct 'a\"b'"),
        ("C:\\a*", "path_characters", "correct 'a*'"),
        ("C:\\a\nb", "path_characters", "correct 'a\\nb'"),
        ("C:\\a\ud800", "path_not_utf8", "rename it, or remove the entry"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_its_fix(written: str, code: str, fix: str) -> None:
    fault = read_path(written, POINTER)
    assert isinstance(fault, Problem)
    assert (fault.code, fault.path, fault.fix) == (code, POINTER, fix)
    assert fault.message.isprintable()
    fault.message.encode()


names = st.text(st.characters(exclude_characters='\\/:<>"|?*', exclude_categories=("C",)), min_size=1).filter(
    lambda name: isinstance(read_path(f"C:\\{name}", POINTER), WindowsPath) and name != "."
)
places = st.lists(names, max_size=4)
separators = st.sampled_from(["\\", "/", "\\\\", "\\.\\", "/./"])


@st.composite
def spellings(draw: st.DrawFn, parts: list[str]) -> str:
    """One of the ways in which Windows takes the same name."""
    drive = draw(st.sampled_from(["c", "C"]))
    text = f"{drive}:{draw(st.sampled_from(['/', chr(92)]))}"
    for part in parts:
        cased = "".join(draw(st.sampled_from([c, _swapped(c)])) for c in part)
        text += cased + draw(separators)
    return text


def _swapped(letter: str) -> str:
    """In the other case, where there is exactly one and it leads back."""
    other = letter.swapcase()
    return other if len(other) == 1 and other.swapcase() == letter else letter


@given(st.data(), places)
def test_every_spelling_of_one_path_is_one_path(data: st.DataObject, parts: list[str]) -> None:
    one, other = data.draw(spellings(parts)), data.draw(spellings(parts))
    assert read(one).key == read(other).key
    assert read(one).within(read(other))


@given(st.text())
def test_what_is_read_means_to_windows_what_was_written(written: str) -> None:
    path = read_path(written, POINTER)
    if isinstance(path, WindowsPath):
        drive, rest = ntpath.splitdrive(ntpath.normpath(written))
        assert str(path) == drive.upper() + rest
        assert path.inside == "/mnt/" + drive[0].lower() + rest.replace("\\", "/").rstrip("/")


@given(
    st.lists(st.sampled_from(["a", "A", "b", "ab"]), max_size=3),
    st.lists(st.sampled_from(["a", "b"]), max_size=3),
)
def test_a_path_lies_in_a_tree_component_by_component(inner: list[str], outer: list[str]) -> None:
    path, tree = WindowsPath("C", tuple(inner)), WindowsPath("C", tuple(outer))
    expected = [name.lower() for name in inner[: len(outer)]] == outer
    assert path.within(tree) is expected


def test_capitals_that_take_two_letters_are_not_windows_capitals() -> None:
    assert read("C:\\straße").key != read("C:\\STRASSE").key
    assert read("C:\\ÄRGER").key == read("C:\\ärger").key
