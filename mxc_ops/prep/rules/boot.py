"""What runs a script of ours when a host starts, for each service manager. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from shlex import quote

__all__ = ["BOOT", "BootFile", "Manager"]


@dataclass(frozen=True)
class BootFile:
    """A text file of root's. `mode`: octal, as for chmod(1)."""

    path: str
    text: str
    mode: str = "0644"


@dataclass(frozen=True)
class Manager:
    """One service manager.

    Parameters
    ----------
    file: (name, what, script) the service that runs a script; `what` is for people.
    link: (name) the path that is there when the service is started with the host.
    enable, disable: (name) shell commands; `disable` succeeds also when the service is not there.
    """

    file: Callable[[str, str, str], BootFile]
    link: Callable[[str], str]
    enable: Callable[[str], str]
    disable: Callable[[str], str]


def _unit(name: str, what: str, script: str) -> BootFile:
    # nftables.service begins with "flush ruleset", on reload too, which takes our tables with it. PartOf=
    # carries its restarts over to services that are active, hence RemainAfterExit= (systemd.unit(5)).
    text = f"""# mxc-ops prep host
[Unit]
Description=mxc-ops: {what}
Wants=network-pre.target
After=network-pre.target nftables.service
Before=network.target lxc.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {script}
ExecReload=/bin/sh {script}

[Install]
WantedBy=multi-user.target
"""
    return BootFile(f"/etc/systemd/system/{name}.service", text)


def _init_script(name: str, what: str, script: str) -> BootFile:
    text = f"""#!/sbin/openrc-run
# mxc-ops prep host
description="mxc-ops: {what}"

depend() {{
	need localmount
	after nftables iptables firewall net
	before lxc
}}

start() {{
	ebegin "Making the {what}"
	/bin/sh {script}
	eend $?
}}
"""
    return BootFile(f"/etc/init.d/{name}", text, "0755")


BOOT: Mapping[str, Manager] = {
    "systemd": Manager(
        _unit,
        lambda name: f"/etc/systemd/system/multi-user.target.wants/{name}.service",
        lambda name: f"systemctl daemon-reload && systemctl enable --now {quote(name)}.service",
        lambda name: f"systemctl disable --now {quote(name)}.service || true",
    ),
    "openrc": Manager(
        _init_script,
        lambda name: f"/etc/runlevels/default/{name}",
        lambda name: f"rc-update add {quote(name)} default",
        lambda name: f"rc-update del {quote(name)} default || true",
    ),
}
