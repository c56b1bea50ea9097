"""The containments that one suite of tests runs on, and everything in which they may differ.

A test of the suite takes the fixture `contained` and expects the same of each. Where a containment is meant
to be different, the difference has a name here, and the test asks for it by that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mxc_ops import Policy

__all__ = ["BUBBLEWRAP", "COMMON", "LXC", "VM", "Containment"]


@dataclass(frozen=True, kw_only=True)
class Containment:
    """One column of the table of differences.

    Parameters
    ----------
    copies_files: read-write grants are copies, brought back after a normal exit. What a run wrote that timed
        out or was killed never reaches the host, and what host and sandbox both changed is a conflict.
        Without copies, everything is there at once.
    denied_are_there: a denied path has an empty object in its place; else it has none at all.
    takes_pipes: a named pipe or a socket may be granted; else it is refused.
    own_system: /usr and /etc are of an image, not the host's, and no grant may cover them.
    hands_descriptors_through: a descriptor of the caller is the workload's own; else its bytes are carried.
    one_order_on_one_descriptor: two streams that go to one descriptor stay in the order they were written.
    timed: the steps on the way are told in `Result.timings`.
    where: what the mechanisms of limits are followed by.
    """

    name: str
    copies_files: bool
    denied_are_there: bool
    takes_pipes: bool
    own_system: bool
    hands_descriptors_through: bool
    one_order_on_one_descriptor: bool
    timed: bool
    where: str

    def policy(self, **fields: Any) -> Policy:
        """A policy for this containment."""
        return Policy(containment=self.name, **fields)

    def document(self, command: str, **fields: Any) -> dict[str, Any]:
        """A config for this containment whose command is a line for the shell."""
        process = {"commandLine": command} | fields.pop("process", {})
        return {"version": "1.1.0-alpha", "containment": self.name, "process": process} | fields


BUBBLEWRAP = Containment(
    name="bubblewrap",
    copies_files=False,
    denied_are_there=True,
    takes_pipes=True,
    own_system=False,
    hands_descriptors_through=True,
    one_order_on_one_descriptor=True,
    timed=False,
    where="",
)
VM = Containment(
    name="vm",
    copies_files=True,
    denied_are_there=False,
    takes_pipes=False,
    own_system=True,
    hands_descriptors_through=False,
    one_order_on_one_descriptor=False,
    timed=True,
    where=", in the guest",
)
LXC = Containment(
    name="lxc",
    copies_files=False,
    denied_are_there=True,
    takes_pipes=True,
    own_system=True,
    hands_descriptors_through=True,
    one_order_on_one_descriptor=True,
    timed=False,
    where="",
)
COMMON = [
    pytest.param(BUBBLEWRAP, id="bubblewrap", marks=pytest.mark.backend("bubblewrap")),
    pytest.param(LXC, id="lxc", marks=pytest.mark.backend("lxc")),
    pytest.param(VM, id="vm", marks=pytest.mark.backend("vm")),
]
