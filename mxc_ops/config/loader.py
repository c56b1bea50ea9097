"""Bytes → `Document`: the one door through which documents come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, cast

from backends.errors import ConfigError, Problem
from mxc_ops.config import rules, text, versions, wording
from mxc_ops.config.document import Document, RequestKind, Strictness
from mxc_ops.config.models import novelties
from mxc_ops.config.models.editions import PROVISION_REQUESTS
from mxc_ops.config.reading import section
from mxc_ops.config.versions import Governing

MAX_PROBLEMS = 50

_KINDS: Mapping[str, RequestKind] = {
    kind.value: kind for kind in RequestKind if kind is not RequestKind.ONE_SHOT
}
_PHASE_ROOTS: Mapping[RequestKind, str] = {
    RequestKind.ONE_SHOT: "Request",
    RequestKind.START: "StartRequest",
    RequestKind.EXEC: "ExecRequest",
    RequestKind.STOP: "StopRequest",
    RequestKind.DEPROVISION: "DeprovisionRequest",
}


def load(
    source: bytes, *, strictness: Strictness = Strictness.RANGED, one_shot_only: bool = False
) -> Document:
    """Parse and validate one document.

    Parameters
    ----------
    source: the JSON text; limits as `text.parse`.
    strictness: what to hold it against, see `Strictness`.
    one_shot_only: refuse lifecycle requests (documents with a `phase`).

    Raises `ConfigError` with every problem that was found, `MAX_PROBLEMS` at most. Rules: config-schema.md.
    """
    value = text.parse(source)
    if not isinstance(value, dict):
        raise ConfigError(
            Problem("not_an_object", "", f"the document is {wording.shown(value)}", expected="a JSON object")
        )
    body = cast("dict[str, Any]", value)
    governing = versions.governing(body, strictness)
    kind = _kind(body, governing, one_shot_only=one_shot_only)
    problems = _problems(body, governing, kind, strictness)
    if problems or kind is None:
        raise ConfigError(_bounded(problems))
    return Document(governing.declared, governing.contract, kind, body, tuple(_warnings(body, governing)))


def _kind(body: dict[str, Any], governing: Governing, *, one_shot_only: bool) -> RequestKind | None:
    """The kind of request; None when `phase` is there but names none."""
    phase = body.get("phase")
    if phase is None and (governing.edition.nulls or "phase" not in body):
        return RequestKind.ONE_SHOT
    if one_shot_only:
        raise ConfigError(
            Problem(
                "lifecycle_request",
                "/phase",
                "this is a lifecycle request, and only one-shot requests are taken here",
                expected="no 'phase'",
            )
        )
    return _KINDS.get(phase) if isinstance(phase, str) else None


def _root(body: dict[str, Any], governing: Governing, kind: RequestKind | None) -> str:
    """Name of the shape that this request must have (config-schema.md §8)."""
    if not governing.edition.exact:
        return "Request"
    if kind is None:
        said = f"{wording.shown(body['phase'])} is not a phase"
        raise ConfigError(Problem("invalid_value", "/phase", said, expected=wording.listed(_KINDS)))
    if kind is not RequestKind.PROVISION:
        return _PHASE_ROOTS[kind]
    containment = body.get("containment")
    shapes = governing.edition.shapes
    known = [
        name
        for name, root in PROVISION_REQUESTS.items()
        if root in shapes and name in shapes[root]["containment"].choices
    ]
    if isinstance(containment, str) and containment in known:
        return PROVISION_REQUESTS[containment]
    code = "missing_field" if "containment" not in body else "invalid_value"
    said = "phase 'provision' needs the field 'containment'"
    if code == "invalid_value":
        said = f"{wording.shown(containment)} cannot be provisioned in {governing.edition.name}"
    raise ConfigError(Problem(code, "/containment", said, expected=wording.listed(known)))


def _problems(
    body: dict[str, Any], governing: Governing, kind: RequestKind | None, strictness: Strictness
) -> list[Problem]:
    from pydantic_core import ValidationError

    from mxc_ops.config.models.compiled import validator

    root = _root(body, governing, kind)
    try:
        validator(governing.edition, root).validate_python(body)
    except ValidationError as error:
        return _explained(error, body, governing, kind, root, strictness)
    return list(islice(_rule_problems(body, governing, kind, strictness), MAX_PROBLEMS + 1))


def _rule_problems(
    body: Mapping[str, Any], governing: Governing, kind: RequestKind | None, strictness: Strictness
) -> Iterator[Problem]:
    yield from rules.contract_rules(body, governing.edition)
    if strictness is Strictness.RANGED and kind is not None:
        yield from rules.parser_rules(body, governing, kind)


def _explained(
    error: Any,
    body: dict[str, Any],
    governing: Governing,
    kind: RequestKind | None,
    root: str,
    strictness: Strictness,
) -> list[Problem]:
    """Problems of the shape, and what the rules find in the rest of the document."""
    from mxc_ops.config import explain

    findings = explain.explained(error, governing.edition, root, MAX_PROBLEMS + 1)
    problems = list(findings.problems)
    readable = explain.without(body, findings.bad)
    problems.extend(
        problem
        for problem in islice(_rule_problems(readable, governing, kind, strictness), MAX_PROBLEMS + 1)
        if not any(_follows(problem, known) for known in findings.problems)
    )
    return problems


def _follows(found: Problem, known: Problem) -> bool:
    """Whether what a rule found may only be there because the shape is wrong elsewhere."""
    if known.code == "unknown_field":
        return False
    if known.path == "/containment" and found.code in ("foreign_section", "missing_field"):
        return True
    if known.path.startswith("/mxcOps") and found.path.startswith(("/process", "/mxcOps/vm/command")):
        return True  # unreadable mxcOps.args leave nothing to run
    one, other = found.path + "/", known.path + "/"
    return one.startswith(other) or other.startswith(one)


def _bounded(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    more = Problem("more_problems", "", f"there are more; these are the first {MAX_PROBLEMS}")
    return [*problems[:MAX_PROBLEMS], more]


def _warnings(body: dict[str, Any], governing: Governing) -> Iterator[Problem]:
    if governing.published is not None:
        minor = int(governing.edition.name.partition(".")[2])
        news = novelties.novelties(governing.published, minor)
        for path, value in novelties.found(body, news):
            yield _novelty_warning(path, value, governing.declared or "")
    proxy = section(body, "network", "proxy")
    if proxy and proxy.get("localhost") is not None and proxy.get("url") is not None:
        yield Problem(
            "ignored_field",
            "/network/proxy/url",
            "'localhost' is there too, and goes first",
            fix="remove one of them",
        )


def _novelty_warning(path: tuple[str | int, ...], value: str | None, declared: str) -> Problem:
    what = f"the field '{'.'.join(wording.name(str(step)) for step in path)}'"
    if value is not None:
        what += f" with the value {wording.shown(value, path)}"
    return Problem(
        "not_in_declared_version",
        wording.pointer(path),
        f"{what} is not in the schema of {wording.name(declared)}",
        fix="declare a version that has it",
    )
