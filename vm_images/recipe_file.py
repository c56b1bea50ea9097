"""Recipes as files: TOML, closed, every mistake told with file, key and what was expected."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import ErrorDetails, SchemaValidator, ValidationError

from backends.errors import ConfigError, Problem
from backends.frozen import replace
from vm_images.recipe import Format, OwnFile, Recipe
from vm_images.requirements import check_requirements

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

__all__ = ["extend", "load_recipe", "shipped"]

_FOLDER = Path(__file__).parent / "recipes"
_MAX_BYTES = 64 << 20
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
PACKAGE = r"^[a-z0-9][a-z0-9.+-]{1,127}$"
_MODULE = r"^[A-Za-z0-9_-]{1,64}$"
_GUEST_PATH = r"^(/[^/\x00]+)+$"
_EXPECTED = {
    "extra_forbidden": "one of the keys of a recipe: see docs/images.md",
    "missing": "a value",
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "list_type": "a list",
    "dict_type": "a table",
}


def shipped() -> tuple[str, ...]:
    """The names of the recipes that come with the project."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load_recipe(given: str) -> Recipe:
    """A recipe by the name of a shipped one, or by the path of a file (with a slash, or ending in .toml).

    Raises `ConfigError` for what cannot be read, is no recipe, or contradicts itself.
    """
    if "/" not in given and not given.endswith(".toml"):
        if given not in shipped():
            message = f"no recipe is called {given!r}"
            expected = f"{', '.join(shipped())}, or the path of a recipe"
            raise ConfigError(Problem("unknown_recipe", given, message, expected=expected))
        path = _FOLDER / f"{given}.toml"
    else:
        path = Path(given)
    try:
        document = tomllib.loads(_read(path, str(path)).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(Problem("not_toml", str(path), str(error), expected="a TOML document")) from error
    return _recipe(path, document)


def extend(
    recipe: Recipe, *, name: str = "", packages: tuple[str, ...] = (), requirements: str = "", kind: str = ""
) -> Recipe:
    """A recipe with more in it.

    Parameters
    ----------
    name: what the result is called; needed as soon as its content is another one.
    packages: further Debian packages.
    requirements: the path of a requirements file.
    kind: another format of the root file system.

    Raises `ConfigError` for what does not fit the recipe.
    """
    problems: list[Problem] = []
    changed = bool(packages or requirements or (kind and kind != recipe.format.value))
    if recipe.format is Format.NONE and changed:
        message = f"{recipe.name} has no root file system that something could be added to"
        problems.append(Problem("no_root", "", message, expected="another recipe, e.g. base or python"))
    if changed and not name:
        message = "an image with other content needs a name of its own"
        problems.append(Problem("no_name", "--name", message, fix=f"add --name my-{recipe.name}"))
    fields = {"name": name or recipe.name, "packages": list(packages)}
    try:
        _SCHEMA_EXTRA.validate_python(fields)
    except ValidationError as error:
        flags = {"name": "--name", "packages": "--package"}
        problems += [_problem(flags[str(found["loc"][0])], found) for found in error.errors()]
    if problems:
        raise ConfigError(problems)
    text = _read(Path(requirements), "--requirements").decode("utf-8", "replace") if requirements else ""
    return _checked(
        replace(
            recipe,
            name=name or recipe.name,
            packages=tuple(dict.fromkeys((*recipe.packages, *packages))),
            requirements=text or recipe.requirements,
            format=Format(kind) if kind else recipe.format,
        ),
        requirements or "--requirements",
    )


def _text(pattern: str = "", *, longest: int = 4096) -> dict[str, Any]:
    return {"type": "str", "max_length": longest} | ({"pattern": pattern} if pattern else {})


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "list", "items_schema": items, "max_length": 1000}


