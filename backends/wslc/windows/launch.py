"""Where a launch on Windows would begin: it is refused by name until there is one."""

from __future__ import annotations

from typing import NoReturn

from backends.errors import Problem, UnsupportedContainment
from backends.wslc.windows.plan import WindowsPlan

__all__ = ["refuse_launch"]


def refuse_launch(plan: WindowsPlan) -> NoReturn:
    """Say what was made and what can be done with it. Raises `UnsupportedContainment`, always."""
    raise UnsupportedContainment(
        Problem(
            "launch_on_windows",
            "/containment",
            f"the plan of this {plan.containment} sandbox for Windows is made and holds its policy, but"
            " mxc-ops does not launch on Windows yet",
            expected="a Linux host, where a virtual machine of mxc-ops runs the same document",
            fix="mxc-ops run CONFIG on Linux; or have a program of yours make the calls of the plan's 'steps'"
            " with wslcsdk.dll, in their order",
        )
    )
