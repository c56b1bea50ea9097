"""What a backend gives to sessions: a sandbox that runs an agent instead of a command. Protocols only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from backends.agent.relay import Relay
from backends.base import Handles
from backends.ended import Conflict
from backends.frozen import frozen
from backends.inside.agent_protocol import GuestCommand

if TYPE_CHECKING:
    from backends.network.opening import Network

__all__ = ["Copied", "KeepsSessions", "Scope", "SessionSandbox", "Settled"]


@frozen
class Settled:
    """What became of the copies that a sandbox had of the host's files."""

    conflicts: tuple[Conflict, ...] = ()
    warnings: tuple[str, ...] = ()


@frozen
class Scope:
    """What a copy of a sandbox has of its own, what it shares with its original, and what else to know."""

    copied: tuple[str, ...]
    shared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {"copied": list(self.copied), "shared": list(self.shared), "notes": list(self.notes)}


@frozen
class Copied:
    """What copies of a sandbox start from, as it ran when it was copied.

    `fds` are by name, and the receiver's to close; `said` is what a backend needs besides, JSON-safe, with
    the `Scope` as ``scope``.
    """

    fds: Mapping[str, int]
    said: Mapping[str, Any]

    @property
    def scope(self) -> Scope:
        told = self.said["scope"]
        return Scope(tuple(told["copied"]), tuple(told["shared"]), tuple(told["notes"]))


class SessionSandbox(Protocol):
    """A started sandbox; `pid` is of its outermost process."""

    @property
    def pid(self) -> int: ...

    @property
    def network(self) -> Network | None:
        """What it was started in, if that is any network."""
        ...

    async def relay(self) -> Relay:
        """To its agent; once. Raises what kept the sandbox from being set up."""
        ...

    async def gone(self) -> str:
        """Return once nothing of it is left: why, in words. Raises `MxcError` for what it could not do."""
        ...

    async def suspend(self, relay: Relay) -> None:
        """Have everything in it stand still, until `resume`; twice is once. Raises `LaunchFailed`."""
        ...

    async def resume(self, relay: Relay) -> None: ...

    async def copy(self, relay: Relay) -> Copied:
        """Of it, as far as its backend can; it stands still meanwhile. Raises `LaunchFailed`."""
        ...

    async def settle(self, relay: Relay) -> Settled:
        """Bring copies of the host's files back, once all that runs in it was ended; one that was suspended
        goes on for that. Where nothing is copied, nothing happens.

        Raises `CopyBackFailed`; it may be called again then, and goes on with what is not back yet.
        """
        ...

    async def end(self) -> None:
        """End everything in it; returns once nothing is left."""
        ...


@runtime_checkable
class KeepsSessions(Protocol):
    """A backend whose sandboxes can outlive a command. Plans and handles are those of one-shot runs.

    `session_modules` are the names of what observing, planning and starting a session imports.
    """

    @property
    def session_modules(self) -> tuple[str, ...]: ...

    async def start_session(self, plan: Any, handles: Handles, copied: Copied | None) -> SessionSandbox:
        """Start the sandbox with an agent in it, or one that goes on where another one was copied.

        The copy's descriptors stay the caller's. Raises what `launch` and `Running.wait` raise.
        """
        ...

    def imposed(self, plan: Any) -> GuestCommand:
        """Under what each command of a session is: user, limits, filter. Its arguments mean nothing."""
        ...
