"""Every error this project raises on purpose.

::

    MxcError                      code, path, retryable, fix: see the fields below
    ├── ConfigError               the document (or API call) is malformed      malformed_request
    ├── UsageError                the command line is wrong                    usage
    ├── UnsupportedContainment    known containment without a backend here     unsupported_containment
    ├── PolicyRefused             understood, but cannot be enforced/granted   policy_validation
    ├── PolicyLost                the host undid it during the run, which ended policy_lost
    ├── BackendUnavailable        the host lacks something the backend needs   backend_unavailable
    ├── LifecycleError            no such sandbox, or not in the state for it  one of LifecycleError.CODES
    ├── LaunchFailed              the sandbox could not be set up              backend_error
    ├── CopyBackFailed            a virtual machine's results did not arrive   copy_back_failed
    ├── PrepFailed                preparing a host went wrong                  prep_failed
    └── CommandFailed             `Result.check`: the workload failed          command_failed

Codes are stable: callers and monitoring may match on them. Where MXC has a code for the same situation
(spec: lifecycle.md §5), ours is the same word.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BackendUnavailable",
    "ConfigError",
    "CopyBackFailed",
    "LaunchFailed",
    "LifecycleError",
    "MxcError",
    "PolicyLost",
    "PolicyRefused",
    "PrepFailed",
    "Problem",
    "UnsupportedContainment",
    "UsageError",
]


class Problem:
    """One thing that is wrong, at one place.

    Parameters
    ----------
    code: stable identifier, e.g. ``unknown_field`` or ``delegation_refused``.
    path: JSON pointer into the document (``/filesystem/deniedPaths/0``; ``""`` is the whole document), or the
        command-line option at fault.
    message: what is wrong, one sentence, control characters already escaped, no secret values.
    expected: what would have been accepted, if that can be said.
    fix: what the user can do; a command to paste where there is one.
    """

    __slots__ = ("code", "expected", "fix", "message", "path")

    def __init__(self, code: str, path: str, message: str, *, expected: str = "", fix: str = "") -> None:
        self.code = code
        self.path = path
        self.message = message
        self.expected = expected
        self.fix = fix

    def as_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("code", "path", "message", "expected", "fix")}

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.message}" if self.path else self.message]
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return "; ".join(parts)

    def __repr__(self) -> str:
        return f"Problem({self.code!r}, {self.path!r}, {self.message!r})"


class MxcError(Exception):
    """Base of the tree. Carries one or more `Problem`; the first one is the headline.

    Parameters
    ----------
    problems: at least one.
    retryable: whether the same call can succeed later without the user changing anything.
    """

    code = "error"

    def __init__(self, problems: Problem | Iterable[Problem], *, retryable: bool = False) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise ValueError("an error needs at least one problem")
        self.retryable = retryable
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def path(self) -> str:
        return self.problems[0].path

    @property
    def fix(self) -> str:
        return self.problems[0].fix

    def as_dict(self) -> dict[str, object]:
        return {
            "code": self.code,
            "message": str(self.problems[0]),
            "retryable": self.retryable,
            "problems": [problem.as_dict() for problem in self.problems],
        }


class ConfigError(MxcError):
    code = "malformed_request"


class UsageError(MxcError):
    code = "usage"


class UnsupportedContainment(MxcError):
    code = "unsupported_containment"


class PolicyRefused(MxcError):
    code = "policy_validation"


class PolicyLost(MxcError):
    code = "policy_lost"


class BackendUnavailable(MxcError):
    code = "backend_unavailable"


class LifecycleError(MxcError):
    """A lifecycle request that its sandbox cannot answer now, or that leads to no sandbox.

    Parameters
    ----------
    code: one of `CODES`, which with the classes above are the closed set of lifecycle.md §5.
    """

    CODES = (
        *("unsupported_phase", "malformed_id", "stale_id", "not_provisioned", "not_started"),
        *("already_started", "already_stopped"),
    )

    def __init__(self, code: str, problems: Problem | Iterable[Problem], *, retryable: bool = False) -> None:
        if code not in self.CODES:
            raise ValueError(f"{code!r} is no lifecycle code")
        self.code = code
        super().__init__(problems, retryable=retryable)


class LaunchFailed(MxcError):
    code = "backend_error"


class CopyBackFailed(MxcError):
    code = "copy_back_failed"


class PrepFailed(MxcError):
    code = "prep_failed"
