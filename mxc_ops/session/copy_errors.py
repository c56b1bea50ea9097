"""What copying into a sandbox and out of it can end in, each with the path at fault."""

from __future__ import annotations

import errno
import os

from backends.agent.errors import GuestRefused
from backends.errors import LaunchFailed, PolicyRefused, Problem
from backends.inside.agent_protocol import Step

__all__ = ["DESTINATION", "SOURCE", "guest_refused", "host_failed", "not_copied", "several", "too_much"]

SOURCE, DESTINATION = "SRC", "DST"
_MOST_NAMED = 16
_MIB = 1 << 20


def not_copied(side: str, path: str, why: str, *, code: str = "not_copied", fix: str = "") -> LaunchFailed:
    """`path` is what `side` (`SOURCE` or `DESTINATION`) named, or lies below it; `why` ends a sentence."""
    return LaunchFailed(Problem(code, side, f"{path!a} {why}", fix=fix))


def several(side: str, found: list[tuple[str, str]]) -> LaunchFailed:
    """Each (path, why) of what cannot be copied, the first of them if there are many."""
    problems = [Problem("not_copied", side, f"{path!a} {why}") for path, why in found[:_MOST_NAMED]]
    if len(found) > _MOST_NAMED:
        problems.append(Problem("not_copied", side, f"and {len(found) - _MOST_NAMED} more cannot be copied"))
    return LaunchFailed(problems)


def host_failed(side: str, path: str, error: OSError) -> LaunchFailed:
    return not_copied(side, path, f"cannot be copied: {os.strerror(error.errno or errno.EIO)}")


def too_much(side: str, path: str, most_bytes: int) -> PolicyRefused:
    message = f"{path!a} holds more than {most_bytes / _MIB:g} MiB, or too many files"
    return PolicyRefused(Problem("copy_too_large", side, message, fix="allow more: --max MIB"))


def guest_refused(side: str, path: str, error: GuestRefused, most_bytes: int) -> LaunchFailed | PolicyRefused:
    """What the sandbox's agent answered about guest `path`, or something below it."""
    if error.step is Step.TOO_MUCH:
        return too_much(side, path, most_bytes)
    below = "" if error.subject in (".", path, path.lstrip("/")) else error.subject.removeprefix("./")
    place = f"{path.rstrip('/')}/{below}" if below else path
    if error.step is Step.OPEN and error.errno == errno.ELOOP:
        return not_copied(
            side,
            place,
            "leads through a symbolic link inside the sandbox, and none is followed",
            fix=f"name what it leads to: mxc-ops session exec ID -- readlink -f {path}",
        )
    if error.step is Step.OPEN and error.errno == errno.EINVAL:
        return not_copied(side, place, "is neither a file nor a directory")
    why = os.strerror(error.errno) if error.errno else error.step.name.lower()
    return not_copied(side, place, f"cannot be copied: {why}")
