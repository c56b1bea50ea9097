"""Why a container could not be set up, in the user's own terms, with the fix (pure)."""

from __future__ import annotations

import errno
import os
import re

from backends.errors import LaunchFailed, MxcError, PolicyRefused, Problem
from backends.inside.protocol import Failed, Step
from backends.launched.failure import changed, explain_report
from backends.launched.parts import STAGE
from backends.lxc.plan import LxcPlan
from backends.lxc.users import namespace_problem

__all__ = ["explain"]

_DOCTOR = "mxc-ops doctor --backend lxc"
_NO_GROUP_OF_TERMINALS = 'Failed to set "gid" to "5"'
"""LXC goes on without: the group is not among a container's ids."""

_NOT_MOUNTED = re.compile(rf'Failed to mount "{STAGE}/(masks/)?(\d+)" on ')

_COMPLAINT = re.compile(r"lxc-start: \S+: \S+: \w+: \d+ (.+)")
"""Program, container, source, function and line, and then what happened."""


def explain(plan: LxcPlan, failed: Failed | None, status: int | None, diagnostics: str) -> MxcError:
    """Turn the launcher's report, or LXC's own last words, into an error.

    Parameters
    ----------
    failed: the launcher's report; None when LXC itself gave up.
    status: LXC's exit status, negative for a signal, None when unknown.
    diagnostics: what LXC wrote to its standard error.
    """
    said = _reason(diagnostics)
    if failed is None:
        place = _NOT_MOUNTED.search(diagnostics)
        denied = plan.masks if place and place[1] else ()
        if place and int(place[2]) < len(denied):  # only where the host has it is a mask mounted
            mask = denied[int(place[2])]
            return changed(mask.pointer, mask.path)
        said = said or f"lxc-start ended with status {status} and said nothing"
        return LaunchFailed(Problem("setup_lxc", plan.starter, said, fix=_DOCTOR))
    why = os.strerror(failed.errno)
    if failed.step is Step.USERS:
        return LaunchFailed(namespace_problem(failed, diagnostics))
    if failed.step is Step.ROOT_IMAGE:
        message = f"the root file system of {plan.image.name!r} cannot be mounted: {why}"
        return LaunchFailed(Problem("setup_root_image", plan.image.rootfs, message, fix=_DOCTOR))
    if failed.step is Step.ROOT_ENTRY and failed.index < len(plan.entries):
        return _in_the_way(plan, failed, why)
    if failed.step is Step.HIDE:
        names = plan.hidden[failed.index : failed.index + 1] or plan.hidden
        message = f"{', '.join(map(repr, names))} of {plan.image.name!r} cannot be hidden: {why}"
        return LaunchFailed(Problem("setup_hide", plan.image.rootfs, message, fix=_DOCTOR))
    return explain_report(plan, failed, said, _DOCTOR)


def _reason(diagnostics: str) -> str:
    """LXC's first complaint; what follows is only that it could not go on. Else all that was said."""
    lines = [line for line in diagnostics.splitlines() if _NO_GROUP_OF_TERMINALS not in line]
    complaints = (match.group(1) for match in map(_COMPLAINT.fullmatch, lines) if match)
    return next(complaints, "\n".join(lines).strip())


def _in_the_way(plan: LxcPlan, failed: Failed, why: str) -> MxcError:
    entry = plan.entries[failed.index]
    path = entry.path.removeprefix("root")
    if failed.errno not in (errno.ENOTEMPTY, errno.EBUSY, errno.ELOOP, errno.ENOTDIR):
        message = f"{path!r} cannot be made in the container: {why}"
        return LaunchFailed(Problem("setup_root_entry", path, message, fix=_DOCTOR))
    return PolicyRefused(
        Problem(
            "image_in_the_way",
            path,
            f"{path!r} is a link on the host, and something else in the image {plan.image.name!r}: {why}",
            expected="paths that do not lead through this link",
            fix=f"write {entry.content!r} for {path!r} in the policy",
        )
    )
