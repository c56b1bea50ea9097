"""What a document or a policy may say of a container's system. Pure."""

from __future__ import annotations

import re

from backends.errors import ConfigError, Problem
from backends.virtual_machine import System

__all__ = ["BOTH", "asked_system", "faults", "wanted_system"]

_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,30}")
A_NAME = "a short name of letters, digits, '.', '_' and '-', as LXC's image server has it"
BOTH = 'both, for example "distribution": "debian", "release": "bookworm"; or neither'


def asked_system(distribution: str, release: str, pointer: str) -> System:
    """What a document asks for; the empty system, which any image is, where it asks for none.

    Parameters
    ----------
    distribution, release: as they are written, "" for what is left out.
    pointer: of the section that they are in.

    Raises `ConfigError` for one without the other, as upstream does, and for what can be no name.
    """
    system = wanted_system(distribution, release)
    wrong = faults(system)
    if wrong:
        raise ConfigError([_problem(f"{pointer}/{name}", message, fix) for name, message, fix in wrong])
    return system


def wanted_system(distribution: str, release: str) -> System:
    """Names of systems are the same in capitals."""
    return System(distribution.lower(), (release.lower(),) if release else ())


def faults(system: System) -> list[tuple[str, str, str]]:
    """What is wrong with a system that is asked for: which of the two names, in words, what is expected."""
    names = (("distribution", system.distribution), ("release", next(iter(system.releases), "")))
    if not any(text for _, text in names):
        return []
    missing = [(name, f"a system is asked for without its {name}", BOTH) for name, text in names if not text]
    return missing + [
        (name, f"{text[:80]!r} is not the name of a {name}", A_NAME)
        for name, text in names
        if text and not _PLAIN.fullmatch(text)
    ]


def _problem(pointer: str, message: str, expected: str) -> Problem:
    code = "missing_field" if expected == BOTH else "invalid_value"
    return Problem(code, pointer, message, expected=expected)
