"""Frozen records: `dataclass(frozen=True)` without what it costs at import.

`dataclasses` writes the methods of every class as source text and compiles it: 0.4 ms a class, after 10 ms for
importing it. A run needs some fifty such classes and has 60 ms from the shell's prompt to the first output.
Here the methods are written once and read the names of the fields; making an instance costs 1 µs more.

`dataclasses.replace`, `fields`, `asdict` and `is_dataclass` work on records, importing `dataclasses` then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, dataclass_transform

__all__ = ["field", "record", "replace"]

_Record = TypeVar("_Record")
_REQUIRED: Any = object()


class _Field:
    __slots__ = ("compare", "default", "factory", "shown")

    def __init__(self, default: Any, factory: Callable[[], Any] | None, shown: bool, compare: bool) -> None:
        self.default = default
        self.factory = factory
        self.shown = shown
        self.compare = compare


def field(
    *,
    default: Any = _REQUIRED,
    default_factory: Callable[[], Any] | None = None,
    repr: bool = True,
    compare: bool = True,
) -> Any:
    """As `dataclasses.field`: a default made anew for each instance, a field left out of `repr` or ``==``."""
    return _Field(default, default_factory, repr, compare)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[_Record]) -> type[_Record]:
    """Make a class of annotated fields a frozen record; the fields of base records come first."""
    fields: dict[str, _Field] = dict(getattr(cls, "__record_fields__", {}))
    own = vars(cls)
    for name in own.get("__annotations__", ()):
        default = own.get(name, _REQUIRED)
        if isinstance(default, _Field):
            fields[name] = default
            delattr(cls, name)
        else:
            fields[name] = _Field(default, None, True, True)
    made: Any = cls
    made.__record_fields__ = fields
    made.__match_args__ = tuple(fields)
    made.__dataclass_fields__ = _DataclassFields()
    made.__init__ = _init
    made.__repr__ = _repr
    made.__eq__ = _eq
    made.__hash__ = _hash
    made.__setattr__ = _refuse_change
    made.__delattr__ = _refuse_change
    return cls


def replace(one: _Record, **changes: Any) -> _Record:
    """A copy of a record with some fields changed."""
    values = vars(one)
    kept = {name: values[name] for name in _fields(one) if name not in changes}
    return type(one)(**kept, **changes)


def _fields(one: Any) -> dict[str, _Field]:
    return one.__record_fields__


def _init(self: Any, *given: Any, **named: Any) -> None:
    fields = _fields(self)
    values: dict[str, Any] = vars(self)
    values.update(zip(fields, given, strict=False))
    for name, spec in fields.items():
        if name in named:
            if name in values:
                raise TypeError(f"{type(self).__name__}() got several values for {name!r}")
            values[name] = named.pop(name)
        elif name not in values:
            default = spec.factory() if spec.factory else spec.default
            if default is _REQUIRED:
                raise TypeError(f"{type(self).__name__}() needs {name!r}")
            values[name] = default
    if named or len(given) > len(fields):
        surplus = ", ".join(named) or "too many values"
        raise TypeError(f"{type(self).__name__}() got what it does not have: {surplus}")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, spec in _fields(self).items() if spec.shown)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _compared(one: Any) -> tuple[Any, ...]:
    return tuple(getattr(one, name) for name, spec in _fields(one).items() if spec.compare)


def _eq(self: Any, other: object) -> bool:
    return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _refuse_change(self: Any, name: str, *_: object) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be changed")


class _DataclassFields:
    """What `dataclasses` looks for on a class, made when it looks."""

    def __get__(self, instance: object, owner: Any) -> dict[str, Any]:
        from dataclasses import MISSING, make_dataclass
        from dataclasses import field as dataclass_field

        described: list[tuple[str, Any, Any]] = []
        for name, spec in owner.__record_fields__.items():
            if spec.factory:
                made = dataclass_field(default_factory=spec.factory, repr=spec.shown, compare=spec.compare)
            else:
                default = MISSING if spec.default is _REQUIRED else spec.default
                made = dataclass_field(default=default, repr=spec.shown, compare=spec.compare)
            described.append((name, Any, made))
        twin: Any = make_dataclass(owner.__name__, described)
        return twin.__dataclass_fields__
