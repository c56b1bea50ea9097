"""Make the descriptors that a workload gets as 0, 1 and 2, and our channels at their other ends.

What the caller hands over as a descriptor goes to the workload itself: nothing is copied on its way.
"""

from __future__ import annotations

import os

from backends.base import SandboxRequest, Streams
from mxc_ops.channels import Capture, Feeder, Reader
from mxc_ops.ends import Descriptor, Ends, OnChunk, Wiring, descriptor, input_of, open_input
from mxc_ops.pipes import open_input_pipe


def connect(request: SandboxRequest, ends: Ends) -> Wiring:
    """Open what the request and the caller ask for.

    Raises `ConfigError` for ends that contradict each other or the request, `PolicyRefused` when the file
    that shall be standard input cannot be opened with the caller's rights.
    """
    content = input_of(request, ends)
    if request.tty:
        from mxc_ops.terminal import connect_terminal

        return connect_terminal(request, ends, content)
    captures = (Capture(ends.max_output_bytes), Capture(ends.max_output_bytes))
    wiring = Wiring(Streams(-1, -1, -1), [], captures, [])
    try:
        stdin = _connect_input(wiring, request, ends, content)
        stdout = _connect_output(wiring, ends.stdout, ends.on_stdout or captures[0], "stdout")
        stderr = _connect_output(wiring, ends.stderr, ends.on_stderr or captures[1], "stderr")
    except BaseException:
        wiring.close()
        raise
    wiring.streams = Streams(stdin, stdout, stderr)
    return wiring


def _connect_input(wiring: Wiring, request: SandboxRequest, ends: Ends, content: bytes | None) -> int:
    if content is None:
        wiring.workload_ends.append(open_input(request, ends))
        return wiring.workload_ends[-1]
    theirs, ours = open_input_pipe()
    wiring.workload_ends.append(theirs)
    feeder = Feeder(ours, content)
    # Most inputs fit into the pipe: then there is nothing left to watch.
    if feeder.step():
        wiring.channels.append(feeder)
    else:
        feeder.close()
    return theirs


def _connect_output(wiring: Wiring, given: Descriptor | None, sink: OnChunk, name: str) -> int:
    if given is not None:
        return descriptor(given, name)
    ours, theirs = os.pipe()
    wiring.workload_ends.append(theirs)
    wiring.channels.append(Reader(ours, sink))
    return theirs
