"""Why a sandbox could not be set up, in the user's own terms, with the fix."""

from __future__ import annotations

import errno
import os

from backends.bubblewrap.plan import SHELL, BubblewrapPlan
from backends.errors import LaunchFailed, MxcError, PolicyLost, PolicyRefused, Problem
from backends.inside.protocol import Failed, Step

_DOCTOR = "mxc-ops doctor --backend bubblewrap"
_USERNS_SIGNS = (
    "setting up uid map",
    "No permissions to creat",  # bubblewrap has spelled it "creating" and "create"
    "Creating new namespace failed",
    "loopback: Failed",
)
_MOVED_SIGNS = ("Race condition binding dirfd", "in mount table", "Unable to remount destination")


def explain(plan: BubblewrapPlan, failed: Failed | None, status: int | None, diagnostics: str) -> MxcError:
    """Turn the launcher's report, or bubblewrap's own last words, into an error.

    Parameters
    ----------
    failed: the launcher's report; None when bubblewrap itself gave up.
    status: bubblewrap's exit status, negative for a signal, None when unknown.
    diagnostics: what bubblewrap wrote to its standard error.
    """
    if failed is None:
        return _helper_gave_up(plan, status, diagnostics)
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
        return _changed(plan.masks[failed.index].pointer, plan.masks[failed.index].path)
    name = failed.step.name.lower()
    return LaunchFailed(
        Problem(
            f"setup_{name}",
            "",
            f"setting up the sandbox failed at step {name} ({failed.index}): {text}"
            + (f"; {diagnostics}" if diagnostics else ""),
            fix=_DOCTOR,
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


def _mount_failed(plan: BubblewrapPlan, failed: Failed, text: str) -> MxcError:
    grant = plan.grants[failed.index]
    if failed.step is Step.MOUNT_CHANGED:
        return _changed(grant.pointer, grant.path)
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


def _changed(pointer: str, path: str) -> LaunchFailed:
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


def _not_executable(plan: BubblewrapPlan, failed: Failed) -> LaunchFailed:
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


def _helper_gave_up(plan: BubblewrapPlan, status: int | None, diagnostics: str) -> LaunchFailed:
    if any(sign in diagnostics for sign in _MOVED_SIGNS):
        return _changed("/filesystem", "a path of the policy")
    said = diagnostics or f"bubblewrap ended with status {status} and said nothing"
    if any(sign in diagnostics for sign in _USERNS_SIGNS):
        return LaunchFailed(
            Problem(
                "user_namespaces_refused",
                plan.helper,
                f"this host does not let the caller make user namespaces: {said}",
                fix=_DOCTOR,
            )
        )
    return LaunchFailed(Problem("setup_bubblewrap", plan.helper, said, fix=_DOCTOR))
