"""What to tell of a connection that cannot be had, or is lost, and what to do about it, as a command."""

# pyright: reportUnknownMemberType=false
# pyinfra annotates hosts incompletely.

from __future__ import annotations

from pathlib import Path
from shlex import join, quote

from pyinfra.api.host import Host

from mxc_ops.prep.engine.hostkeys import HostKeyTrouble

__all__ = ["connection_trouble"]

_BY_SSH = ("@ssh/", "@mxcwin/")


def connection_trouble(host: Host, error: Exception) -> tuple[str, str]:
    """The message and the fix."""
    key = _key_trouble(error)
    if key is not None:
        return str(key), _key_fix(host, key)
    said = str(error) or "it did not answer in time"
    if host.name.startswith("@") and not host.name.startswith(_BY_SSH):
        return said, ""
    return said, f"see whether it can be reached from here: {_ssh(host)}"


def _key_trouble(error: BaseException | None) -> HostKeyTrouble | None:
    """pyinfra makes its own error of every other."""
    while error is not None and not isinstance(error, HostKeyTrouble):
        error = error.__context__
    return error


def _key_fix(host: Host, key: HostKeyTrouble) -> str:
    file = quote(key.file)
    if not key.through:
        port = "" if key.port == key.DEFAULT_PORT else f"-p {key.port} "
        add = f"ssh-keyscan {port}{quote(key.host)} >> {file}"
    elif not key.jump:
        add = _ssh(host, "-o", "StrictHostKeyChecking=ask")
    else:
        forget = f"ssh-keygen -R {quote(key.name)} -f {file}; " if key.changed else ""
        return f"{forget}then add to {file} what ssh-keyscan shows of it on the jump host before it"
    if key.changed:
        forget = f"ssh-keygen -R {quote(key.name)} -f {file}"
        return f"find out who changed it and why; only then: {forget} && {add}"
    return f"check the host's key, then add it: {add}"


def _ssh(host: Host, *options: str) -> str:
    """ssh(1) as the inventory has the host reached."""
    data = host.data
    words = ["ssh", *options]
    for flag, value in (("-p", data.get("ssh_port")), ("-l", data.get("ssh_user"))):
        words += [flag, str(value)] if value else []
    for flag, name in (("-i", "ssh_key"), ("-F", "ssh_config_file")):
        words += [flag, _path(data.get(name))] if data.get(name) else []
    if data.get("ssh_known_hosts_file"):
        words += ["-o", f"UserKnownHostsFile={_path(data.get('ssh_known_hosts_file'))}"]
    return join([*words, str(data.get("ssh_hostname") or host.name.rpartition("/")[2]), "true"])


def _path(name: object) -> str:
    return str(Path(str(name)).expanduser())
