"""Rules of lifecycle requests in the ranged line: lifecycle.md §3, and config-schema.md §8 as far as it
closes gaps that the older parsers leave open (fields of another phase or backend are refused, never ignored).

The exact contracts need next to none of this: there each request is a closed object of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backends.errors import Problem
from mxc_ops.config import extension, wording
from mxc_ops.config.document import RequestKind
from mxc_ops.config.reading import section
from mxc_ops.config.versions import Governing

Body = Mapping[str, Any]

_ALWAYS = frozenset(
    {"$schema", "_comment", "version", "phase", "containerId", "correlationVector", "experimental"}
)
_LATER = _ALWAYS | {"sandboxId"}
_ALLOWED: Mapping[RequestKind, frozenset[str]] = {
    RequestKind.PROVISION: _ALWAYS
    | {"containment", "filesystem", "network", "runtimeConfig", "ui", "fallback", extension.KEY},
    RequestKind.START: _LATER,
    RequestKind.EXEC: _LATER | {"process", "network", "runtimeConfig", extension.KEY},
    RequestKind.STOP: _LATER,
    RequestKind.DEPROVISION: _LATER,
}
_REFUSED_BY_BACKEND: Mapping[str, tuple[str, ...]] = {
    "isolation_session": ("filesystem", "ui"),
    "windows_sandbox": ("network", "ui"),
}
_PREFIXES: Mapping[str, str] = {
    "iso": "isolation_session",
    "wsb": "windows_sandbox",
    "wslc": "wslc",
    "bwrap": "bubblewrap",
    "lxc": "lxc",
    "vm": "vm",
    "hl": "hyperlight",
}
_LIFECYCLE_ONLY = ("sandboxId", "correlationVector")
_SHARED_EXPERIMENTS = frozenset({"telemetry", "test"})


def check_one_shot(body: Body) -> Iterator[Problem]:
    """A document without a `phase` has none of the fields that name a sandbox."""
    for name in _LIFECYCLE_ONLY:
        if body.get(name) is not None:
            yield Problem(
                "foreign_field",
                f"/{name}",
                f"'{name}' is only for lifecycle requests",
                fix=f"remove '{name}', or add 'phase'",
            )


def check(body: Body, governing: Governing, kind: RequestKind) -> Iterator[Problem]:
    """Rules of a request with a `phase`; `kind` is that phase."""
    if kind is RequestKind.PROVISION and section(body, extension.KEY).get("args") is not None:
        yield Problem(
            "foreign_field",
            f"/{extension.KEY}/args",
            "phase 'provision' runs nothing",
            fix="remove 'args'; an exec request says what to run",
        )
    if governing.edition.exact:
        return
    phase = kind.value
    allowed = _ALLOWED[kind]
    for name, value in body.items():
        if value is not None and name not in allowed:
            yield Problem(
                "foreign_field",
                wording.pointer((name,)),
                f"'{wording.name(name)}' has no place in a request of phase '{phase}'",
                fix=f"remove '{wording.name(name)}'",
            )
    needed = "containment" if kind is RequestKind.PROVISION else "sandboxId"
    if body.get(needed) is None:
        yield Problem("missing_field", f"/{needed}", f"phase '{phase}' needs the field '{needed}'")
    backend = _backend(body, kind)
    if kind is RequestKind.PROVISION and backend is not None:
        yield from _check_provision(body, backend)
    yield from _check_experimental(body, phase, backend)


def _backend(body: Body, kind: RequestKind) -> str | None:
    if kind is RequestKind.PROVISION:
        return body.get("containment")
    prefix, _colon, _tail = (body.get("sandboxId") or "").partition(":")
    return _PREFIXES.get(prefix)


def _check_provision(body: Body, backend: str) -> Iterator[Problem]:
    for name in _REFUSED_BY_BACKEND.get(backend, ()):
        if body.get(name) is not None:
            yield Problem(
                "foreign_field",
                f"/{name}",
                f"provisioning '{backend}' takes no '{name}'",
                fix=f"remove '{name}'",
            )
    if backend == "isolation_session" and not _acknowledges_open_network(section(body, "network")):
        yield missing_acknowledgement('{"defaultPolicy": "allow", "allowLocalNetwork": true}, or ')


def lacks_acknowledgement(body: Body) -> bool:
    """Whether a one-shot request for an isolation session does not say that its network is open.

    The parser of the exact contracts wants that (upstream's 1.0.1, observed); the ranged line does not.
    """
    if body.get("phase") is not None or body.get("containment") != "isolation_session":
        return False
    has_proxy = section(body, "runtimeConfig").get("networkProxy") is not None
    return has_proxy or not _acknowledges_open_network(section(body, "network"))


def missing_acknowledgement(legacy_form: str = "") -> Problem:
    return Problem(
        "missing_acknowledgement",
        "/network",
        "an isolation session cannot restrict the network; the request must acknowledge that",
        expected=f'{legacy_form}egress.default, ingress.default and ingress.hostLoopback "allow", no rules',
    )


def _acknowledges_open_network(network: dict[str, Any]) -> bool:
    said = {name: value for name, value in network.items() if value is not None}
    legacy = {"defaultPolicy": "allow", "allowLocalNetwork": True}
    directional = {
        "egress": {"default": "allow"},
        "ingress": {"default": "allow", "hostLoopback": "allow"},
    }
    return said in (legacy, directional)


def _check_experimental(body: Body, phase: str, backend: str | None) -> Iterator[Problem]:
    """Only the section of the sandbox's own backend, and in it only the settings of this phase."""
    for name, settings in section(body, "experimental").items():
        if settings is None or name in _SHARED_EXPERIMENTS:
            continue
        if backend is not None and name != backend:
            yield Problem(
                "foreign_section",
                f"/experimental/{name}",
                f"'experimental.{name}' is not for this sandbox, which is of '{backend}'",
                fix=f"remove 'experimental.{name}'",
            )
            continue
        for key, value in settings.items():
            if value is not None and key != phase:
                yield Problem(
                    "foreign_field",
                    f"/experimental/{name}/{key}",
                    f"'{key}' has no place in a request of phase '{phase}'",
                    expected=f"only '{phase}'",
                )
