"""Groups that open something to their members, and how the caller becomes one."""

from __future__ import annotations

import os
from shlex import quote

__all__ = ["joining", "login"]

_PATH_OF_ROOT = "/usr/sbin:/sbin"


def joining(group: str) -> str:
    """The command, for root, that makes the caller a member from the next log-in on; "" for root itself."""
    import shutil

    if os.getuid() == 0:
        return ""
    path = f"{os.environ.get('PATH', os.defpath)}:{_PATH_OF_ROOT}"
    if shutil.which("usermod", path=path):
        return f"usermod -aG {quote(group)} {quote(login())}"
    return f"addgroup {quote(login())} {quote(group)}"  # BusyBox has no usermod


def login() -> str:
    """The caller's name, or uid where it has none."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
