"""Preparing hosts, against plain pyinfra and Ansible, in one go: ``python -m tests.bench.bench_prep``.

Ten real hosts (containers with sshd, see `tests.fleet`) are prepared once for bubblewrap and LXC; what is
timed is that nothing is left to do. Needs root; the first time also the network, for Debian and Ansible.
"""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.bubblewrap import needs as bubblewrap
from backends.lxc import needs as lxc
from mxc_ops.prep.choices import Choices
from mxc_ops.prep.items import HostFacts, Item, items_for, needs_of
from tests.bench.bare import temporary_folder
from tests.bench.canned import answers_of
from tests.bench.measure import in_turns, table
from tests.bench.playbook import Ansible
from tests.fleet.fleet import Fleet, Machine, missing
from tests.fleet.image import package_source
from tests.fleet.inventory import Group, write_inventory

ROUNDS = int(os.environ.get("MXC_BENCH_FLEET_ROUNDS", "3"))
HOSTS = [f"host-{number}" for number in range(1, 11)]
FAKES = 500
CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
BACKENDS = ("bubblewrap", "lxc")
DEPLOY = """
from importlib import import_module

for name, operation, arguments in {items!r}:
    area, _, kind = operation.partition(".")
    getattr(import_module(f"mxc_ops.prep.operations.{{area}}"), kind)(name=name, _sudo=True, **arguments)
"""
FAKE_INVENTORY = """
import json, pathlib

answers = json.loads(pathlib.Path({answers!r}).read_text())
data = {{**{data!r}, "fake_responses": answers, "fake_delay": 0.0, "fake_delay_jitter": 0.0}}
hosts = ([f"@fake/{{number}}" for number in range({count})], data)
"""


def main() -> None:
    compileall.compile_dir(CHECKOUT, quiet=2, maxlevels=6)
    this_host()
    reason = missing()
    if reason:
        print(f"\nfleets: {reason}")
        return
    with temporary_folder() as folder, Fleet([Machine(name) for name in HOSTS], _packages()) as fleet:
        wanted = Wanted.make()
        inventory = write_inventory(Path(folder) / "fleet.py", fleet, {"hosts": Group(HOSTS, wanted.data)})
        prep(fleet, inventory, "--yes", settled=False)
        real_hosts(fleet, inventory, wanted, Path(folder))
        fake_hosts(fleet, wanted, Path(folder))


def this_host() -> None:
    argv = [str(SCRIPTS / "mxc-ops"), "prep", "host"]

    def plan() -> None:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode not in (0, 3):
            raise RuntimeError(done.stdout.decode() + done.stderr.decode())

    title = "Only a plan, for this host (promised: < 1500 ms)"
    table(title, in_turns({"mxc-ops prep host": plan}, max(5, ROUNDS)))


def real_hosts(fleet: Fleet, inventory: Path, wanted: Wanted, folder: Path) -> None:
    deploy = folder / "deploy.py"
    calls = [(item.identifier, item.operation, dict(item.arguments)) for item in wanted.items]
    deploy.write_text(DEPLOY.format(items=calls))
    ansible = Ansible(fleet, HOSTS, wanted.items, folder)
    ours, plain, other = "mxc-ops prep host --yes", "pyinfra -y, the same operations", "ansible-playbook"
    durations = in_turns(
        {
            ours: lambda: prep(fleet, inventory, "--yes"),
            plain: lambda: pyinfra(fleet, inventory, deploy),
            other: ansible.rerun,
        },
        ROUNDS,
    )
    title = f"Nothing to do on {len(HOSTS)} hosts over SSH, {len(wanted.items)} items"
    with_plain = {name: durations[name] for name in (ours, plain)}
    table(f"{title} (promised: mxc-ops within x 1.2 of pyinfra)", with_plain, against=plain)
    with_other = {name: durations[name] for name in (ours, other)}
    table(f"{title} (promised: Ansible takes x 3 or more)", with_other, against=ours)


def fake_hosts(fleet: Fleet, wanted: Wanted, folder: Path) -> None:
    answers = folder / "answers.json"
    answers.write_text(json.dumps(answers_of(fleet, HOSTS[0], wanted.items)))
    inventory = folder / "fakes.py"
    inventory.write_text(FAKE_INVENTORY.format(answers=str(answers), data=wanted.data, count=FAKES))
    durations = in_turns({"mxc-ops prep host --yes": lambda: prep(fleet, inventory, "--yes")}, ROUNDS)
    table(f"Nothing to do on {FAKES} @fake hosts (promised: < 3000 ms)", durations)


@dataclass(frozen=True)
class Wanted:
    """What the hosts are prepared with: as data of an inventory, and as items."""

    data: dict[str, Any]
    items: Sequence[Item]

    @staticmethod
    def make() -> Wanted:
        choices = Choices(BACKENDS, launcher="push")
        data: dict[str, Any] = {"mxc_backends": list(choices.backends), "mxc_launcher": choices.launcher}
        facts = HostFacts("any", "Debian", "debian", "sudo", os.uname().machine)
        return Wanted(data, items_for(needs_of(choices), facts, choices))


def prep(fleet: Fleet, inventory: Path, *options: str, settled: bool = True) -> None:
    """`mxc-ops prep host`. Raises `RuntimeError` when a host that should be settled is not."""
    argv = [SCRIPTS / "mxc-ops", "prep", "host", "--inventory", inventory, *options, "--json"]
    done = subprocess.run(
        fleet.command(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    hosts: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["hosts"] if done.stdout else []
    states = {item["state"] for host in hosts for item in host["items"]}
    if not states or not states <= ({"as wanted"} if settled else {"as wanted", "changed"}):
        raise RuntimeError(f"mxc-ops prep host: {states}: {done.stdout[-4000:]}{done.stderr[-2000:]}")


def pyinfra(fleet: Fleet, inventory: Path, deploy: Path) -> None:
    """The pyinfra command. Raises `RuntimeError` when it changed anything."""
    argv = [SCRIPTS / "pyinfra", inventory, deploy, "-y", "--json"]
    done = subprocess.run(
        fleet.command(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    totals: dict[str, int] = json.loads(done.stdout)["results"]["totals"] if done.stdout else {}
    if done.returncode or totals.get("success") or totals.get("error") or not totals.get("no_change"):
        raise RuntimeError(f"pyinfra: {totals}: {done.stdout[-4000:]}{done.stderr[-2000:]}")


def _packages() -> Path:
    needs = [*bubblewrap.needs(), *lxc.needs()]
    return package_source(name for need in needs for name in need.packages.get("debian", ()))


if __name__ == "__main__":
    main()
