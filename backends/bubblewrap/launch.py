"""How bubblewrap is started around the launcher (effectful)."""

from __future__ import annotations

from functools import partial

from backends.base import Handles, Streams
from backends.bubblewrap.failure import explain
from backends.bubblewrap.plan import BubblewrapPlan
from backends.launched.launch import Arranged, Arrangement
from backends.launched.launch import launch as launch_sandbox
from backends.launched.running import LaunchedRunning
from backends.linux.uid_range import UidRange

__all__ = ["launch"]


def launch(
    plan: BubblewrapPlan,
    handles: Handles,
    streams: Streams,
    secrets: tuple[tuple[str, str], ...] = (),
    give: tuple[int, ...] = (),
) -> LaunchedRunning:
    """See `backends.launched.launch.launch`; `plan` is from `make_plan`."""
    identity = plan.identity
    uids = (UidRange(identity.uid, identity.count),) if identity.kind == "range" else ()
    arrange, why = partial(_arrange, plan), partial(explain, plan)
    return launch_sandbox(plan, handles, streams, secrets, arrange, why, uids=uids, give=give)


def _arrange(plan: BubblewrapPlan, there: Arranged) -> Arrangement:
    tokens = {file.token: str(there.child_only.memfd(file.content.encode())) for file in plan.files}
    tokens |= {grant.token: place for grant, place in zip(plan.grants, there.grants, strict=True)}
    options = [tokens.get(option, option) if option.startswith("@") else option for option in plan.options]
    options_fd = there.child_only.memfd("\0".join((*options, "")).encode("utf-8", "surrogateescape"))
    return Arrangement((plan.helper, "--args", str(options_fd), "--", *there.inside))
