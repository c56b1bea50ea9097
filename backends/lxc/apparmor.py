"""AppArmor's profile for containers: whether the kernel wants one, and whether it is there."""

from __future__ import annotations

__all__ = ["FIX", "PROFILE", "is_loaded", "is_on", "loaded_profiles", "profile_for", "switch"]

PROFILE = "lxc-container-default-cgns"
"""LXC's own, for containers with a control group namespace (lxc.container.conf(5))."""

# The files below lxc/ are parts of this one, and cannot be loaded by themselves.
FIX = "apparmor_parser -r /etc/apparmor.d/lxc-containers"

_SWITCH = "/sys/module/apparmor/parameters/enabled"
_PROFILES = "/sys/kernel/security/apparmor/profiles"


def is_on(switch: str) -> bool:
    """By the kernel module's parameter: ``Y`` or ``N``; "" for a kernel without AppArmor. Pure."""
    return switch.strip() == "Y"


def is_loaded(profiles: str) -> bool:
    """By what is loaded, one ``NAME (MODE)`` a line. Pure."""
    return any(line.partition(" ")[0] == PROFILE for line in profiles.splitlines())


def profile_for(switch: str, profiles: str | None) -> str:
    """What a container gets; "" for none. Parameters as above, None for what cannot be read. Pure."""
    return PROFILE if is_on(switch) and is_loaded(profiles or "") else ""


def switch() -> str:
    """See `is_on`."""
    return _read(_SWITCH) or ""


def loaded_profiles() -> str | None:
    """See `is_loaded`; None for who may not read it."""
    return _read(_PROFILES)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None
