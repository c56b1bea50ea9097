"""The rules of preparation, one module for each area; pure. `RULES` names them as operations are named."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from mxc_ops.prep.decision import Rule

__all__ = ["AREAS", "rule"]

AREAS = (
    "apparmor",
    "devices",
    "files",
    "helpers",
    "ids",
    "images",
    "kernel",
    "libvirt",
    "network",
    "packages",
    "python",
    "services",
    "windows",
)


@cache
def rule(operation: str) -> Rule:
    """The rule of an operation such as ``kernel.setting``. Raises `KeyError` for a name that no area has."""
    area, _, name = operation.partition(".")
    if area not in AREAS:
        raise KeyError(operation)
    rules: Mapping[str, Rule] = import_module(f"mxc_ops.prep.rules.{area}").RULES
    return rules[name]
