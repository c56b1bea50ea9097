"""Under which host uid a workload runs, and whether grants reach it through idmapped mounts.

A root caller's workload must never keep host uid 0 (lab §13: ``bwrap --uid 1000`` as root does), so it gets a
uid of our own range, and sees the files of a grant's owner as its own through an idmapped mount.
"""

from __future__ import annotations

from backends.base import SandboxRequest
from backends.errors import BackendUnavailable, PolicyRefused, Problem
from backends.frozen import frozen
from backends.linux.uid_range import UidRange

OVERFLOW_ID = 65534
_FIX = "mxc-ops prep host --backend bubblewrap --yes"


@frozen
class Identity:
    """`kind`: "range" (a uid of our own, chosen at launch), "named" (mxcOps.user), "caller", or "mapped" (the
    caller, in a user namespace that we make around the sandbox's).

    `uid` and `gid` are host ids; for "range" they are the first of the range.
    """

    kind: str
    uid: int
    gid: int
    count: int = 1

    @property
    def staged(self) -> bool:
        """Whether grants are mounted by us, as root of the host or of a user namespace, beforehand."""
        return self.kind != "caller"

    @property
    def is_other(self) -> bool:
        """Whether the workload is somebody else than we are."""
        return self.kind in ("range", "named")

    @property
    def maps_owners(self) -> bool:
        return self.kind == "range"

    def describe(self) -> str:
        if self.kind == "range":
            return f"one host uid of {self.uid}…{self.uid + self.count - 1} for this sandbox alone"
        if self.kind == "named":
            return f"host uid {self.uid}, gid {self.gid}, as the document names them"
        return f"the caller's own host uid {self.uid}"


def choose_identity(request: SandboxRequest, caller: tuple[int, int], uid_range: UidRange | None) -> Identity:
    """Decide from the document and the (uid, gid) that we run as.

    Raises `PolicyRefused` for a user that the caller may not become, `BackendUnavailable` without a range.
    """
    uid, gid = caller
    pointer = request.pointers.get("user", "/mxcOps/user")
    if request.user is not None:
        named_gid = request.group if request.group is not None else request.user
        if OVERFLOW_ID in (request.user, named_gid) or 0 in (request.user, named_gid):
            raise PolicyRefused(
                Problem("user_refused", pointer, "a workload may not run as root or as the overflow id 65534")
            )
        if uid != 0 and (request.user, named_gid) != (uid, gid):
            raise PolicyRefused(
                Problem(
                    "user_refused",
                    pointer,
                    f"only root can run a workload as uid {request.user}, gid {named_gid}",
                    expected=f"uid {uid}, gid {gid}, or no user at all",
                )
            )
        return Identity("named" if uid == 0 else "caller", request.user, named_gid)
    if uid != 0:
        return Identity("caller", uid, gid)
    if uid_range is None:
        raise BackendUnavailable(
            Problem(
                "no_uid_range", "", "root needs a range of uids for workloads, and none is recorded", fix=_FIX
            )
        )
    return Identity("range", uid_range.first, uid_range.first, uid_range.count)
