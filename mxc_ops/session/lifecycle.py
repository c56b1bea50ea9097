"""Lifecycle documents, carried out: each is one phase of a session. Source: lifecycle.md §1, §4 and §10."""

from __future__ import annotations

import sys
from typing import Any

from backends import registry
from backends.sessions import Settled
from mxc_ops.config.document import Document, RequestKind
from mxc_ops.config.request import build_request
from mxc_ops.one_shot import Prepared, prepare
from mxc_ops.policy.host_loopback import apart_from_ports
from mxc_ops.policy_builder import Policy
from mxc_ops.session.documents import check_fixed, command_request, policy_document, sandbox_id
from mxc_ops.session.errors import unsupported_phase
from mxc_ops.session.ids import PREFIXES
from mxc_ops.session.service import Sessions
from mxc_ops.session.session import Session

__all__ = ["carry_out", "provisions", "ready_command", "validate"]

# Of the two that vm: stands for, the one that takes the longer commands: which it is, only the store knows.
_OF_PREFIX = {"bwrap": "bubblewrap", "lxc": "lxc", "vm": "microvm"}


def provisions(document: Document) -> str:
    """The containment that a provision request is for.

    Raises `UnsupportedContainment`, and `LifecycleError` (``unsupported_phase``) for one without sessions.
    """
    containment = registry.resolve_intent(document.body["containment"], sys.platform)
    registry.get(containment)
    if containment not in PREFIXES:
        raise unsupported_phase(document.kind.value, containment)
    return containment


def validate(document: Document) -> tuple[str, ...]:
    """Check a request as far as that goes without knowing in what state its sandbox is; the warnings.

    What is provisioned is also held against this host. Raises what carrying it out raises.
    """
    if document.kind is RequestKind.PROVISION:
        provisions(document)
        request = apart_from_ports(build_request(policy_document(document)))
        with prepare(request, kept=True, may_import=False) as prepared:
            return prepared.warnings
    identifier = sandbox_id(document)
    if document.kind is RequestKind.EXEC:
        return command_request(document, _OF_PREFIX[identifier.partition(":")[0]]).warnings
    return ()


def carry_out(document: Document) -> tuple[dict[str, Any], Settled]:
    """Do what any request but exec asks for; its result, and what became of copies of the host's files.

    Raises `MxcError`, of which `mxc_ops.session.errors.lifecycle_code` tells the code.
    """
    service = Sessions()
    if document.kind is RequestKind.PROVISION:
        entry = service.provision(Policy.from_config(policy_document(document)))
        return {"sandboxId": entry.id}, Settled()
    identifier = sandbox_id(document)
    if document.kind is RequestKind.STOP:
        return {}, service.stop(identifier).settled
    if document.kind is RequestKind.DEPROVISION:
        return {}, service.deprovision(identifier)
    service.start(identifier)
    return {}, Settled()


def ready_command(document: Document) -> Prepared:
    """The command of an exec request, to be launched in its sandbox.

    Raises `LifecycleError` (``not_started``, ``stale_id``, ``malformed_id``), `PolicyRefused` and
    `ConfigError`.
    """
    identifier = sandbox_id(document)
    check_fixed(document)
    session = Session.attach(identifier)
    return session.prepared(None, command_request(document, session.containment, session.document))
