"""How probes add up, and how refused user namespaces are explained."""

from __future__ import annotations

import pytest

from backends.bubblewrap.probe import explain_refusal
from backends.errors import UnsupportedContainment
from backends.needs import Health, Probe
from mxc_ops.doctor import Report, examine

OPEN = {"kernel.unprivileged_userns_clone": "1", "user.max_user_namespaces": "9999"}


@pytest.mark.parametrize(
    ("healths", "code"),
    [
        ([], 0),
        ([Health.OK], 0),
        ([Health.OK, Health.WARNING], 2),
        ([Health.WARNING, Health.FAILED, Health.OK], 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst_probe(healths: list[Health], code: int) -> None:
    assert Report(tuple(Probe("x", health, "seen") for health in healths)).exit_code == code


@pytest.mark.parametrize(
    ("switches", "cause"),
    [
        ({**OPEN, "kernel.unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone is 0"),
        ({**OPEN, "user.max_user_namespaces": "0"}, "user.max_user_namespaces is 0"),
        ({**OPEN, "kernel.apparmor_restrict_unprivileged_userns": "1"}, "AppArmor restricts"),
    ],
)
def test_a_switch_that_forbids_namespaces_is_named_with_its_fix(switches: dict[str, str], cause: str) -> None:
    seen, fix, privilege = explain_refusal(switches, in_chroot=False)
    assert seen.startswith(cause)
    assert (fix, privilege) == ("mxc-ops prep host --backend bubblewrap --yes", "root")


def test_a_chroot_and_an_outer_container_are_told_apart() -> None:
    assert "chroot" in explain_refusal(OPEN, in_chroot=True)[0]
    assert "--security-opt" in explain_refusal(OPEN, in_chroot=False)[1]


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedContainment, match="'nothing' cannot be examined"):
        examine(["nothing"])
