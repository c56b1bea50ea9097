"""Host uids of our own for workloads started by root: one per concurrent sandbox.

Sharing a uid would let one sandbox use up another's per-uid limits and signal it (spec: upstream-gaps.md P3).
`mxc-ops prep host` records the range.
"""

from __future__ import annotations

import json

from backends.errors import BackendUnavailable, ConfigError, Problem
from backends.frozen import frozen
from backends.linux.numbers import take

HOST_FILE = "/etc/mxc-ops/host.json"
_FIX = "mxc-ops prep host --backend bubblewrap --yes"


@frozen
class UidRange:
    """`count` consecutive host uids (and equal gids) from `first` on."""

    first: int
    count: int


@frozen
class Lease:
    """A uid that is ours while `lock` is open in some process."""

    uid: int
    lock: int


def configured_range(host_file: str = HOST_FILE) -> UidRange | None:
    """The range that prep recorded; None when this host was not prepared.

    Raises `ConfigError` when the file is there and unusable.
    """
    try:
        with open(host_file, "rb") as file:
            recorded = json.loads(file.read())["uidRange"]
        found = UidRange(int(recorded["first"]), int(recorded["count"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            Problem("host_file", host_file, f"the uid range cannot be read: {error}", fix=_FIX)
        ) from error
    if found.first < 1000 or found.count < 1 or found.first + found.count > 2**32 - 2:
        raise ConfigError(Problem("host_file", host_file, "the uid range is not usable", fix=_FIX))
    return found


def lease(uids: UidRange) -> Lease:
    """Take a uid that no running sandbox of this host has.

    Raises `BackendUnavailable` (retryable) when all are taken.
    """
    taken = take("uids", uids.first, uids.count)
    if taken is not None:
        return Lease(taken.number, taken.lock)
    problem = Problem(
        "uid_range_exhausted",
        "",
        f"all {uids.count} workload uids from {uids.first} on are in use",
        fix=f"wait for a sandbox to end, or widen uidRange in {HOST_FILE}",
    )
    raise BackendUnavailable(problem, retryable=True)
