"""Why a sandbox could not be set up, in the user's own terms, with the fix."""

from __future__ import annotations

from backends.bubblewrap.plan import BubblewrapPlan
from backends.errors import LaunchFailed, MxcError, Problem
from backends.inside.protocol import Failed
from backends.launched.failure import changed, explain_report

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
    if failed is not None:
        return explain_report(plan, failed, diagnostics, _DOCTOR)
    return _helper_gave_up(plan, status, diagnostics)


def _helper_gave_up(plan: BubblewrapPlan, status: int | None, diagnostics: str) -> LaunchFailed:
    if any(sign in diagnostics for sign in _MOVED_SIGNS):
        return changed("/filesystem", "a path of the policy")
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
