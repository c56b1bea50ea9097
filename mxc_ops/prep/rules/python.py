"""Python environments of our own, each with an exact set of packages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import FORGET, Decision, Query, Rule, nothing_to_do
from mxc_ops.prep.rules.files import parents_of, remove_empty

__all__ = ["ABSENT", "MARKER", "OURS", "RULES", "listing"]

DEADLINE_S = 900
MARKER = ".mxc-ops"
"""The file that tells an environment of ours, also one that is only half made, from everybody else's."""

ABSENT, OURS = "absent", "ours"
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_Checksums = Mapping[str, Sequence[str]]
_ANY: _Checksums = {}
_COME_ALONG = ("pip", "setuptools", "wheel")  # with every environment, as venv(1) makes it
_LIST = """\
from importlib.metadata import distributions
for found in distributions(): print(found.metadata["Name"] + "==" + found.version)"""


def listing(environment: str) -> str:
    """A command that prints ``NAME==VERSION`` of each package in an environment; it changes nothing."""
    return f"{quote(f'{environment}/bin/python3')} -I -B -c {quote(_LIST)} | LC_ALL=C sort"


def _queries(environment: str, **_rest: Any) -> tuple[Query, ...]:
    return (
        Query("python.Environment", {"environment": environment}),
        Query("files.Existing", {"paths": parents_of(environment)}),
    )


def decide(
    seen: Mapping[str, Any],
    existing: list[str],
    *,
    environment: str,
    requirements: Sequence[str],
    checksums: _Checksums = _ANY,
) -> Decision:
    """An environment made by the host's own python3, with these packages and no others.

    Parameters
    ----------
    seen: ``{"state": "absent" | "ours" | what else it is, "packages": ["NAME==VERSION", …]}``.
    requirements: each ``NAME==VERSION``; everything that they need must be among them.
    checksums: SHA-256 of the wheels of each requirement; none: any that the index has.
    """
    after = f"{' '.join(requirements)} in {environment}"
    unpinned = [text for text in requirements if not _PINNED.fullmatch(text)]
    if unpinned:
        refusal = f"{' '.join(unpinned)} does not name one version"
        return Decision("not looked at", after, refusal=refusal, fix="write NAME==VERSION")
    if seen["state"] not in (ABSENT, OURS):
        refusal = f"{environment} is {seen['state']}, and was not made by mxc-ops"
        fix = f"look at what it is for, then: rm -r {quote(environment)}"
        return Decision(str(seen["state"]), after, refusal=refusal, fix=fix)
    found = _versions(seen["packages"])
    missing = [text for text in requirements if _versions([text]).items() - found.items()]
    if seen["state"] == OURS and not missing:
        return nothing_to_do(after)
    missing_parents = [above for above in parents_of(environment) if above not in existing]
    return Decision(
        "not there" if seen["state"] == ABSENT else f"without {' '.join(missing)}",
        after,
        _make(environment, requirements, checksums),
        prior={"directories": missing_parents},
        made={"packages": list(requirements)},
        deadline_s=DEADLINE_S,
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Name → version, names as PyPI normalises them."""
    parts = (text.partition("==") for text in packages)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in parts}


def _make(environment: str, requirements: Sequence[str], checksums: _Checksums) -> tuple[str, ...]:
    place, new = quote(environment), quote(f"{environment}.new")
    pip = f"{quote(f'{environment}/bin/python3')} -I -m pip --disable-pip-version-check --no-input"
    # Wheels only: nothing of a package is executed while it is installed by root.
    options = "--no-cache-dir --no-deps --only-binary :all:" + (" --require-hashes" if checksums else "")
    lines = [
        " ".join([text, *(f"--hash=sha256:{checksum}" for checksum in checksums.get(text, ()))])
        for text in requirements
    ]
    return (
        # In its place only together with its marker.
        f"umask 022 && {{ test -e {place}/{MARKER} || {{ rm -rf {new} && mkdir -p {new}"
        f" && touch {new}/{MARKER} && mv {new} {place}; }}; }}",
        f"umask 022 && export PYTHONDONTWRITEBYTECODE=1 && python3 -m venv {place}",
        # Only a file of requirements can hold checksums.
        f"umask 022 && printf '%s\\n' {' '.join(quote(line) for line in lines)}"
        f" | {pip} install {options} --requirement /dev/stdin",
    )


def _measured(environment: str, **_rest: Any) -> Mapping[str, str]:
    return {"packages": listing(environment)}


def reverse(
    seen: Mapping[str, Any],
    existing: list[str],
    *,
    environment: str,
    prior: Mapping[str, Any],
    made: Mapping[str, Any],
    **_rest: Any,
) -> Decision:
    """The environment gone, with the directories that were made for it; never one that is not ours."""
    del existing
    if seen["state"] == ABSENT:
        return nothing_to_do("not there, as before")
    after = "not there, as before"
    if seen["state"] != OURS:
        refusal = f"{environment} is {seen['state']}, not the environment that we made"
        fix = f"look at it: ls -la {quote(environment)}"
        return Decision(str(seen["state"]), after, (FORGET,), refusal=refusal, fix=fix)
    place = quote(environment)
    ours = [_versions([text]) for text in made["packages"]]
    others = [
        f"{name}=={version}"
        for name, version in _versions(seen["packages"]).items()
        if name not in _COME_ALONG and {name: version} not in ours
    ]
    return Decision(
        environment,
        after,
        # The marker last: without it, what a kill leaves would be nobody's.
        (
            f"find {place} -mindepth 1 -maxdepth 1 ! -name {MARKER} -exec rm -rf {{}} +",
            f"rm -rf {place}",
            *remove_empty(prior["directories"]),
        ),
        refusal=f"somebody has put {' '.join(others)} into {environment}" if others else "",
    )


RULES = {"environment": Rule(_queries, decide, reverse, measured=_measured)}
