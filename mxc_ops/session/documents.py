"""What lifecycle documents say, in the words of one-shot ones (pure). Source: lifecycle.md §2 and §3.

There is no second reading of documents: the policy that is provisioned is that of the document without its
phase, and a command is that of a one-shot in which what was provisioned stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.base import SandboxRequest
from backends.errors import LifecycleError, PolicyRefused, Problem, UnsupportedContainment
from mxc_ops.config import extension
from mxc_ops.config.canonical import canonicalise
from mxc_ops.config.document import Document, RequestKind
from mxc_ops.config.request import build_request
from mxc_ops.config.upgrades import NEWEST
from mxc_ops.session.errors import malformed_id
from mxc_ops.session.ids import PREFIXES, TAIL_DIGITS, is_tail

__all__ = ["NOTHING_PROVISIONED", "check_fixed", "command_request", "policy_document", "sandbox_id"]

_NOTHING = "true"
_OF_REQUESTS = frozenset({"phase", "correlationVector"})
_FIXED_SECTIONS = ("network", "runtimeConfig")
_OF_A_COMMAND = frozenset({"args", "env", "stdin", "timeout", "tty"})
_DEFAULTS = ("stdin", "timeout", "tty")

NOTHING_PROVISIONED: Mapping[str, Any] = {}
"""For a command that is only checked: what its sandbox was provisioned with is not known."""


def policy_document(document: Document) -> Document:
    """The one-shot document with the policy that a provision request asks for; it does nothing."""
    body = {name: value for name, value in document.body.items() if name not in _OF_REQUESTS}
    body["process"] = {"commandLine": _NOTHING}
    _lift_provision(body)
    if isinstance(body.get("experimental"), dict):
        body["experimental"] = _lift_provision(dict(body["experimental"]))
    return Document(
        document.declared_version, document.contract, RequestKind.ONE_SHOT, body, document.warnings
    )


def _lift_provision(body: dict[str, Any]) -> dict[str, Any]:
    """A provision request says under ``wslc.provision`` what a one-shot says under ``wslc``."""
    section: Mapping[str, Any] | None = body.get("wslc")
    if section is not None:
        body["wslc"] = section.get("provision") or {}
    return body


def sandbox_id(document: Document) -> str:
    """The whole id of a sandbox that may be ours, from a request of a later phase.

    Raises `LifecycleError` (``malformed_id``), also for an id that was shortened; `UnsupportedContainment`
    for one of another system's sandboxes.
    """
    text: str = document.body["sandboxId"]
    prefix, colon, tail = text.partition(":")
    if not prefix or not colon:
        message = f'sandbox_id "{_cut(text)}" is missing the `<prefix>:...` form'
        raise LifecycleError("malformed_id", Problem("malformed_id", "/sandboxId", message))
    if prefix not in PREFIXES.values():
        message = f'no state-aware backend registered for prefix "{_cut(prefix)}"'
        raise UnsupportedContainment(Problem("unknown_prefix", "/sandboxId", message))
    if not is_tail(tail):
        raise malformed_id(text, f"needs {TAIL_DIGITS} lowercase hexadecimal digits after the colon")
    return text


def command_request(
    document: Document, containment: str, provisioned: Mapping[str, Any] = NOTHING_PROVISIONED
) -> SandboxRequest:
    """The command of an exec request.

    Parameters
    ----------
    containment: the sandbox's.
    provisioned: the canonical document that its sandbox was provisioned with. Of a command's own settings it
        has the defaults: variables go by ``process.env`` alone where that is said, except for secrets.

    Raises `PolicyRefused` for what is fixed since the sandbox was provisioned, `ConfigError` for a command or
    variables that no kernel would take.
    """
    check_fixed(document)
    canonical = canonicalise(document)
    said: Mapping[str, Any] = canonical.get("process", {})
    ours: dict[str, Any] = {**_extension(provisioned), **canonical.get(extension.KEY, {})}
    secrets: Mapping[str, Any] = canonical.get(extension.KEY, {}).get("env", {})
    process = {**_process(provisioned, said, secrets), **said}
    ours["env"] = {**_secrets(provisioned, said), **secrets}
    if vm := _machine(provisioned, has_args="args" in ours):
        ours["vm"] = vm
    body = {"version": NEWEST, "containment": containment, "process": process, extension.KEY: ours}
    if "hyperlight" in provisioned:
        body["hyperlight"] = provisioned["hyperlight"]
    return build_request(Document(NEWEST, NEWEST, RequestKind.ONE_SHOT, body, document.warnings))


def check_fixed(document: Document) -> None:
    """Raises `PolicyRefused` for everything in an exec request that is fixed since its sandbox was made."""
    body = document.body
    found = [f"/{name}" for name in _FIXED_SECTIONS if body.get(name) is not None]
    ours: Mapping[str, Any] = body.get(extension.KEY, {})
    found += [f"/{extension.KEY}/{name}" for name in ours if name not in _OF_A_COMMAND]
    if found:
        raise PolicyRefused([_fixed(pointer) for pointer in found])


def _fixed(pointer: str) -> Problem:
    what = pointer[1:].replace("/", ".")
    return Problem(
        "fixed_at_provision",
        pointer,
        f"{what!a} is bound to the provision phase: the sandbox keeps the policy that it was made with",
        fix=f"remove it here, and provision a sandbox with the {what!a} that is wanted",
    )


def _process(
    provisioned: Mapping[str, Any], said: Mapping[str, Any], secrets: Mapping[str, Any]
) -> dict[str, Any]:
    own: Mapping[str, Any] = provisioned.get("process", {})
    kept = {name: own[name] for name in ("cwd", "timeout") if name in own}
    if "env" in own and "env" not in said and "inheritDefaultEnv" not in said:
        kept["env"] = [entry for entry in own["env"] if entry.partition("=")[0] not in secrets]
    return kept


def _extension(provisioned: Mapping[str, Any]) -> dict[str, Any]:
    own: Mapping[str, Any] = provisioned.get(extension.KEY, {})
    return {name: own[name] for name in _DEFAULTS if name in own}


def _secrets(provisioned: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The sandbox's own, except where the command has a plain variable of that name."""
    plain = {entry.partition("=")[0] for entry in said.get("env", ())}
    own: Mapping[str, Any] = provisioned.get(extension.KEY, {}).get("env", {})
    return {name: source for name, source in own.items() if name not in plain}


def _machine(provisioned: Mapping[str, Any], *, has_args: bool) -> dict[str, Any]:
    """What the sandbox's machine is; what it takes a command for, only where that fits this one."""
    own: dict[str, Any] = dict(provisioned.get(extension.KEY, {}).get("vm", {}))
    if "command" in own and has_args != (own["command"] == "args"):
        del own["command"]
    return own


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
