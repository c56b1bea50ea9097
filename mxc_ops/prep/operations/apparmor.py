"""AppArmor."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def profile(switch: str, path: str, program: str, item: str = "") -> Commands:
    """Have a profile that lets one program make user namespaces, where a switch restricts them."""
    yield from follow("apparmor.profile", item, switch=switch, path=path, program=program)
