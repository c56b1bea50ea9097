"""Documents generated from a JSON Schema, some of them then damaged: hypothesis strategies."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

from hypothesis import strategies as st

Step = str | int

# Values by field name that a rule beyond the schema has something to say about.
_TELLING: Mapping[str, tuple[Any, ...]] = {
    "commandLine": ("true", "echo a; echo b"),
    "env": ("A=b", "LANG=C"),
    "cidr": ("192.0.2.0/24", "2001:db8::/32"),
    "except": ("192.0.2.128/25",),
    "networkProxy": ("http://127.0.0.1:8080", "https://[::1]:1"),
    "url": ("http://proxy.example:8080",),
    "readonlyPaths": ("/usr", "C:\\temp"),
    "readwritePaths": ("/work",),
    "deniedPaths": ("/srv/secret",),
    "allowedHosts": ("192.0.2.1",),
    "blockedHosts": ("192.0.2.2",),
    "capabilities": ("internetClient",),
    "sandboxId": ("wslc:0123456789abcdef0123456789abcdef", "iso:x", "wsb:0123abcd"),
    "outputPath": ("/tmp/denials.json",),
}
_STRINGS = ("", "a", "python3 app.py", "ü")
_JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.0, 3.5, 65536, 2**32, 2**64,
    "", "x", "allow", [], [None], [1], ["a"], {}, {"x": 1},
)  # fmt: skip
_NAMES = (
    "unknown",
    "args",
    "experimental",
    "phase",
    "appContainer",
    "macos_sandbox",
    "readonly_paths",
    "url",
)


def documents(schema: Mapping[str, Any], version: str) -> st.SearchStrategy[dict[str, Any]]:
    """Documents that mostly satisfy `schema`, each stamped with `version`, about half of them damaged."""
    return st.composite(_document)(schema, version)


def _document(draw: st.DrawFn, schema: Mapping[str, Any], version: str) -> dict[str, Any]:
    roots = [root for root in schema.get("definitions", {}) if root.endswith("Request")]
    start = schema["definitions"][draw(st.sampled_from(roots))] if roots else schema
    document = cast("dict[str, Any]", _instance(draw, start, schema, "", 0))
    document["version"] = version
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2)))):
        document = damaged(draw, document)
    return document


def _instance(draw: st.DrawFn, schema: Any, root: Mapping[str, Any], name: str, depth: int) -> Any:
    if isinstance(schema, bool) or not schema:
        return draw(st.sampled_from(_JUNK))
    if "$ref" in schema:
        return _instance(draw, _resolved(schema["$ref"], root), root, name, depth)
    for keyword in ("oneOf", "anyOf"):
        if keyword in schema and "properties" not in schema:
            return _instance(draw, draw(st.sampled_from(schema[keyword])), root, name, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    types: str | list[str] = schema.get("type", "object")
    wanted = types if isinstance(types, str) else draw(st.sampled_from(types))
    if wanted == "object":
        return _object(draw, schema, root, depth)
    if wanted == "array":
        length = draw(st.integers(schema.get("minItems", 0), 2))
        return [_instance(draw, schema["items"], root, name, depth + 1) for _ in range(length)]
    return _scalar(draw, wanted, schema, name)


def _object(
    draw: st.DrawFn, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int
) -> dict[str, Any]:
    names = sorted(schema.get("properties", {}))
    needed = schema.get("required", [])
    chosen: set[str] = set()
    if names and depth < 6:
        chosen = draw(st.sets(st.sampled_from(names), max_size=3 if depth else 5))
    return {
        name: _instance(draw, schema["properties"][name], root, name, depth + 1)
        for name in names
        if name in chosen or name in needed
    }


def _scalar(draw: st.DrawFn, wanted: str, schema: Mapping[str, Any], name: str) -> Any:
    if wanted == "string":
        choices = _TELLING.get(name, _STRINGS)
        return draw(st.sampled_from([text for text in choices if len(text) >= schema.get("minLength", 0)]))
    if wanted == "boolean":
        return draw(st.booleans())
    if wanted == "integer":
        return draw(st.integers(int(schema.get("minimum", 0)), int(schema.get("maximum", 2**32))))
    assert wanted == "null", wanted
    return None


def _resolved(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def damaged(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """`document` with one place replaced, removed or added to."""
    changed = copy.deepcopy(document)
    places = list(containers(changed))
    place = draw(st.sampled_from(places))
    action = draw(st.sampled_from(("replace", "remove", "add")))
    if isinstance(place, list):
        place.append(draw(st.sampled_from(_JUNK)))
    elif action == "add" or not place:
        name = draw(st.sampled_from(_NAMES))
        place[name] = draw(st.sampled_from(_JUNK))
    elif action == "remove":
        del place[draw(st.sampled_from(sorted(place)))]
    else:
        place[draw(st.sampled_from(sorted(place)))] = draw(st.sampled_from(_JUNK))
    return changed


def containers(value: Any) -> Iterator[dict[str, Any] | list[Any]]:
    """Every object and array of a document, outermost first."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        yield members
        for member in members.values():
            yield from containers(member)
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        yield items
        for item in items:
            yield from containers(item)


def at(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer; None when there is none."""
    found: Any = document
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and step.isdigit():
            found = cast("list[Any]", found)[int(step)]
        elif isinstance(found, dict):
            found = cast("dict[str, Any]", found).get(step)
        else:
            return None
    return found
