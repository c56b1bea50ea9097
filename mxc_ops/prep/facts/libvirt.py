"""What the host's own libvirt says about its networks and storage pools."""

from __future__ import annotations

import json
from typing import Any

from pyinfra.api.facts import FactBase
from typing_extensions import override

from backends.vm.on_host import SYSTEM
from mxc_ops.prep.rules.libvirt import NETWORK, POOL, Object, look

# Both ask one after the other, and a survey that is killed has answered nothing. The first connection looks
# at every QEMU, for seconds.
_DEADLINE_S = 20


class _Look(FactBase[dict[str, Any]]):
    """``{"error"}``: libvirt cannot be asked; else ``{"defined": False}`` or a whole description.

    The latter has ``ours``, ``persistent``, ``active``, ``autostart`` (booleans), ``differs`` (from the XML,
    one line each), ``users``, and of these those that are ``running``.
    """

    @staticmethod
    @override
    def default() -> dict[str, Any]:
        return {"error": "no answer"}

    @override
    def process(self, output: list[str]) -> dict[str, Any]:
        return json.loads(output[-1])


def _within_the_deadline(kind: Object, name: str, xml: str, uri: str) -> str:
    failed = '{"error": "its own python3 ended with status %d"}\\n'
    return f"timeout {_DEADLINE_S} {look(kind, name, xml, uri)} || printf '{failed}' $?"


class Network(_Look):
    """A virtual network of libvirt's."""

    @override
    def command(self, network: str, xml: str, uri: str = SYSTEM) -> str:
        return _within_the_deadline(NETWORK, network, xml, uri)


class Pool(_Look):
    """A storage pool of libvirt's."""

    @override
    def command(self, pool: str, xml: str, uri: str = SYSTEM) -> str:
        return _within_the_deadline(POOL, pool, xml, uri)
