"""One config, one sandbox, one result: look, decide, plan, launch, carry the streams (design §2).

Everything happens in the calling thread; the sandbox itself is started by `backends.process`, so it survives
the thread that asked for it and dies with the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from backends import registry
from backends.base import Backend, Handles, Running, SandboxRequest, Streams
from backends.ended import Ended, LimitOutcome, Outcome
from mxc_ops.channels import DEFAULT_CAP_BYTES, Capture
from mxc_ops.deadline import Deadline
from mxc_ops.ends import Descriptor, Ends, OnChunk
from mxc_ops.exchange import exchange, stop
from mxc_ops.image_lookup import with_image
from mxc_ops.policy.features import check_features
from mxc_ops.policy.filesystem import resolve_filesystem
from mxc_ops.provenance import Origin
from mxc_ops.result import TIMED_OUT_EXIT_CODE, Result
from mxc_ops.sources import Source, as_request
from mxc_ops.wiring import connect


class Prepared:
    """A request that was found possible on this host: its plan, and open descriptors to what the plan names.

    Use it as a context manager, launch at most once. `plan.as_dict()` is what would be enforced.
    """

    def __init__(
        self,
        backend: Backend,
        request: SandboxRequest,
        facts: Any,
        plan: Any,
        handles: Handles,
        warnings: tuple[str, ...],
    ) -> None:
        self.backend = backend
        self.request = request
        self.facts = facts
        self.plan = plan
        self.handles = handles
        self.warnings = warnings

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        self.handles.close()

    def launch(self, streams: Streams) -> Running:
        """Start the sandbox. Raises `ConfigError` for secrets that cannot be read, and `LaunchFailed`."""
        secrets: tuple[tuple[str, str], ...] = ()
        try:
            if self.request.environment.secrets:
                from mxc_ops.policy.environment import SECRETS_POINTER, read_secrets

                place = self.request.pointers.get("secrets", SECRETS_POINTER)
                secrets = read_secrets(self.request.environment, place)
            return self.backend.launch(self.plan, self.handles, streams, secrets)
        finally:
            self.close()

    def run(self, ends: Ends) -> Result:
        """Launch, carry the streams until the sandbox is gone, conclude. See `run` for what is raised."""
        wiring = connect(self.request, ends)
        try:
            with wiring.terminal or nullcontext():
                running = self.launch(wiring.streams)
                try:
                    wiring.launched()
                    deadline = Deadline(self.request.timeout)
                    ended = exchange(running, wiring.channels, deadline)
                except BaseException:
                    stop(running)
                    raise
        finally:
            wiring.close()
        return self.conclude(ended, deadline.timed_out, wiring.captures)

    def conclude(self, ended: Ended, timed_out: bool, captures: tuple[Capture, Capture]) -> Result:
        """The result of a run that has ended."""
        limits = ended.limits
        after_ms = self.request.timeout.after_ms
        if after_ms:
            held = LimitOutcome(
                "timeoutMs", after_ms, "deadline on the monotonic clock", "sandbox", timed_out
            )
            limits = (*limits, held)
        stdout, stderr = captures
        return Result(
            exit_code=TIMED_OUT_EXIT_CODE if timed_out else ended.exit_code,
            outcome=Outcome.TIMED_OUT if timed_out else ended.outcome,
            signal=ended.signal,
            usage=ended.usage,
            limits=limits,
            enforced=self.plan.enforced,
            timings=ended.timings,
            conflicts=ended.conflicts,
            network=ended.network,
            warnings=(*self.warnings, *ended.warnings),
            origin=Origin(self.request.document_hash, self.plan),
            stdout=stdout.getvalue(),
            stderr=stderr.getvalue(),
            stdout_dropped_bytes=stdout.dropped_bytes,
            stderr_dropped_bytes=stderr.dropped_bytes,
        )


def prepare(request: SandboxRequest, *, kept: bool = False, may_import: bool = True) -> Prepared:
    """Look at the host and plan; nothing is started or changed.

    Parameters
    ----------
    kept: the sandbox is to be one of a session, or to wait for its run.
    may_import: whether the image of a container may be put into the store, where the request asks for that.

    Raises `UnsupportedContainment`, `BackendUnavailable` (also for an image that is not there), or
    `PolicyRefused` with every problem at once.
    """
    backend = registry.get(request.containment)
    warnings = (*request.warnings, *check_features(request, backend.capabilities))
    request = with_image(request, kept=kept, may_import=may_import)
    observed = backend.observe(request)
    try:
        view = resolve_filesystem(observed.paths, observed.facts.baseline_trees, observed.facts.own_paths)
        plan = backend.plan(request, observed.facts, view)
    except BaseException:
        observed.handles.close()
        raise
    return Prepared(backend, request, observed.facts, plan, observed.handles, (*warnings, *plan.warnings))


def run(
    source: Source,
    command: str | Sequence[str] | None = None,
    *,
    input: bytes | None = None,
    stdin: Descriptor | None = None,
    stdout: Descriptor | None = None,
    stderr: Descriptor | None = None,
    on_stdout: OnChunk | None = None,
    on_stderr: OnChunk | None = None,
    max_output_bytes: int = DEFAULT_CAP_BYTES,
) -> Result:
    """Run one command in one sandbox and wait for it. Any thread may call this.

    Parameters
    ----------
    source: a `Policy` (then `command` is needed), or a whole document as a dict, its path (str or PathLike),
        its bytes, a loaded `Document`, or a `SandboxRequest`.
    command: str: a line for the sandbox's shell; a sequence: an argument vector, no shell.
    input: bytes for the workload's standard input, then its end. Without `input` and `stdin` it is empty.
    stdin: an open descriptor or file that the request's ``inherit`` stands for; 0 hands yours over.
    stdout, stderr: descriptors or files handed to the workload itself; by default they are captured.
    on_stdout, on_stderr: called in this thread with each chunk, which is not kept then. What one raises ends
        the sandbox and reaches you.
    max_output_bytes: how much of each captured stream is kept; the rest is read, counted and dropped.

    With a tty in the request, output is one merged stream (`stdout`), and when `stdin` is a terminal it is in
    raw mode for the time of the run.

    Raises `ConfigError`, `UnsupportedContainment`, `PolicyRefused`, `BackendUnavailable` and `LaunchFailed`;
    never for what the workload does (see `Result.check`). KeyboardInterrupt, or any other error here, first
    kills the sandbox.
    """
    request = as_request(source, command)
    ends = Ends(input, stdin, stdout, stderr, on_stdout, on_stderr, max_output_bytes)
    with prepare(request) as prepared:
        return prepared.run(ends)
