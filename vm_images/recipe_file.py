"""Recipes as files: TOML, closed, every mistake told with file, key and what was expected."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import ErrorDetails, SchemaValidator, ValidationError

from backends.errors import ConfigError, Problem
from backends.frozen import replace
from vm_images.interpreters import INTERPRETERS
from vm_images.recipe import Format, Recipe
from vm_images.recipe_document import checked, read_file, shipped, shipped_recipe, to_recipe

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

__all__ = ["check_document", "extend", "load_recipe"]

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


def load_recipe(given: str) -> Recipe:
    """A recipe by the name of a shipped one, or by the path of a file (with a slash, or ending in .toml).

    Raises `ConfigError` for what cannot be read, is no recipe, or contradicts itself.
    """
    if "/" not in given and not given.endswith(".toml"):
        if given not in shipped():
            message = f"no recipe is called {given!r}"
            expected = f"{', '.join(shipped())}, or the path of a recipe"
            raise ConfigError(Problem("unknown_recipe", given, message, expected=expected))
        return shipped_recipe(given)
    path = Path(given)
    try:
        document = tomllib.loads(read_file(path, str(path)).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(Problem("not_toml", str(path), str(error), expected="a TOML document")) from error
    check_document(document, path)
    return to_recipe(path, document)


def check_document(document: object, path: Path) -> None:
    """Whether it is a recipe by its shape. Raises `ConfigError` with everything that is not."""
    try:
        _SCHEMA.validate_python(document)
    except ValidationError as error:
        raise ConfigError([_problem(str(path), found) for found in error.errors()]) from error


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
    text = read_file(Path(requirements), "--requirements").decode("utf-8", "replace") if requirements else ""
    return checked(
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
                "zygote": {"type": "literal", "expected": list(INTERPRETERS)},
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
