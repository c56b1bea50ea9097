"""Our own standard streams: there even when our caller closed them, and no traceback when they fail."""

from __future__ import annotations

import errno
import os
import sys

EXIT_FAILED = 1
EXIT_READER_GONE = 141  # 128 + SIGPIPE, what a shell reports for a writer whose reader left

_CANNOT_TAKE_MORE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


def fill_standard_descriptors() -> None:
    """Open /dev/null where our caller closed 0, 1 or 2: the next file opened would take the number, and the
    workload would get that file as its standard stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def tell(text: str) -> None:
    """Print a remark of ours on standard error. That nobody can read it must not change what we do."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # What is still buffered would fail again on the way out; the descriptor itself is the workload's too.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - stays open to the end


def answer_lost(error: OSError, program: str) -> int | None:
    """What to exit with when `error` says that our standard output takes no more; None for another error.

    Nothing can complain about the stream any more on the way out.
    """
    gone = isinstance(error, BrokenPipeError)
    if not gone and (error.errno not in _CANNOT_TAKE_MORE or error.filename is not None):
        return None
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    if gone:
        return EXIT_READER_GONE
    tell(f"{program}: error: standard output cannot be written: {error.strerror}")
    return EXIT_FAILED
