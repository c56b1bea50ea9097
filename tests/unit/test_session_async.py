"""The twins for an event loop have all that they are twins of, by name and with the same parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import mxc_ops
from backends.errors import LifecycleError
from mxc_ops import AsyncProcess, AsyncSession, Process, Session
from mxc_ops.session.session import Forks
from mxc_ops.session.session_async import AsyncForks

# An event loop waits for none of these.
AT_ONCE = {
    Session: {"policy"},
    Process: {"chunks", "kill", "resize", "signal"},
}
TWINS = {Session: AsyncSession, Process: AsyncProcess}
OWN_NAMES = {"aexec": "exec", "__enter__": "__aenter__", "__exit__": "__aexit__"}


def public(kind: type[Any]) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("_")]


MEMBERS = [
    pytest.param(kind, name, id=f"{kind.__name__}.{name}")
    for kind in TWINS
    for name in [*public(kind), "__enter__", "__exit__"]
]


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_every_public_name_has_its_twin(kind: type[Any], name: str) -> None:
    original = inspect.getattr_static(kind, name)
    twin = inspect.getattr_static(TWINS[kind], OWN_NAMES.get(name, name))
    assert type(twin) is type(original)
    if not isinstance(original, property):
        bound = getattr(TWINS[kind], OWN_NAMES.get(name, name))
        assert parameters(bound) == parameters(getattr(kind, name))
        assert inspect.iscoroutinefunction(bound) == (name not in AT_ONCE[kind])


def test_copies_are_told_in_the_same_way() -> None:
    assert list(AsyncForks.__annotations__) == list(Forks.__annotations__)


def test_what_a_session_raises_is_a_public_name() -> None:
    with pytest.raises(mxc_ops.LifecycleError) as caught:
        Session.attach("no such id")
    assert type(caught.value) is LifecycleError
    assert caught.value.code == "malformed_id"
