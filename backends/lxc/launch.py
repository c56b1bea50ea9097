"""How LXC is started around the launcher (effectful)."""

from __future__ import annotations

import os
import secrets as randomness
from functools import partial

from backends.base import Handles, Streams
from backends.guest_etc import INSIDE_ID
from backends.inside.protocol import ContainerIds, StageRoot
from backends.launched.launch import Arranged, Arrangement
from backends.launched.launch import launch as launch_sandbox
from backends.launched.parts import STAGE
from backends.launched.running import LaunchedRunning
from backends.linux.uid_range import UidRange
from backends.lxc.config import late_lines
from backends.lxc.failure import explain
from backends.lxc.plan import LxcPlan

__all__ = ["launch"]

_RANDOM_BYTES = 16


def launch(
    plan: LxcPlan,
    handles: Handles,
    streams: Streams,
    secrets: tuple[tuple[str, str], ...] = (),
    give: tuple[int, ...] = (),
) -> LaunchedRunning:
    """See `backends.launched.launch.launch`; `plan` is from `make_plan`."""
    uids: tuple[UidRange, ...] = ()
    if plan.users is None:
        assert plan.uid_range is not None  # no plan of root's is without
        uids = (plan.uid_range,) * (2 if plan.identity.kind == "range" else 1)
    return launch_sandbox(
        plan,
        handles,
        streams,
        secrets,
        partial(_arrange, plan),
        partial(explain, plan),
        uids=uids,
        users=plan.users,
        becomes=(INSIDE_ID, INSIDE_ID),
        give=give,
    )


def _arrange(plan: LxcPlan, there: Arranged) -> Arrangement:
    name = f"mxc-{randomness.token_hex(_RANDOM_BYTES)}"
    ids = _ids(plan, there)
    terminal = f"{STAGE}/{len(plan.grants)}" if plan.tty else ""
    late = late_lines(ids[0].uid, (ids[1].uid, ids[1].gid), there.inside, terminal)
    text = "\n".join([*plan.config, *late, ""])
    config = there.child_only.memfd(text.encode("utf-8", "surrogateescape"))
    if plan.users is None:
        image = there.child_only.add(os.open(plan.image.rootfs, os.O_RDONLY | os.O_CLOEXEC))
    else:
        from backends.lxc.unpacked import open_unpacked

        image = open_unpacked(plan.image, plan.users, plan.launcher, there.child_only)
    return Arrangement(
        # Its own path is in the stage, which nobody else has: nothing of the container is left on the host.
        argv=(
            *(plan.starter, "--foreground", "--lxcpath", STAGE, "--name", name),
            *("--rcfile", f"/proc/self/fd/{config}"),
        ),
        root=StageRoot(
            image=image,
            size_bytes=plan.limits.tmp_bytes,
            root=ids[0],
            workload=ids[1],
            hidden=plan.hidden,
            entries=plan.entries,
        ),
        takes_terminal=plan.tty,
    )


def _ids(plan: LxcPlan, there: Arranged) -> tuple[ContainerIds, ContainerIds]:
    """Who the container's root and its workload are outside: in a user namespace, they are called alike."""
    if plan.users is not None:
        return ContainerIds(0, 0, 0), ContainerIds(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    root = there.leases[-1].uid
    uid, gid = plan.identity.uid, plan.identity.gid
    if plan.identity.kind == "range":
        uid = gid = there.leases[0].uid
    return ContainerIds(0, root, root), ContainerIds(INSIDE_ID, uid, gid)
