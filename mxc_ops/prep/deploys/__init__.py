"""Host preparation as a pyinfra deploy, for those who work with the pyinfra command.

It declares the same items with the same receipts as `mxc-ops prep host`; what it lacks is the lock, the look
afterwards and the proof.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyinfra annotates contexts and deploys incompletely.

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.deploy import deploy
from pyinfra.api.exceptions import OperationError
from pyinfra.context import host

from mxc_ops.prep.decision import Query
from mxc_ops.prep.engine.applying import operation_named
from mxc_ops.prep.engine.session import choices_for
from mxc_ops.prep.items import (
    HostFacts,
    distribution_codename,
    distribution_family,
    items_for,
    needs_of,
    unsupported,
)
from mxc_ops.prep.messages import Request
from mxc_ops.prep.operations.common import answers

__all__ = ["prepare_host"]

_QUERIES = (
    Query("system.OsRelease"),
    Query("system.Elevation"),
    Query("system.Machine"),
    Query("system.ServiceManager"),
)


@deploy("mxc-ops")
def prepare_host(backends: Sequence[str] = (), features: Sequence[str] = ()) -> None:
    """Have a Linux host ready for backends.

    Parameters
    ----------
    backends, features: by default what the host's data say as ``mxc_backends`` and ``mxc_features``, else
        bubblewrap alone.

    Raises `OperationError` for a distribution that is not supported, and where root's rights are missing.
    """
    release, elevation, machine, manager = answers(_QUERIES)
    facts = HostFacts(
        host.name,
        release.get("PRETTY_NAME", ""),
        distribution_family(release),
        elevation,
        machine,
        manager,
        codename=distribution_codename(release),
    )
    choices = choices_for(host, Request(backends=backends, features=features), ("bubblewrap",))
    needs = needs_of(choices)
    trouble = unsupported(needs, facts)
    if trouble:
        raise OperationError(f"{trouble.message}; {trouble.fix}")
    rights = {"sudo": {"_sudo": True}, "doas": {"_doas": True}}.get(elevation, {})
    for item in items_for(needs, facts, choices):
        operation_named(item.operation)(
            name=item.identifier, item=item.identifier, **item.arguments, **rights
        )
