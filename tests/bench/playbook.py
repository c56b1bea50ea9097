"""The same preparation by Ansible, with what ansible-core has of its own, and how it is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mxc_ops.prep.items import Item
from tests.fleet.fleet import Fleet
from tests.fleet.image import USER, cached

__all__ = ["Ansible"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_CONSTRAINTS = _CHECKOUT / "constraints.txt"
_HOST_JSON = "/etc/mxc-ops/host.json"
_Task = dict[str, Any]


class Ansible:
    """ansible-playbook against all machines of a fleet, set up to be quick: pipelining, a fork for each host.

    Parameters
    ----------
    hosts: machines of the fleet, prepared already.
    items: what they were prepared with.
    """

    def __init__(self, fleet: Fleet, hosts: Sequence[str], items: Sequence[Item], folder: Path) -> None:
        self._fleet, self._hosts = fleet, hosts
        self._packages = cached("ansible", [*_wanted(), _CONSTRAINTS.read_text(), sys.version], _install)
        self._playbook = folder / "playbook.json"  # which is YAML, too
        self._playbook.write_text(json.dumps([self._play(items)]))
        self._inventory = folder / "hosts.ini"
        self._inventory.write_text("".join(self._line(host) for host in hosts))
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(self._packages),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_FORKS": str(len(hosts)),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "ansible/cp"),
            "LC_ALL": "C.UTF-8",
        }

    def rerun(self) -> None:
        """Run the playbook on hosts that are as it wants them. Raises `RuntimeError` if it changed any."""
        argv = [sys.executable, "-m", "ansible", "playbook", "-i", self._inventory, self._playbook]
        done = subprocess.run(
            self._fleet.command(argv), env=self._environment, capture_output=True, text=True, check=False
        )
        unchanged = re.findall(r"ok=\d+ +changed=0 +unreachable=0 +failed=0", done.stdout)
        if done.returncode or len(unchanged) != len(self._hosts):
            raise RuntimeError(f"ansible-playbook: {done.stdout[-4000:]}{done.stderr[-2000:]}")

    def _line(self, host: str) -> str:
        ssh = f"-F none -o UserKnownHostsFile={self._fleet.known_hosts} -o StrictHostKeyChecking=yes"
        return (
            f"{host} ansible_host={self._fleet.address(host)} ansible_user={USER}"
            f" ansible_ssh_private_key_file={self._fleet.key} ansible_python_interpreter=/usr/bin/python3"
            f" ansible_ssh_common_args='{ssh}'\n"
        )

    def _play(self, items: Sequence[Item]) -> _Task:
        packages = [
            name
            for item in items
            if item.operation == "packages.installed"
            for name in item.arguments["packages"]
        ]
        apt = {"name": packages, "state": "present", "install_recommends": False}
        tasks: list[_Task] = [{"name": "packages", "ansible.builtin.apt": apt}]
        for item in items:
            tasks += [{"name": item.identifier, **task} for task in self._tasks(item)]
        return {"hosts": "all", "gather_facts": False, "become": True, "tasks": tasks}

    def _tasks(self, item: Item) -> list[_Task]:
        given = item.arguments
        match item.operation:
            case "packages.installed":
                return []  # all of them in one task
            case "files.root_directory":
                return [_directory(given["path"])]
            case "helpers.pushed":
                folder = f"{given['store']}/{given['key']}"
                copy = {"src": given["source"], "dest": f"{folder}/{given['program']}", "mode": "0755"}
                return [_directory(folder), {"ansible.builtin.copy": copy}]
            case "ids.recorded_range":
                return [self._as_it_stands(_HOST_JSON)]
            case "ids.subordinate":
                return [self._line_in(f"/etc/{name}", given["user"]) for name in ("subuid", "subgid")]
            case "kernel.setting":
                return self._setting(given["key"])
            case "apparmor.profile":
                switch = given["switch"].replace(".", "/")
                return [{"ansible.builtin.stat": {"path": f"/proc/sys/{switch}"}}]
            case "network.bridge":
                return [
                    _looked_at(f"ip -json address show dev {given['bridge']}"),
                    _looked_at(f"nft list table inet {given['table']}"),
                ]
            case "images.installed":
                archive = {
                    "src": given["source"],
                    "dest": given["path"],
                    "creates": f"{given['path']}/stamp.json",
                }
                return [{"ansible.builtin.unarchive": archive}]
            case _:
                raise ValueError(f"no task for {item.operation}: write one")

    def _setting(self, key: str) -> list[_Task]:
        read = {**_looked_at(f"sysctl -n {key}"), "failed_when": False}
        drop_in = f"/etc/sysctl.d/zz-mxc-ops-{key}.conf"
        return [read, self._as_it_stands(drop_in)] if self._cat(drop_in) else [read]

    def _as_it_stands(self, path: str) -> _Task:
        return {"ansible.builtin.copy": {"content": self._cat(path), "dest": path, "mode": "0644"}}

    def _line_in(self, path: str, user: str) -> _Task:
        (line,) = [line for line in self._cat(path).splitlines() if line.startswith(f"{user}:")]
        return {"ansible.builtin.lineinfile": {"path": path, "line": line}}

    def _cat(self, path: str) -> str:
        return self._fleet.inside(self._hosts[0], f"test ! -e {path} || cat {path}")


def _directory(path: str) -> _Task:
    return {"ansible.builtin.file": {"path": path, "state": "directory", "owner": "root", "mode": "0755"}}


def _looked_at(command: str) -> _Task:
    return {"ansible.builtin.command": {"cmd": command}, "changed_when": False}


def _wanted() -> list[str]:
    """The dependency group of the benchmarks, which the project's own environment goes without."""
    return tomllib.loads((_CHECKOUT / "pyproject.toml").read_text())["dependency-groups"]["bench"]


def _install(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    argv = [*pip, "--target", str(folder), "--constraint", str(_CONSTRAINTS), *_wanted()]
    subprocess.run(argv, check=True, capture_output=True, timeout=600)
