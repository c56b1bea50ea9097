"""Keys of hosts and of the jump hosts before them: checked as the inventory says, and nobody is asked.

pyinfra asks on standard input about a jump host, whatever the inventory says; ours is the parent's.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyinfra and paramiko annotate clients incompletely.

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from paramiko import BadHostKeyException, MissingHostKeyPolicy, PKey, SSHClient, SSHException
from pyinfra.connectors import ssh, util
from pyinfra.connectors.sshuserclient import client as pyinfra_client
from typing_extensions import override

__all__ = ["HostKeyTrouble", "ask_nobody"]

_STRICTNESS = "_pyinfra_ssh_strict_host_key_checking"
_FILE = "_pyinfra_ssh_known_hosts_file"
_KEEPALIVE = 5  # its place in what `parse_config` answers
_checks: ContextVar[dict[str, Any] | None] = ContextVar("checks", default=None)


class HostKeyTrouble(SSHException):
    """A host is not who it should be, or nobody knows who it is.

    Attributes
    ----------
    host, port: where the key was shown.
    file: where it should stand.
    changed: another one stands there.
    jump: it is a jump host's.
    through: the host was reached through a jump host.
    """

    DEFAULT_PORT = 22

    def __init__(self, client: _Client, host: str, port: int, *, changed: bool) -> None:
        self.host, self.port, self.changed = host, port, changed
        self.file, self.jump, self.through = client.known_hosts, client.jump, client.through
        whose = f"{'jump host ' if self.jump else ''}{self.name}"
        if changed:
            message = (
                f"the key of {whose} has changed: another one stands in {self.file}; this may be an attack"
            )
        else:
            message = f"the key of {whose} is not known: it does not stand in {self.file}"
        super().__init__(message)

    @property
    def name(self) -> str:
        """As files of known hosts have it."""
        return self.host if self.port == self.DEFAULT_PORT else f"[{self.host}]:{self.port}"


class _RefuseUnknown(MissingHostKeyPolicy):
    @override
    def missing_host_key(self, client: SSHClient, hostname: str, key: PKey) -> None:
        assert isinstance(client, _Client)
        host, _, port = hostname.removeprefix("[").partition("]:")
        raise HostKeyTrouble(client, host, int(port or HostKeyTrouble.DEFAULT_PORT), changed=False)


class _Client(pyinfra_client.SSHClient):
    """pyinfra's, which makes others of its class for jump hosts while it connects.

    Attributes
    ----------
    known_hosts: the first of its files of known hosts.
    jump: it is for a jump host.
    through: it is connected through another.
    alive_s: ServerAliveInterval of its SSH configuration; 0: none.
    """

    jump = False
    alive_s = 0

    @property
    def known_hosts(self) -> str:
        return self._host_keys_filename or ""

    @property
    def through(self) -> bool:
        return self._settings.get("sock") is not None

    @property
    def _settings(self) -> dict[str, Any]:
        return self._ssh_config

    @override
    def connect(self, hostname: str, **given: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - all is passed on
        self.jump = _STRICTNESS not in given
        if self.jump:
            given |= _checks.get() or {}
            given["port"] = int(given["port"])  # a word, where it comes from an SSH configuration
        else:
            _checks.set({name: given[name] for name in (_STRICTNESS, _FILE)})
        try:
            super().connect(hostname, **given)  # pyright: ignore[reportUnknownArgumentType]
        except BadHostKeyException as error:
            raise HostKeyTrouble(self, error.hostname, int(self._settings["port"]), changed=True) from None

    @override
    def parse_config(self, *arguments: Any, **named: Any) -> Any:
        found = super().parse_config(*arguments, **named)
        self.alive_s = found[_KEEPALIVE]
        return found

    @override
    def set_missing_host_key_policy(self, policy: Any) -> None:
        asks = isinstance(policy, pyinfra_client.AskPolicy | pyinfra_client.StrictPolicy)
        super().set_missing_host_key_policy(_RefuseUnknown() if asks else policy)


def ask_nobody() -> None:
    """Have pyinfra refuse where it would ask, for a key or for a password, in this whole process."""
    for module in (ssh, pyinfra_client):
        module.__dict__["SSHClient"] = _Client
    # What it takes for sudo's question may be the output of any command that failed.
    util.__dict__["SUDO_PASSWORD_REQUIRED_LINES"] = ()
