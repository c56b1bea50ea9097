"""What each backend needs of a host, as a table: for `mxc-ops prep needs`, and for the docs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

from backends import registry
from backends.needs import BASE, Need, NeedKind

__all__ = ["Row", "markdown", "rows"]

_HIDDEN = ("xml", "script", "sddl", "checksums", "kernel_default")  # for programs


@dataclass(frozen=True)
class Row:
    """One need: `feature` is "" for what is always needed; `what` says exactly what."""

    backend: str
    item: str
    kind: str
    feature: str
    what: str
    why: str


def rows(backends: Sequence[str] = ()) -> list[Row]:
    """Every need of the backends, by default of all that can be prepared, in the order of preparation."""
    return [
        Row(name, need.identifier, need.kind.value, _feature(need), _what(need), need.why)
        for name in backends or registry.preparable()
        for need in _needs(name)
    ]


def _needs(backend: str) -> tuple[Need, ...]:
    module = registry.CONTAINMENTS[backend].needs
    return import_module(module).NEEDS if module else ()


def _feature(need: Need) -> str:
    return "" if need.feature == BASE else need.feature


def _what(need: Need) -> str:
    if need.kind is NeedKind.PACKAGE:
        return "; ".join(f"{family}: {' '.join(names)}" for family, names in need.packages.items())
    return ", ".join(f"{name} {_told(value)}" for name, value in need.data.items() if name not in _HIDDEN)


def _told(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(str(entry) for entry in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - of text, as every need's data
    return str(value)


def markdown() -> str:
    """All needs as a document."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# What each backend needs of a host"
    yield ""
    yield "Made by `mxc-ops prep needs --markdown` from the lists that `prep` satisfies and `doctor` checks."
    for backend in registry.preparable():
        yield from ("", f"## {backend}", "")
        yield from ("| item | kind | feature | what | why |", "|---|---|---|---|---|")
        for row in rows([backend]):
            cells = (f"`{row.item}`", row.kind, row.feature, row.what, row.why)
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