def _table(required: Mapping[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: _field(schema, required=True) for name, schema in required.items()}
    fields |= {name: _field(schema, required=False) for name, schema in optional.items()}
    return {"type": "typed-dict", "fields": fields, "extra_behavior": "forbid", "config": {"strict": True}}


def _field(schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    return {"type": "typed-dict-field", "schema": schema, "required": required}


_FILE = _table(
    {"path": _text(_GUEST_PATH)},
    {"text": _text(longest=1 << 20), "source": _text(), "mode": _text("^0[0-7]{3}$")},
)
_SCHEMA = SchemaValidator(
    cast(
        "CoreSchema",
        _table(
            {"name": _text(NAME), "kernel": _text(PACKAGE), "modules": _list(_text(_MODULE))},
            {
                "description": _text(),
                "packages": _list(_text(PACKAGE)),
                "format": {"type": "literal", "expected": [kind.value for kind in Format]},
                "memory_mib": {"type": "int", "ge": 64, "le": 1 << 20},
                "files": _list(_FILE),
                "agent": _text(),
                "zygote": {"type": "bool"},
                "busybox": {"type": "bool"},
                "warm_up": _text(),
                "requirements": _text(),
            },
        ),
    )
)
_SCHEMA_EXTRA = SchemaValidator(
    cast("CoreSchema", _table({"name": _text(NAME), "packages": _list(_text(PACKAGE))}, {}))
)


def _recipe(path: Path, document: dict[str, Any]) -> Recipe:
    try:
        _SCHEMA.validate_python(document)
    except ValidationError as error:
        raise ConfigError([_problem(str(path), found) for found in error.errors()]) from error
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
        agent=_read(beside / document["agent"], f"{path}: agent") if document.get("agent") else b"",
        zygote=document.get("zygote", False),
        busybox=document.get("busybox", False),
        warm_up=document.get("warm_up", ""),
        requirements=_read(beside / requirements, f"{path}: requirements").decode() if requirements else "",
    )
    return _checked(recipe, f"{path}: requirements", str(path))


def _file(path: Path, index: int, entry: Mapping[str, str]) -> OwnFile:
    place = f"{path}: files.{index}"
    if ("text" in entry) == ("source" in entry):
        message = "a file has either a text or a source"
        raise ConfigError(Problem("file_content", place, message, expected="text = … or source = a path"))
    if ".." in entry["path"].split("/") or "." in entry["path"].split("/"):
        message = f"{entry['path']!r} is not a plain path"
        raise ConfigError(Problem("file_path", f"{place}.path", message, expected="a path without . and .."))
    content = (
        entry["text"].encode() if "text" in entry else _read(path.parent / entry["source"], f"{place}.source")
    )
    return OwnFile(entry["path"], content, int(entry.get("mode", "0644"), 8))


def _checked(recipe: Recipe, requirements: str, path: str = "") -> Recipe:
    """What no schema says."""
    problems = check_requirements(recipe.requirements, requirements) if recipe.requirements else []
    where = f"{path}: " if path else ""
    if recipe.format is Format.NONE and (recipe.packages or recipe.requirements or recipe.zygote):
        message = "without a root file system there are no packages, no requirements and no zygote"
        problems.append(Problem("no_root", f"{where}format", message, expected="erofs or squashfs"))
    if (recipe.zygote or recipe.requirements) and not any(
        name == "python3" or name.startswith("python3.") for name in recipe.packages
    ):
        message = "a zygote, and Python requirements, need Python in the image"
        problems.append(Problem("no_python", f"{where}packages", message, expected="python3 among them"))
    if recipe.agent and not recipe.agent.startswith(b"\x7fELF"):
        message = "the agent is no ELF program"
        problems.append(Problem("bad_agent", f"{where}agent", message, expected="a static executable"))
    if problems:
        raise ConfigError(problems)
    return recipe


def _read(path: Path, place: str) -> bytes:
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


def _problem(place: str, found: ErrorDetails) -> Problem:
    key = ".".join(map(str, found["loc"]))
    expected = _EXPECTED.get(found["type"], "")
    context: Mapping[str, Any] = found.get("ctx", {})
    if found["type"] == "string_pattern_mismatch":
        expected = f"text that matches {context['pattern']}"
    elif found["type"] == "literal_error":
        expected = str(context["expected"])
    elif found["type"] in ("greater_than_equal", "less_than_equal"):
        expected = (
            f"a number {'of at least' if 'ge' in context else 'up to'} {context.get('ge', context.get('le'))}"
        )
    path = place if place.startswith("--") else f"{place}: {key}"
    return Problem(found["type"], path, found["msg"], expected=expected or found["msg"])
