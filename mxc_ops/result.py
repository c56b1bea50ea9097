"""What a run came to: for callers, for ``--json`` and for ``--result-file``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from backends.ended import Conflict, LimitOutcome, Outcome, Usage
from backends.errors import MxcError, Problem
from backends.frozen import frozen
from mxc_ops.provenance import Origin, Provenance, trace

if TYPE_CHECKING:
    from backends.network.outcome import NetworkOutcome

RESULT_SCHEMA_VERSION = 1
TIMED_OUT_EXIT_CODE = 124
"""As timeout(1) exits."""


class CommandFailed(MxcError):
    """The workload itself did not succeed; raised by `Result.check` only. `result` is the whole result."""

    code = "command_failed"

    def __init__(self, problem: Problem, result: Result) -> None:
        super().__init__(problem)
        self.result = result


@frozen
class Result:
    """The end of one run.

    Parameters
    ----------
    exit_code: the workload's own, 128 + signal, or 124 when it timed out; `outcome` tells which.
    signal: number of the signal that ended the workload, if one did.
    stdout, stderr: what was captured; empty when handed through or given to a callback.
    stdout_dropped_bytes, stderr_dropped_bytes: how much came after the cap and was dropped.
    limits: how each limit asked for was held, and whether it was hit.
    enforced: what the policy was turned into: pairs of what is held and the mechanism that holds it.
    timings: what happened on the way and when, in ms since the start, in order; what there is to tell depends
        on the containment, and of most there is nothing.
    conflicts: files of read-write grants that host and sandbox both changed, where files are copied.
    network: every decision about a network that the policy gives; None where it gives none.
    """

    exit_code: int
    outcome: Outcome
    signal: int | None
    usage: Usage
    limits: tuple[LimitOutcome, ...]
    enforced: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    origin: Origin
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_dropped_bytes: int = 0
    stderr_dropped_bytes: int = 0
    timings: tuple[tuple[str, float], ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    network: NetworkOutcome | None = None

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and self.outcome is Outcome.EXITED

    @property
    def timed_out(self) -> bool:
        return self.outcome is Outcome.TIMED_OUT

    @property
    def stdout_truncated(self) -> bool:
        return self.stdout_dropped_bytes > 0

    @property
    def stderr_truncated(self) -> bool:
        return self.stderr_dropped_bytes > 0

    @property
    def limits_hit(self) -> tuple[str, ...]:
        return tuple(limit.name for limit in self.limits if limit.hit)

    @property
    def denials(self) -> tuple[Mapping[str, Any], ...]:
        """What was denied of the network: each destination, or name, and rule once, with a ``count``."""
        return () if self.network is None else self.network.denials

    @cached_property
    def provenance(self) -> Provenance:
        return trace(self.origin)

    def check(self) -> Result:
        """This result when the workload succeeded; else raises `CommandFailed`, with its last words."""
        if self.ok:
            return self
        message = f"the command {self._how_it_ended()}"
        if self.limits_hit:
            message += f"; limits hit: {', '.join(self.limits_hit)}"
        last_words = self.stderr[-300:].decode(errors="backslashreplace").strip()
        if last_words:
            message += f"; it said: {last_words}"
        raise CommandFailed(Problem(CommandFailed.code, "", message), self)

    def _how_it_ended(self) -> str:
        if self.outcome is Outcome.SIGNALLED:
            return f"was ended by signal {self.signal}"
        if self.outcome is Outcome.EXITED:
            return f"exited with {self.exit_code}"
        return "timed out" if self.timed_out else "was killed"

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe. A stream that is not UTF-8 is given as base64."""
        usage, provenance = self.usage, self.provenance
        return {
            "schemaVersion": RESULT_SCHEMA_VERSION,
            "outcome": self.outcome.value,
            "exitCode": self.exit_code,
            "signal": self.signal,
            "timedOut": self.timed_out,
            "stdout": _stream(self.stdout, self.stdout_dropped_bytes),
            "stderr": _stream(self.stderr, self.stderr_dropped_bytes),
            "usage": {
                "wallMs": round(usage.wall_ms, 3),
                "userMs": round(usage.user_ms, 3),
                "systemMs": round(usage.system_ms, 3),
                "maxRssKib": usage.max_rss_kib,
            },
            "limits": [
                {"name": limit.name, "value": limit.value, "mechanism": limit.mechanism}
                | {"scope": limit.scope, "hit": limit.hit}
                for limit in self.limits
            ],
            "limitsHit": list(self.limits_hit),
            "enforced": [{"what": what, "mechanism": mechanism} for what, mechanism in self.enforced],
            "timings": {what: round(ms, 3) for what, ms in self.timings},
            "conflicts": [
                {"path": conflict.path, "keptAs": conflict.kept_as, "pointer": conflict.pointer}
                for conflict in self.conflicts
            ],
            "denials": list(self.denials),
            "network": None if self.network is None else self.network.as_dict(),
            "warnings": list(self.warnings),
            "provenance": {
                "documentHash": provenance.document_hash,
                "planHash": provenance.plan_hash,
                "versions": dict(provenance.versions),
            },
        }


def _stream(content: bytes, dropped_bytes: int) -> dict[str, Any]:
    try:
        encoding, data = "utf-8", content.decode()
    except UnicodeDecodeError:
        from base64 import b64encode

        encoding, data = "base64", b64encode(content).decode()
    return {
        "encoding": encoding,
        "data": data,
        "truncated": dropped_bytes > 0,
        "droppedBytes": dropped_bytes,
    }
