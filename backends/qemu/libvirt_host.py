"""Virtual machines that a libvirt keeps: they outlive whoever made them, and any process finds them by name.

Only domains with our mark in their metadata are touched; all others are none of our business.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4

from backends.agent.connection import GuestConnection
from backends.errors import ConfigError, Problem
from backends.frozen import frozen
from backends.qemu.libvirt_connection import DEADLINE_S, Code, Connection
from backends.qemu.libvirt_domain import (
    Domain,
    domain_xml,
    read_channel,
    read_image_key,
    read_security_models,
)
from backends.qemu.libvirt_guest import open_guest

__all__ = ["DomainState", "DomainStatus", "LibvirtHost"]

_T = TypeVar("_T")
_VALIDATE = 1  # VIR_DOMAIN_DEFINE_VALIDATE: by libvirt's schema, so that nothing of ours is silently dropped


class DomainState(Enum):
    """Numbers are libvirt's (virDomainState)."""

    NONE = 0
    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    ENDING = 4
    OFF = 5
    CRASHED = 6
    SUSPENDED = 7


@frozen
class DomainStatus:
    """`persistent`: libvirt still knows it after it has ended. `image_key`: of the image that it boots."""

    name: str
    uuid: str
    state: DomainState
    image_key: str
    persistent: bool


class LibvirtHost:
    """The domains of ours at one libvirt. An asynchronous context manager.

    Each method raises what `Connection.call` raises, and `ConfigError` for a domain that is not ours.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    async def open(cls, uri: str, *, deadline_s: float = DEADLINE_S) -> LibvirtHost:
        """Parameters and errors as of `Connection.open`."""
        return cls(await Connection.open(uri, deadline_s=deadline_s))

    async def close(self) -> None:
        await self.connection.close()

    async def __aenter__(self) -> LibvirtHost:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def define(self, domain: Domain) -> None:
        """Make it known to libvirt, which keeps it over restarts of the host; it is not started.

        Raises also what `domain_xml` raises, and `ConfigError` for a name that is taken.
        """

        def work(raw: Any) -> None:
            xml = domain_xml(domain, str(uuid4()), read_security_models(raw.getCapabilities()))
            try:
                raw.defineXMLFlags(xml, _VALIDATE)
            except Exception as error:
                if Code.of(error) is Code.OPERATION_FAILED:  # what it says of a name with another UUID
                    raise _taken(domain.name, error) from error
                raise

        await self.connection.call(f"defining domain {domain.name}", work)

    async def start(self, name: str) -> None:
        """Boot it; its agent answers later, see `attach`."""
        await self._on(name, "starting", lambda domain: domain.create())

    async def destroy(self, name: str) -> None:
        """End it at once, as by pulling the plug; nothing to do when it is off. It stays defined."""

        def work(domain: Any) -> None:
            try:
                domain.destroy()
            except Exception as error:
                if Code.of(error) is not Code.OPERATION_INVALID or domain.isActive():
                    raise

        await self._on(name, "ending", work)

    async def undefine(self, name: str) -> None:
        """Make libvirt forget it. A running one runs on and is forgotten at its end."""
        await self._on(name, "undefining", lambda domain: domain.undefine())

    async def state(self, name: str) -> DomainStatus:
        return await self._on(name, "looking at", _status)

    async def list(self) -> tuple[DomainStatus, ...]:
        """All of ours, by name."""

        def work(raw: Any) -> tuple[DomainStatus, ...]:
            found = [status for domain in raw.listAllDomains(0) if (status := _if_there(domain))]
            return tuple(sorted(found, key=lambda status: status.name))

        return await self.connection.call("listing the domains", work)

    async def attach(self, name: str, *, deadline_s: float) -> GuestConnection:
        """Talk to the agent of a running domain, also when it was started, or talked to, by another process.

        There is one connection at a time: what an earlier one has let run ends, and while another process
        has one, the agent does not answer.

        Parameters
        ----------
        deadline_s: for the agent's answer. One that boots answers when it is ready: under TCG in seconds.

        Raises `LaunchFailed` when the domain is not running or the agent does not answer,
        `BackendUnavailable` when its socket is not for us.
        """

        def work(domain: Any) -> tuple[str, str]:
            return domain.UUIDString(), read_channel(domain.XMLDesc(0))

        uuid, path = await self._on(name, "looking at", work)
        return await open_guest(name, uuid, path, deadline_s=deadline_s)

    async def _on(self, name: str, doing: str, work: Callable[[Any], _T]) -> _T:
        def on_ours(raw: Any) -> _T:
            domain = raw.lookupByName(name)
            if _key(domain) is None:
                raise _foreign(name)
            return work(domain)

        return await self.connection.call(f"{doing} domain {name}", on_ours)


def _key(domain: Any) -> str | None:
    return read_image_key(domain.XMLDesc(0))


def _status(domain: Any) -> DomainStatus:
    return DomainStatus(
        domain.name(),
        domain.UUIDString(),
        DomainState(domain.state()[0]),
        _key(domain) or "",
        bool(domain.isPersistent()),
    )


def _if_there(domain: Any) -> DomainStatus | None:
    """None for a domain that is not ours, or gone since it was listed."""
    try:
        return None if _key(domain) is None else _status(domain)
    except Exception as error:
        if Code.of(error) is Code.NO_DOMAIN:
            return None
        raise


def _taken(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        Problem("domain_taken", "name", f"defining domain {name}: {error}", expected="a name of its own")
    )


def _foreign(name: str) -> ConfigError:
    return ConfigError(
        Problem("domain_foreign", "name", f"domain {name} was not defined by mxc-ops, and is left alone")
    )
