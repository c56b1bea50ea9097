"""Frozen data classes that cost next to nothing to define.

`dataclasses` compiles six methods for every class, 0.45 ms each, after 7 ms for its own import. A one-shot
run needs some sixty such classes, and `mxc-exec` has 60 ms in all for a document it has seen before; so here
the methods are shared closures. To type checkers and to readers, `@frozen` is ``@dataclass(frozen=True)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar, dataclass_transform

__all__ = ["field_names", "frozen", "replace"]

_T = TypeVar("_T")
_FIELDS = "__frozen_fields__"
_set = object.__setattr__


@dataclass_transform(frozen_default=True)
def frozen(cls: type[_T]) -> type[_T]:
    """Make `cls` immutable data: its annotations are its fields, in order; values given there are defaults.

    Defaults must be immutable. Equality, hash and representation (unless the class has its own) go by the
    fields. Fields are not inherited.
    """
    names = tuple(vars(cls).get("__annotations__", ()))
    defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}
    setattr(cls, _FIELDS, names)
    for name, method in _methods(cls.__qualname__, names, defaults).items():
        if name != "__repr__" or name not in vars(cls):
            setattr(cls, name, method)
    return cls


def field_names(cls: type[Any]) -> tuple[str, ...]:
    """The fields of a `@frozen` class, in order."""
    names: tuple[str, ...] = getattr(cls, _FIELDS)
    return names


def replace(instance: _T, **changes: Any) -> _T:
    """A copy with some fields changed. Raises `TypeError` for a name that is no field."""
    kept = {name: getattr(instance, name) for name in field_names(type(instance))}
    return type(instance)(**{**kept, **changes})


def _methods(
    title: str, names: tuple[str, ...], defaults: Mapping[str, Any]
) -> dict[str, Callable[..., Any]]:
    count = len(names)

    def init(self: object, *args: Any, **kwargs: Any) -> None:
        if len(args) == count and not kwargs:  # as most are made, some by the ten thousand
            for name, value in zip(names, args):  # noqa: B905 - a word more takes a fifth more time
                _set(self, name, value)
            return
        if len(args) > len(names):
            raise TypeError(f"{title} takes {len(names)} values, {len(args)} were given")
        values = {**defaults, **dict(zip(names, args, strict=False))}
        for name, value in kwargs.items():
            if name not in names or names.index(name) < len(args):
                raise TypeError(f"{title} has no free field {name!r}")
            values[name] = value
        if len(values) != len(names):
            missing = [name for name in names if name not in values]
            raise TypeError(f"{title} lacks {', '.join(missing)}")
        for name, value in values.items():
            _set(self, name, value)

    def key(self: object) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in names])

    def equal(self: object, other: object) -> bool:
        return key(self) == key(other) if type(other) is type(self) else NotImplemented

    def digest(self: object) -> int:
        return hash(key(self))

    def refuse(_: object, name: str, *__: Any) -> NoReturn:
        raise AttributeError(f"{title} is frozen: {name!r} cannot be changed")

    def show(self: object) -> str:
        return f"{title}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return {
        "__init__": init,
        "__eq__": equal,
        "__hash__": digest,
        "__setattr__": refuse,
        "__delattr__": refuse,
        "__repr__": show,
    }
