"""Why a sandbox could not be set up, in the user's own terms, with the fix."""

from __future__ import annotations

import errno
import os

from backends.errors import LaunchFailed, MxcError, PolicyLost, PolicyRefused, Problem
from backends.inside.protocol import Failed, Step
from backends.launched.parts import LaunchedPlan
from backends.virtual_machine import SHELL

__all__ = ["changed", "explain_report"]


def explain_report(plan: LaunchedPlan, failed: Failed, diagnostics: str, doctor: str) -> MxcError:
    """Turn the launcher's report into an error.

    Parameters
    ----------
    diagnostics: what was written to the standard error around it.
    doctor: the command that looks for what the host lacks.
    """
    text = os.strerror(failed.errno)
    if failed.step is Step.EXEC:
        return _not_executable(plan, failed)
    if failed.step is Step.CWD:
        return PolicyRefused(
            Problem(
                "cwd_unusable",
                plan.pointers.get("cwd", "/process/cwd"),
                f"the working directory {plan.cwd!r} cannot be entered inside the sandbox: {text}",
                expected="a directory that the policy makes visible",
                fix=f"grant it: add {plan.cwd!r} to filesystem.readonlyPaths or readwritePaths",
            )
        )
    if failed.step in _MOUNT_STEPS and failed.index < len(plan.grants):
        return _mount_failed(plan, failed, text)
    if failed.step is Step.GUARD_LOST and failed.index < len(plan.guards):
        return _lost(plan.guards[failed.index].pointer, plan.guards[failed.index].path)
    if failed.step is Step.MASK_CHANGED and failed.index < len(plan.masks):
        return changed(plan.masks[failed.index].pointer, plan.masks[failed.index].path)
    name = failed.step.name.lower()
    return LaunchFailed(
        Problem(
            f"setup_{name}",
            "",
            f"setting up the sandbox failed at step {name} ({failed.index}): {text}"
            + (f"; {diagnostics}" if diagnostics else ""),
            fix=doctor,
        )
    )


_MOUNT_STEPS = (
    Step.MOUNT_CHANGED,
    Step.MOUNT_OPEN,
    Step.MOUNT_ID_MAP,
    Step.MOUNT_ATTRIBUTES,
    Step.MOUNT_POINT,
    Step.MOUNT_MOVE,
)


def _mount_failed(plan: LaunchedPlan, failed: Failed, text: str) -> MxcError:
    grant = plan.grants[failed.index]
    if failed.step is Step.MOUNT_CHANGED:
        return changed(grant.pointer, grant.path)
    if failed.step is Step.MOUNT_ID_MAP:
        return PolicyRefused(
            Problem(
                "idmap_unsupported",
                grant.pointer,
                f"the filesystem of {grant.path}, or one mounted below it, cannot be id-mapped: {text}",
                expected="a filesystem with idmapped mounts (ext4, xfs, btrfs, tmpfs since Linux 6.3)",
                fix='name a uid that may use the path itself: "mxcOps": {"user": UID}',
            )
        )
    return LaunchFailed(
        Problem(f"setup_{failed.step.name.lower()}", grant.pointer, f"mounting {grant.path} failed: {text}")
    )


def changed(pointer: str, path: str) -> LaunchFailed:
    """Something of the host is not what it was when it was checked."""
    return LaunchFailed(
        Problem("object_changed", pointer, f"{path} changed between check and mount"), retryable=True
    )


def _lost(pointer: str, path: str) -> PolicyLost:
    return PolicyLost(
        Problem(
            "policy_lost",
            pointer,
            f"{path} was replaced or moved on the host while the sandbox ran, which uncovered it;"
            " the sandbox was ended",
            fix="keep the path in place during runs, or grant the workload a copy without it",
        ),
        retryable=True,
    )


def _not_executable(plan: LaunchedPlan, failed: Failed) -> LaunchFailed:
    missing = failed.errno == errno.ENOENT
    return LaunchFailed(
        Problem(
            "program_not_found" if missing else "program_not_executable",
            plan.pointers.get("shell" if plan.argv[:2] == SHELL else "args", "/mxcOps/args"),
            f"{plan.argv[0]!r} cannot be executed inside the sandbox: {os.strerror(failed.errno)}",
            expected="a shorter command or environment"
            if failed.errno == errno.E2BIG
            else "a program that the policy makes visible",
            fix="grant its directory in filesystem.readonlyPaths" if missing else "",
        )
    )
