"""Where a run on Windows would look at its host, and launch: both are refused by name until then."""

from __future__ import annotations

from typing import NoReturn

from backends.errors import Problem, UnsupportedContainment
from backends.wslc.windows.plan import WindowsPlan

__all__ = ["refuse_launch", "refuse_observing"]


_ELSEWHERE = "a Linux host, where a virtual machine of mxc-ops runs the same document"


def refuse_observing(containment: str) -> NoReturn:
    """Say that nothing looks at a Windows host for a plan yet. Raises `UnsupportedContainment`, always."""
    raise UnsupportedContainment(
        Problem(
            "launch_on_windows",
            "/containment",
            f"mxc-ops does not launch {containment} sandboxes on Windows yet, and looks at no such host for"
            " their plan",
            expected=_ELSEWHERE,
            fix="mxc-ops run CONFIG on Linux; or plan it from facts of your own:"
            " backends.wslc.windows.plan.plan_windows",
        )
    )


def refuse_launch(plan: WindowsPlan) -> NoReturn:
    """Say what was made and what can be done with it. Raises `UnsupportedContainment`, always."""
    raise UnsupportedContainment(
        Problem(
            "launch_on_windows",
            "/containment",
            f"the plan of this {plan.containment} sandbox for Windows is made and holds its policy, but"
            " mxc-ops does not launch on Windows yet",
            expected=_ELSEWHERE,
            fix="mxc-ops run CONFIG on Linux; or have a program of yours make the calls of the plan's 'steps'"
            " with wslcsdk.dll, in their order",
        )
    )
