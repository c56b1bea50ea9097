"""A recipe's document, once its shape is known to be right, made into a `Recipe`; the recipes of our own.

Nothing here needs a package of others': this runs on hosts that have no more of us than sources.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.errors import ConfigError, Problem
from vm_images.interpreters import INTERPRETERS
from vm_images.recipe import Format, OwnFile, Recipe
from vm_images.requirements import check_requirements

__all__ = ["checked", "read_file", "shipped", "shipped_recipe", "to_recipe"]

_FOLDER = Path(__file__).parent / "recipes"
_MAX_BYTES = 64 << 20


def shipped() -> tuple[str, ...]:
    """The names of the recipes that come with the project."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def shipped_recipe(name: str) -> Recipe:
    """One of our own recipes, whose shape needs no check."""
    path = _FOLDER / f"{name}.toml"
    return to_recipe(path, tomllib.loads(path.read_text()))


def to_recipe(path: Path, document: Mapping[str, Any]) -> Recipe:
    """The recipe that a document says, which must have the right shape already.

    Parameters
    ----------
    path: of the document: what it names lies beside it.

    Raises `ConfigError` for what cannot be read, or contradicts itself.
    """
    beside = path.parent
    requirements = document.get("requirements", "")
    recipe = Recipe(
        name=document["name"],
        description=document.get("description", ""),
        kernel=document["kernel"],
        modules=tuple(document["modules"]),
        packages=tuple(document.get("packages", ())),
        format=Format(document.get("format", "erofs")),
        memory_mib=document.get("memory_mib", 256),
        files=tuple(_file(path, index, entry) for index, entry in enumerate(document.get("files", ()))),
        agent=read_file(beside / document["agent"], f"{path}: agent") if document.get("agent") else b"",
        zygote=document.get("zygote", ""),
        busybox=document.get("busybox", False),
        warm_up=document.get("warm_up", ""),
        requirements=read_file(beside / requirements, f"{path}: requirements").decode()
        if requirements
        else "",
    )
    return checked(recipe, f"{path}: requirements", str(path))


def _file(path: Path, index: int, entry: Mapping[str, str]) -> OwnFile:
    place = f"{path}: files.{index}"
    if ("text" in entry) == ("source" in entry):
        message = "a file has either a text or a source"
        raise ConfigError(Problem("file_content", place, message, expected="text = … or source = a path"))
    if ".." in entry["path"].split("/") or "." in entry["path"].split("/"):
        message = f"{entry['path']!r} is not a plain path"
        raise ConfigError(Problem("file_path", f"{place}.path", message, expected="a path without . and .."))
    content = (
        entry["text"].encode()
        if "text" in entry
        else read_file(path.parent / entry["source"], f"{place}.source")
    )
    return OwnFile(entry["path"], content, int(entry.get("mode", "0644"), 8))


def checked(recipe: Recipe, requirements: str, path: str = "") -> Recipe:
    """The same recipe. Raises `ConfigError` for what no schema says.

    Parameters
    ----------
    requirements, path: what they are called in messages.
    """
    problems = check_requirements(recipe.requirements, requirements) if recipe.requirements else []
    where = f"{path}: " if path else ""
    if recipe.format is Format.NONE and (recipe.packages or recipe.requirements or recipe.zygote):
        message = "without a root file system there are no packages, no requirements and no zygote"
        problems.append(Problem("no_root", f"{where}format", message, expected="erofs or squashfs"))
    if recipe.requirements and not _has(recipe, "python3"):
        message = "Python requirements need Python in the image"
        problems.append(Problem("no_python", f"{where}packages", message, expected="python3 among them"))
    if recipe.zygote and not _has(recipe, package := INTERPRETERS[recipe.zygote].package):
        message, expected = f"{recipe.zygote} cannot wait where it is not", f"{package} among them"
        problems.append(Problem("no_interpreter", f"{where}packages", message, expected=expected))
    if recipe.agent and not recipe.agent.startswith(b"\x7fELF"):
        message = "the agent is no ELF program"
        problems.append(Problem("bad_agent", f"{where}agent", message, expected="a static executable"))
    if problems:
        raise ConfigError(problems)
    return recipe


def _has(recipe: Recipe, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in recipe.packages)


def read_file(path: Path, place: str) -> bytes:
    """What is in a file that a recipe or the command line names. Raises `ConfigError`, at `place`."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(Problem("cannot_read", place, message, expected="a file")) from error
    if len(content) > _MAX_BYTES:
        message = f"{path} has more than {_MAX_BYTES >> 20} MiB"
        raise ConfigError(Problem("too_large", place, message, expected="a smaller file"))
    return content
