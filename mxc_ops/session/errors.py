"""What a session can answer instead of doing it: the twelve codes of MXC's lifecycle, each with its fix.

Five of them are classes of the tree (`backends.errors`); for the other seven there is a constructor each.
Finer distinctions are the problem's own code: a caller that matches on the twelve never meets a thirteenth.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.errors import (
    BackendUnavailable,
    ConfigError,
    LaunchFailed,
    LifecycleError,
    MxcError,
    PolicyRefused,
    Problem,
    UnsupportedContainment,
)

__all__ = [
    "LIFECYCLE_CODES",
    "already_started",
    "already_stopped",
    "ambiguous",
    "busy",
    "leftover",
    "lifecycle_code",
    "malformed_id",
    "name_malformed",
    "name_taken",
    "no_snapshot",
    "no_such_job",
    "not_provisioned",
    "not_started",
    "snapshot_taken",
    "stale_id",
    "store_failed",
    "store_not_ours",
    "suspended",
    "unreadable",
    "unsupported_phase",
]

LIFECYCLE_CODES = (
    ConfigError.code,
    UnsupportedContainment.code,
    BackendUnavailable.code,
    PolicyRefused.code,
    LaunchFailed.code,
    *LifecycleError.CODES,
)
"""The closed set of lifecycle.md §5."""
_ALSO = {"usage": ConfigError.code}
_LIST = "mxc-ops session list"
_PATH = "/sandboxId"


def lifecycle_code(error: MxcError) -> str:
    """The one of `LIFECYCLE_CODES` that an error is answered with; what has none is a `backend_error`."""
    code = _ALSO.get(error.code, error.code)
    return code if code in LIFECYCLE_CODES else LaunchFailed.code


def unsupported_phase(phase: str, containment: str) -> LifecycleError:
    """`containment` is known, and has no lifecycle, or not this phase of it."""
    message = f"{containment} does not support the phase {phase!a}"
    fix = "mxc-ops backends"
    return LifecycleError("unsupported_phase", Problem("unsupported_phase", "/phase", message, fix=fix))


def malformed_id(text: str, why: str) -> LifecycleError:
    """`text` can be no id, no shortened id and no name. `why`: the end of a sentence about it."""
    expected = "an id such as bwrap:0123…, its unique beginning, or a name"
    problem = Problem("malformed_id", _PATH, f"{_shown(text)} {why}", expected=expected, fix=_LIST)
    return LifecycleError("malformed_id", problem)


def ambiguous(text: str, ids: Sequence[str]) -> LifecycleError:
    """A shortened id that several sandboxes' `ids` begin with."""
    message = f"{_shown(text)} is the beginning of {len(ids)} ids: {', '.join(ids[:4])}"
    return LifecycleError("malformed_id", Problem("ambiguous_id", _PATH, message, fix=_LIST))


def stale_id(
    text: str, why: str = "there is no such sandbox any more", *, fix: str = _LIST
) -> LifecycleError:
    """A good id whose sandbox, or what ran in it, is gone. `why`: one sentence."""
    return LifecycleError("stale_id", Problem("stale_id", _PATH, f"{_shown(text)}: {why}", fix=fix))


def not_provisioned(text: str) -> LifecycleError:
    """No sandbox has this name, or an id that begins so."""
    message = f"no sandbox of yours is named, or has an id that begins with, {_shown(text)}"
    return LifecycleError("not_provisioned", Problem("not_provisioned", _PATH, message, fix=_LIST))


def not_started(identifier: str) -> LifecycleError:
    fix = f"mxc-ops session start {identifier}"
    problem = Problem("not_started", _PATH, f"{identifier} is not running", fix=fix)
    return LifecycleError("not_started", problem)


def suspended(identifier: str) -> LifecycleError:
    fix = f"mxc-ops session resume {identifier}"
    return LifecycleError("not_started", Problem("suspended", _PATH, f"{identifier} is suspended", fix=fix))


def already_started(identifier: str) -> LifecycleError:
    fix = f"mxc-ops session stop {identifier}"
    problem = Problem("already_started", _PATH, f"{identifier} is running", fix=fix)
    return LifecycleError("already_started", problem)


def already_stopped(identifier: str) -> LifecycleError:
    fix = f"mxc-ops session start {identifier}"
    problem = Problem("already_stopped", _PATH, f"{identifier} is not running", fix=fix)
    return LifecycleError("already_stopped", problem)


def busy(what: str, waited_s: float) -> LaunchFailed:
    """Another process works on `what` and did not end within `waited_s` seconds."""
    message = f"{what} is busy: another process has been changing it for more than {waited_s:g} s"
    return LaunchFailed(Problem("busy", _PATH, message, fix=_LIST), retryable=True)


def unreadable(path: str, reason: str, why: str) -> LaunchFailed:
    """What is kept of the sandbox in `path` cannot be used. `reason`: see `record.Unreadable`."""
    fixes = {
        "newer": "use the mxc-ops that made it, or remove it: mxc-ops session gc --force",
        "corrupt": "mxc-ops session gc --force",
        "foreign": f"ls -la {path}",
    }
    message = f"the sandbox in {path} cannot be used: {why}"
    return LaunchFailed(Problem(f"record_{reason}", _PATH, message, fix=fixes[reason]))


def leftover(path: str, error: OSError) -> LaunchFailed:
    """The sandbox is out of the store, and something of it in `path` could not be removed."""
    message = f"{error.filename or path} cannot be removed: {error.strerror}"
    return LaunchFailed(Problem("leftover", _PATH, message, fix="mxc-ops session gc"), retryable=True)


def name_malformed(name: str) -> ConfigError:
    expected = "at most 63 of a-z, 0-9, '.', '_', '-', a letter or digit first, and not 32 hexadecimal digits"
    message = f"{_shown(name)} cannot be the name of a sandbox"
    return ConfigError(Problem("name_malformed", "--name", message, expected=expected))


def name_taken(name: str, identifier: str) -> PolicyRefused:
    fix = f"take another name, or: mxc-ops session deprovision {identifier}"
    return PolicyRefused(Problem("name_taken", "--name", f"{identifier} has the name {name!a}", fix=fix))


def no_snapshot(identifier: str, name: str) -> LifecycleError:
    fix = f"mxc-ops session inspect {identifier}"
    problem = Problem("no_snapshot", "--from", f"{identifier} has no snapshot {_shown(name)}", fix=fix)
    return LifecycleError("stale_id", problem)


def snapshot_taken(identifier: str, name: str) -> PolicyRefused:
    fix = f"take another name, or: mxc-ops session snapshot {identifier} --remove {name}"
    message = f"{identifier} has a snapshot {name!a} already"
    return PolicyRefused(Problem("snapshot_taken", "--name", message, fix=fix))


def no_such_job(identifier: str, number: int) -> LaunchFailed:
    message = f"{identifier} has no detached command {number}"
    return LaunchFailed(Problem("no_such_job", "JOB", message, fix=f"mxc-ops session ps {identifier}"))


def store_not_ours(path: str, why: str, fix: str) -> BackendUnavailable:
    """The place of all sandboxes cannot be trusted: somebody else owns it, or may change it."""
    return BackendUnavailable(Problem("store_not_ours", "", f"{path} {why}", fix=fix))


def store_failed(path: str, error: OSError) -> LaunchFailed:
    """The system refused to read or change what is kept in `path`: no space, no rights, no descriptors."""
    message = f"what is kept in {path} cannot be used: {error.strerror}"
    fix = f"df -h {path}; ls -ld {path}"
    return LaunchFailed(Problem("store_failed", "", message, fix=fix), retryable=True)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")
