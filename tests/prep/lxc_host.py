"""A host of the test's own: namespaces in which operations are carried out as host preparation does."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from backends.network.facts import BRIDGE
from backends.network.needs import ADDRESS, TABLE
from mxc_ops.prep import receipts
from mxc_ops.prep.decision import Decision, Query
from mxc_ops.prep.receipts import DIRECTORY, Receipt, merged
from mxc_ops.prep.rules import rule
from mxc_ops.prep.shells import Change
from mxc_ops.prep.shells.sh import SHELL
from mxc_ops.prep.undoing import reversal, reverse_queries

__all__ = ["EARLIER", "IMAGES", "WHOLE_HOST", "Host", "host", "network", "store", "whole_host"]

_ITEM = "an.item"
IMAGES = "/srv/images"
# The bridge as versions before this one made it.
EARLIER = f"""
ip link add name {BRIDGE} type bridge
ip link set dev {BRIDGE} alias 'mxc-ops prep host'
echo 1 > /proc/sys/net/ipv6/conf/{BRIDGE}/disable_ipv6
ip address add {ADDRESS} dev {BRIDGE}
ip link set dev {BRIDGE} up
nft -f - <<'END'
table inet {TABLE} {{
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{BRIDGE}" accept
		oifname "{BRIDGE}" ct state established,related accept
		oifname "{BRIDGE}" drop
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.187.0.0/22 oifname != "{BRIDGE}" masquerade
	}}
}}
END
"""
_SET_UP = """
set -e
mount -t sysfs sysfs /sys
for place in /etc /usr/local /var/lib; do mount -t tmpfs tmpfs $place; done
ip link set lo up
"""
_STORE = """
set -e
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/upper /srv/work
mount -t overlay -o lowerdir=/var/lib,upperdir=/srv/upper,workdir=/srv/work overlay /var/lib
"""
# A network of its own, seen in /sys; control groups are mounted below /sys, and stay the host's.
WHOLE_HOST = """
set -e
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/cgroup
mount --rbind /sys/fs/cgroup /srv/cgroup
mount -t sysfs sysfs /sys
mount --rbind /srv/cgroup /sys/fs/cgroup
umount -R /srv/cgroup
for place in etc var; do
    mkdir -p /srv/$place/upper /srv/$place/work
    mount -t overlay -o lowerdir=/$place,upperdir=/srv/$place/upper,workdir=/srv/$place/work overlay /$place
done
# Overlays map no ids (mount_setattr(2)), so images must lie on something else.
mkdir -p /var/lib/mxc-ops
mount -t tmpfs -o mode=755 tmpfs /var/lib/mxc-ops
mkdir /var/lib/mxc-ops/images
: > /etc/subuid
: > /etc/subgid
# The overlays keep what they lie on. A checkout may be below /srv.
umount -l /srv
ip link set lo up
"""


class Host:
    """Shell commands, facts, decisions and changes in the namespaces of one process."""

    def __init__(self, process: int) -> None:
        self.process = process
        self._enter = ["nsenter", "-t", str(process), "-n", "-m"]

    def try_run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._enter, "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def run(self, command: str) -> str:
        """What a command prints; it must succeed."""
        done = self.try_run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def popen(self, command: str) -> subprocess.Popen[str]:
        argv = [*self._enter, "sh", "-c", command]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, queries: Sequence[Query]) -> list[Any]:
        """All in one command, as the engine asks."""
        facts = [(_fact(query.fact), query.arguments) for query in queries]
        commands = [fact.command(**arguments) for fact, arguments in facts]
        lines = self.run(SHELL.survey(commands, 30)).split("\n")
        parts = SHELL.answers(lines, len(facts))
        return [
            fact.process(part) if part else fact.default()
            for (fact, _), part in zip(facts, parts, strict=True)
        ]

    def decide(self, operation: str, arguments: Mapping[str, Any]) -> Decision:
        kind = rule(operation)
        return kind.decide(*self.ask(kind.queries(**arguments)), **arguments)

    def apply(self, operation: str, arguments: Mapping[str, Any], uploads: str = "") -> Decision:
        """Decide, and carry it out with a receipt; what must not be done is an error."""
        decision = self.decide(operation, arguments)
        assert not decision.refusal, decision.refusal
        receipt = Receipt(_ITEM, operation, arguments, decision.prior, decision.made)
        change = Change(merged(self.receipt(), receipt), decision.commands, uploads=uploads)
        self.run(SHELL.change(change))
        return decision

    def receipt(self) -> Receipt | None:
        done = self.try_run(f"cat {DIRECTORY}/{_ITEM}.json")
        return receipts.decode(done.stdout) if done.returncode == 0 else None

    def undo(self, *, insist: bool = False) -> Decision:
        """Take the recorded change back, unless that is refused."""
        receipt = self.receipt()
        assert receipt is not None
        decision = reversal(receipt, self.ask(reverse_queries(receipt)))
        if not decision.refusal or (insist and decision.commands):
            self.run(SHELL.reversal(Change(receipt, decision.commands)))
        return decision

    def leave_nothing_empty(self) -> None:
        """Tidy up as the end of a preparation does: no change removes what another one may enter."""
        state = DIRECTORY.rpartition("/")[0]
        self.run(f"rmdir {DIRECTORY} {state}/lock {state} 2>/dev/null || true")

    def state(self) -> str:
        """Everything that a change here could have touched, but for the records of it."""
        self.leave_nothing_empty()
        return self.run(
            "ip -o link; ip -o address; ip route show table all; nft list ruleset;"
            " find /etc /usr/local /var/lib -xdev -exec ls -ld --time-style=+ {} + -type f -exec cat {} +"
        )


def _fact(name: str) -> Any:
    area, _, kind = name.partition(".")
    return getattr(import_module(f"mxc_ops.prep.facts.{area}"), kind)()


@contextmanager
def host() -> Generator[Host]:
    """A host whose /etc, /usr/local and /var/lib are empty, with a network of its own."""
    with _holder(["--net", "--mount"], _SET_UP) as process:
        yield Host(process)


@contextmanager
def network() -> Generator[Host]:
    """A machine that has nothing of its own but a network."""
    with _holder(["--net", "--mount"], "set -e; mount -t sysfs sysfs /sys; ip link set lo up") as process:
        yield Host(process)


@contextmanager
def store() -> Generator[Host]:
    """This host, but what is written to `IMAGES` and /var/lib is gone afterwards."""
    with _holder(["--mount"], _STORE) as process:
        yield Host(process)


@contextmanager
def whole_host() -> Generator[Host]:
    """This host with a network of its own; what is written to /etc and /var is gone afterwards.

    Root has no subordinate ids, and nothing is recorded.
    """
    with _holder(["--net", "--mount"], WHOLE_HOST) as process:
        yield Host(process)


@contextmanager
def _holder(namespaces: Sequence[str], set_up: str) -> Generator[int]:
    holder = subprocess.Popen(
        ["unshare", *namespaces, "sh", "-c", f"{set_up}\necho ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        yield holder.pid
    finally:
        holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()
