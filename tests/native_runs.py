"""Runs by the native driver of Hyperlight, with whatever packages: through the same door as every run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from backends.base import Backend, FilesystemView, Handles, Running, SandboxRequest, Streams
from backends.frozen import replace
from backends.hyperlight.native import packages
from backends.hyperlight.native.facts import NativeFacts
from backends.hyperlight.native.launch import launch_native
from backends.hyperlight.native.observe import facts_of
from backends.hyperlight.native.plan import NativePlan, plan_native
from backends.hyperlight.native.trial import NoHandles
from backends.hyperlight_settings import Driver, HyperlightSettings
from mxc_ops.ends import Ends
from mxc_ops.one_shot import Prepared
from mxc_ops.result import Result

__all__ = ["asking", "facts_with", "prepared", "run", "start"]


def asking(source: str, **more: Any) -> SandboxRequest:
    """A request for the native driver by name."""
    settings = HyperlightSettings(driver=Driver.NATIVE)
    return SandboxRequest("hyperlight", shell=source, hyperlight=settings, **more)


def facts_with(environment: Path) -> NativeFacts:
    """This host's, as if sandboxes of these packages had been seen to run, and needed no device."""
    found, why = packages.examine(str(environment))
    assert found is not None, why
    return replace(facts_of(found), why="", device=None)


class _Native:
    """As much of a `Backend` as `Prepared` uses."""

    def launch(
        self,
        plan: NativePlan,
        handles: Handles,
        streams: Streams,
        secrets: tuple[tuple[str, str], ...] = (),
    ) -> Running:
        return launch_native(plan, handles, streams, secrets)


def prepared(facts: NativeFacts, request: SandboxRequest) -> Prepared:
    plan = plan_native(request, facts, FilesystemView())
    return Prepared(cast("Backend", _Native()), request, facts, plan, NoHandles(), plan.warnings)


def run(facts: NativeFacts, request: SandboxRequest | str, **ends: Any) -> Result:
    """Run to the end. `ends` are of `Ends`."""
    if isinstance(request, str):
        request = asking(request)
    with prepared(facts, request) as made:
        return made.run(Ends(**ends))


def start(facts: NativeFacts, source: str, streams: Streams) -> Running:
    return prepared(facts, asking(source)).launch(streams)
