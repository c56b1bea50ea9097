"""Windows' path names as text, and the names that they have in a container (pure: the same on any system).

Sources: backends.md §5 (``C:\\x`` is ``/mnt/c/x``; UNC and relative names are refused); Microsoft's "Naming
Files, Paths, and Namespaces" (reserved names and characters, streams, trailing dots, ``\\\\?\\`` and
``\\\\.\\``). Only what means exactly the same in Windows is read as the same: the two separators, the drive's
letter in either case, empty and ``.`` components, a separator at the end.
"""

from __future__ import annotations

import re

from backends.errors import Problem
from backends.frozen import frozen

__all__ = ["WindowsPath", "read_path", "shown"]

_SEPARATORS = re.compile(r"[\\/]")
_DEVICE = re.compile(r"[\\/]{2}[?.](?:[\\/]|$)|\\\?\?\\")
_MOUNTED = re.compile(r"/mnt/([a-zA-Z])(/.*)?")
_FORBIDDEN = frozenset('<>"|?*')
_RESERVED = frozenset(
    (
        *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
        *(device + number for device in ("COM", "LPT") for number in "0123456789¹²³"),
    )
)
_ABSOLUTE = "an absolute path on a drive, such as 'C:\\code'"


@frozen
class WindowsPath:
    """A place on one drive. `drive` is its letter in upper case, `names` are as they were written."""

    drive: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.drive}:\\" + "\\".join(self.names)

    @property
    def inside(self) -> str:
        """The name in a container (backends.md §5)."""
        return "/".join(("/mnt", self.drive.lower(), *self.names))

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for all spellings that Windows takes for one, and perhaps for some that it tells apart.

        Windows compares letter by letter in a table of capitals, which a directory may have switched off.
        This table has all that Windows' has: to take two for one tightens a policy, the reverse loosens it.
        """
        return (self.drive, *("".join(map(_capital, name)) for name in self.names))

    def within(self, tree: WindowsPath) -> bool:
        """Whether this is `tree` or lies in it, component by component."""
        return self.key[: len(tree.key)] == tree.key


def read_path(written: str, pointer: str) -> WindowsPath | Problem:
    """What `written` names, or why that cannot be told; `pointer` is where the user wrote it."""
    if (fault := _whole(written, pointer)) is not None:
        return fault
    drive, rest = written[0].upper(), written[3:]
    names = tuple(name for name in _SEPARATORS.split(rest) if name not in ("", "."))
    for name in names:
        if (fault := _component(name, written, pointer)) is not None:
            return fault
    if ".." in names:
        return Problem(
            "path_ambiguous",
            pointer,
            f"{shown(written)} goes up with '..', which Windows does by the text and Linux by what is there",
            expected="a path without '..'",
            fix=f"write {shown(str(WindowsPath(drive, _folded(names))))} if that is meant",
        )
    return WindowsPath(drive, names)


def shown(text: str) -> str:
    """`text` in quotes, for messages: backslashes as they are, what cannot be printed escaped."""
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + "'"


def _capital(letter: str) -> str:
    capital = letter.upper()
    return capital if len(capital) == 1 else letter  # Windows knows no 'SS' for 'ß'


def _folded(names: tuple[str, ...]) -> tuple[str, ...]:
    kept: list[str] = []
    for name in names:
        if name == "..":
            del kept[-1:]
        else:
            kept.append(name)
    return tuple(kept)


def _whole(written: str, pointer: str) -> Problem | None:
    """What is wrong with the path before its components are looked at."""
    if not _is_text(written):
        message = f"{shown(written)} holds half of a UTF-16 pair: the container cannot name it"
        return Problem("path_not_utf8", pointer, message, fix="rename it, or remove the entry")
    if _DEVICE.match(written):
        message = f"{shown(written)} is of the device namespace, where Windows checks no names"
        return Problem("path_device", pointer, message, expected=_ABSOLUTE, fix=_without_prefix(written))
    if re.match(r"[\\/]{2}", written):
        message = f"{shown(written)} is on another machine; only local drives can be seen in a container"
        fix = "copy what is needed to a local drive, and grant that"
        return Problem("path_unc", pointer, message, expected=_ABSOLUTE, fix=fix)
    if re.match(r"[A-Za-z]:[\\/]", written):
        return None
    message = f"{shown(written)} is relative: what it names depends on where the run is started"
    fix = "write the path with its drive"
    if re.match(r"[A-Za-z]:", written):
        message = f"{shown(written)} is relative to the working directory on drive {written[0].upper()}:"
        fix = f"write {shown(written[:2] + chr(92) + written[2:])} if that is meant"
    elif mounted := _MOUNTED.fullmatch(written):
        message = f"{shown(written)} is a name of the container; here the host's is wanted"
        rest = (mounted[2] or "/").replace("/", "\\")
        fix = f"write {shown(f'{mounted[1].upper()}:{rest}')}"
    return Problem("path_relative", pointer, message, expected=_ABSOLUTE, fix=fix)


def _without_prefix(written: str) -> str:
    local = re.fullmatch(r"\\\\\?\\([A-Za-z]:\\.*)", written, re.DOTALL)
    return f"write {shown(local[1])}" if local else "name the file or directory by its drive"


def _component(name: str, written: str, pointer: str) -> Problem | None:
    """What is wrong with one name of a path."""
    if ":" in name:
        file = name.partition(":")[0]
        return Problem(
            "path_stream",
            pointer,
            f"{shown(written)} names a stream of {shown(file)}, and only whole files can be given",
            fix=f"name {shown(file)} without what follows the colon",
        )
    if any(ord(letter) < 32 or letter in _FORBIDDEN for letter in name):
        message = f"{shown(written)} holds a character that no name in Windows can have"
        return Problem("path_characters", pointer, message, fix=f"correct {shown(name)}")
    if name.partition(".")[0].rstrip(" ").upper() in _RESERVED:
        message = f"{shown(written)} names a device of Windows: {shown(name)} is no file in any directory"
        return Problem("path_reserved", pointer, message, fix="remove the entry")
    if name != ".." and name[-1] in ". ":
        stripped = name.rstrip(". ")
        fix = f"write {shown(stripped)} if that is meant" if stripped else "remove it from the path"
        message = f"{shown(name)} in {shown(written)} ends in a dot or a blank, which Windows drops"
        return Problem("path_trailing", pointer, message, fix=fix)
    return None


def _is_text(written: str) -> bool:
    try:
        written.encode()
    except UnicodeEncodeError:
        return False
    return True
