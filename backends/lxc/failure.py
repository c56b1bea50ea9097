"""Why a container could not be set up, in the user's own terms, with the fix (pure)."""

from __future__ import annotations

import os

from backends.errors import LaunchFailed, MxcError, Problem
from backends.inside.protocol import Failed, Step
from backends.launched.failure import explain_report
from backends.lxc.plan import LxcPlan

__all__ = ["explain"]

_DOCTOR = "mxc-ops doctor --backend lxc"
_NO_GROUP_OF_TERMINALS = 'Failed to set "gid" to "5"'
"""LXC goes on without: the group is not among a container's ids."""


def explain(plan: LxcPlan, failed: Failed | None, status: int | None, diagnostics: str) -> MxcError:
    """Turn the launcher's report, or LXC's own last words, into an error.

    Parameters
    ----------
    failed: the launcher's report; None when LXC itself gave up.
    status: LXC's exit status, negative for a signal, None when unknown.
    diagnostics: what LXC wrote to its standard error.
    """
    lines = [line for line in diagnostics.splitlines() if _NO_GROUP_OF_TERMINALS not in line]
    said = "\n".join(lines).strip()
    if failed is None:
        said = said or f"lxc-start ended with status {status} and said nothing"
        return LaunchFailed(Problem("setup_lxc", plan.starter, said, fix=_DOCTOR))
    if failed.step is Step.ROOT_IMAGE:
        why = os.strerror(failed.errno)
        message = f"the root file system of {plan.image.name!r} cannot be mounted: {why}"
        return LaunchFailed(Problem("setup_root_image", plan.image.rootfs, message, fix=_DOCTOR))
    return explain_report(plan, failed, said, _DOCTOR)
