"""What AppArmor has loaded tells whether containers start under LXC's own profile."""

from __future__ import annotations

import pytest

from backends.lxc.apparmor import PROFILE, profile_for
from backends.lxc.probe import apparmor
from backends.needs import Health

OTHERS = "man_filter (enforce)\n/usr/sbin/libvirtd (enforce)\n"
STARTER = "/usr/bin/lxc-start (enforce)\n"  # what confines lxc-start itself is none of a container's
LXC = "lxc-container-default-cgns (enforce)\nlxc-container-default (enforce)\n"


OLDER = "lxc-container-default (enforce)\nlxc-container-default-cgns-not (enforce)\n"


@pytest.mark.parametrize("profiles", ["", OTHERS, OTHERS + STARTER, OLDER])
def test_a_warning_says_what_loads_the_profiles_that_are_missing(profiles: str) -> None:
    (found,) = apparmor("lxc.apparmor", "Y\n", profiles)
    assert (found.identifier, found.health, found.privilege) == ("lxc.apparmor", Health.WARNING, "root")
    assert found.fix == "apparmor_parser -r /etc/apparmor.d/lxc-containers"
    assert found.why


@pytest.mark.parametrize(
    ("enabled", "profiles"),
    [
        ("Y\n", OTHERS + LXC),
        ("Y\n", None),  # not root
        ("N\n", OTHERS),
        ("0", None),  # a kernel without AppArmor
    ],
)
def test_nothing_is_said_where_all_is_well_or_cannot_be_told(enabled: str, profiles: str | None) -> None:
    assert apparmor("lxc.apparmor", enabled, profiles) == []


@pytest.mark.parametrize(
    ("enabled", "profiles", "profile"),
    [
        ("Y\n", OTHERS + LXC, PROFILE),
        ("Y\n", OTHERS + OLDER, ""),
        ("Y\n", None, ""),
        ("N\n", LXC, ""),
        ("", None, ""),  # a kernel without AppArmor
    ],
)
def test_a_container_gets_the_profile_that_is_loaded_where_the_kernel_takes_one(
    enabled: str, profiles: str | None, profile: str
) -> None:
    assert profile_for(enabled, profiles) == profile
