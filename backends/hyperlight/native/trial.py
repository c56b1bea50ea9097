"""Whether a sandbox of the packages really runs here: one is run, confined as every other (effectful)."""

from __future__ import annotations

import os

from backends.base import FilesystemView, SandboxRequest, Streams
from backends.digest import sha256
from backends.errors import LaunchFailed
from backends.hyperlight.native.facts import NativeFacts
from backends.hyperlight.native.launch import launch_native
from backends.hyperlight.native.plan import WORKER_PROFILE, plan_native
from backends.linux.boot_cache import cached

__all__ = ["DEADLINE_S", "native_verdict"]

DEADLINE_S = 30.0
_END_S = 5.0
_MOST_BYTES = 4096
_REQUEST = SandboxRequest("hyperlight", shell="print(6 * 7)")  # noqa: S604 - Python source
_ANSWER = b"42\n"


def native_verdict(facts: NativeFacts) -> str:
    """Why no sandbox runs, "" when one has answered: found out once per boot of the host.

    Parameters
    ----------
    facts: with their `why` empty, and nothing missing.

    Raises `BackendUnavailable` for what is missing here besides; that is not kept.
    """
    made_of = (
        *(facts.packages, facts.device, facts.helper, facts.launcher_key, facts.landlock_abi),
        *(facts.caller[0], facts.seccomp[WORKER_PROFILE]),
    )
    digest = sha256(repr(made_of).encode()).hexdigest()
    return cached(f"hyperlight-{digest[:24]}", lambda: _try(facts))


def _try(facts: NativeFacts) -> str:
    plan = plan_native(_REQUEST, facts, FilesystemView())
    printed = os.memfd_create("printed", os.MFD_CLOEXEC)
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        running = launch_native(plan, NoHandles(), Streams(nothing, printed, nothing))
        ended = running.wait(DEADLINE_S)
        if ended is None:
            running.kill()
            running.wait(_END_S)
            return f"the sandbox gave no answer within {DEADLINE_S:g} s"
        said = os.pread(printed, _MOST_BYTES, 0)
    except LaunchFailed as error:
        return error.problems[0].message
    finally:
        os.close(printed)
        os.close(nothing)
    if said != _ANSWER:
        return "; ".join((f"the sandbox answered {said[:80]!r} instead of {_ANSWER!r}", *ended.warnings))
    return ""


class NoHandles:
    """Descriptors of a policy's objects: none."""

    def fileno(self, slot: int) -> int:
        raise LookupError(slot)

    def close(self) -> None:
        """There is nothing to close."""
