"""Functions of the host that code in a guest may call: by name, with JSON, and nothing else."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backends.errors import ConfigError, Problem
from backends.frozen import frozen

if TYPE_CHECKING:
    from pydantic import BaseModel, TypeAdapter

__all__ = ["BadArguments", "Tool", "Toolbox", "make_tool"]

_MOST_NAME = 64
_MOST_SHOWN = 80


class BadArguments(ValueError):
    """What a guest passed is not what the function takes: which argument, and of what type it is to be."""


@frozen
class Tool:
    """`check` makes of a guest's arguments what the function is called with; raises `BadArguments`."""

    name: str
    function: Callable[..., Any]
    timeout_s: float | None
    is_async: bool
    check: Callable[[Sequence[Any], Mapping[str, Any]], tuple[Sequence[Any], Mapping[str, Any]]]


class Toolbox:
    """Those of one object, by name; registered one by one, also between runs."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    def add(self, tool: Tool) -> None:
        """Raises `ConfigError` for a name that is taken."""
        if tool.name in self._tools:
            raise ConfigError(
                Problem(
                    "tool_taken", "name", f"a tool is called {tool.name!r} already", expected="a new name"
                )
            )
        self._tools = {**self._tools, tool.name: tool}

    def allowed(self, allow: Iterable[str] | None) -> dict[str, Tool]:
        """All of them, or those that `allow` names. Raises `ConfigError` for a name that none has."""
        if allow is None:
            return self._tools
        if isinstance(allow, str):
            raise ConfigError(
                Problem("wrong_type", "allow", "one text is no list of names", expected="[name]")
            )
        names = list(allow)
        unknown = [name for name in names if name not in self._tools]
        if unknown:
            known = ", ".join(self._tools) or "none"
            message = f"no tool is called {unknown[0]!r}; there are: {known}"
            raise ConfigError(Problem("unknown_tool", "allow", message, fix="register_tool it first"))
        return {name: self._tools[name] for name in names}


def make_tool(
    name_or_tool: str | Callable[..., Any],
    function: Callable[..., Any] | None,
    timeout_s: float | None,
    schema: type[BaseModel] | None = None,
) -> Tool:
    """See `mxc_ops.Hyperlight.register_tool`. Raises `ConfigError`."""
    if isinstance(name_or_tool, str):
        name = name_or_tool
    else:
        name, function = str(getattr(name_or_tool, "__name__", "")), name_or_tool
    if not callable(function):
        raise ConfigError(Problem("wrong_type", "callback", "a tool is a function", expected="a callable"))
    if not (name.isascii() and name.isidentifier() and len(name) <= _MOST_NAME):
        message = f"{name!r} is no name that code can call"
        raise ConfigError(Problem("invalid_value", "name", message, expected="letters, digits and _"))
    if timeout_s is not None and not timeout_s > 0:
        raise ConfigError(
            Problem("out_of_range", "timeout_s", f"{timeout_s} is no time", expected="> 0, or None")
        )
    check = _by_annotations(name, function) if schema is None else _by_model(schema)
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the method, not whether there is one
    )
    return Tool(name, function, timeout_s, is_async, check)


def _by_model(
    model: type[BaseModel],
) -> Callable[[Sequence[Any], Mapping[str, Any]], tuple[Sequence[Any], Mapping[str, Any]]]:
    names = list(model.model_fields)

    def check(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        from pydantic import ValidationError

        if len(args) > len(names):
            raise BadArguments(f"{len(args)} arguments were passed, and {len(names)} are the most")
        twice = [name for name in names[: len(args)] if name in kwargs]
        if twice:
            raise BadArguments(f"{twice[0]} was passed twice")
        passed = {**dict(zip(names, args, strict=False)), **kwargs}
        try:
            read = model.model_validate_json(json.dumps(passed), strict=True)
        except ValidationError as error:
            raise BadArguments(_told("", error)) from None
        return (), {name: getattr(read, name) for name in names if name in read.model_fields_set}

    return check


def _by_annotations(
    name: str, function: Callable[..., Any]
) -> Callable[[Sequence[Any], Mapping[str, Any]], tuple[Sequence[Any], Mapping[str, Any]]]:
    try:
        signature = inspect.signature(function)
    except (
        TypeError,
        ValueError,
    ):  # some of C's say nothing: the function itself refuses what it cannot take
        return lambda args, kwargs: (args, kwargs)
    adapters = _adapters(name, function, signature)

    def check(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(str(error)) from None
        for argument, value in bound.arguments.items():
            adapter = adapters.get(argument)
            if adapter is None:
                continue
            kind = signature.parameters[argument].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[argument] = tuple(_read(argument, adapter, one) for one in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[argument] = {key: _read(key, adapter, one) for key, one in value.items()}
            else:
                bound.arguments[argument] = _read(argument, adapter, value)
        return bound.args, bound.kwargs

    return check


def _adapters(
    name: str, function: Callable[..., Any], signature: inspect.Signature
) -> dict[str, TypeAdapter[Any]]:
    """By argument, for those that say their type."""
    annotated = [
        argument
        for argument, parameter in signature.parameters.items()
        if parameter.annotation is not inspect.Parameter.empty
    ]
    if not annotated:
        return {}
    from pydantic import PydanticUserError, TypeAdapter

    target = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    try:
        hints = typing.get_type_hints(target, include_extras=True)
        return {argument: TypeAdapter(hints[argument]) for argument in annotated if argument in hints}
    except (PydanticUserError, NameError, TypeError) as error:
        message = f"the types that {name} says for its arguments cannot be checked: {error}"
        fix = "annotate them with types of JSON or pydantic, or pass a model as schema="
        raise ConfigError(Problem("tool_untyped", "callback", message, fix=fix)) from error


def _read(argument: str, adapter: TypeAdapter[Any], value: Any) -> Any:
    from pydantic import ValidationError

    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise BadArguments(_told(argument, error)) from None


def _told(argument: str, error: Any) -> str:
    """Which argument, what it is to be, and what it is; the first three if there are more."""
    said: list[str] = []
    for one in error.errors(include_url=False, include_context=False)[:3]:
        place = ".".join(str(part) for part in ((argument,) if argument else ()) + tuple(one["loc"]))
        given = json.dumps(one["input"], default=str)
        given = given if len(given) <= _MOST_SHOWN else f"{given[:_MOST_SHOWN]}…"
        said.append(f"{place}: {one['msg']}, not {given} ({_json_type(one['input'])})")
    return "; ".join(said)


def _json_type(value: object) -> str:
    names = {"bool": "boolean", "int": "integer", "float": "number", "str": "string", "list": "array"}
    kind = type(value).__name__
    return {**names, "dict": "object", "NoneType": "null"}.get(kind, kind)
