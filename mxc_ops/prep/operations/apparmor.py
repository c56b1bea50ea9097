"""AppArmor."""

from __future__ import annotations

from mxc_ops.prep.decisions import APPARMOR_FILES, apparmor_profile
from mxc_ops.prep.facts.files import Texts
from mxc_ops.prep.operations.common import Commands, carry_out, operation, read


@operation
def profile(switch: str, path: str, program: str) -> Commands:
    """Have a profile that lets one program make user namespaces, where a switch restricts them."""
    proc = "/proc/sys/" + switch.replace(".", "/")
    seen = read(Texts, paths=[proc, path, *APPARMOR_FILES])
    yield from carry_out(apparmor_profile(seen, switch, path, program))
