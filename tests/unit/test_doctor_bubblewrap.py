"""Refused namespaces explained, limits that must bite, features that a host may lack."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.bubblewrap import feature_probes, probe
from backends.bubblewrap.needs import APPARMOR_PROFILE
from backends.errors import BackendUnavailable
from backends.inside.store import Program
from backends.launched import agent_program
from backends.linux import landlock
from backends.linux.cgroups import NO_CGROUPS, observe_cgroups
from backends.linux.limit_probe import BITTEN, exceed_memory, exceed_pids, has_bitten
from backends.linux.trial import Outcome, attempt
from backends.needs import Health
from tests.conftest import User

OPEN = {"kernel.unprivileged_userns_clone": "1", "user.max_user_namespaces": "9999"}
RESTRICTED = {**OPEN, "kernel.apparmor_restrict_unprivileged_userns": "1"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: for a namespace of mounts")


# --- AppArmor


@pytest.mark.parametrize(
    ("switches", "profile", "expected"),
    [
        (RESTRICTED, "loaded", True),
        (RESTRICTED, "not loaded", False),
        (RESTRICTED, "absent", False),
        (OPEN, "loaded", False),
        ({**RESTRICTED, "user.max_user_namespaces": "0"}, "loaded", False),
        ({**RESTRICTED, "kernel.unprivileged_userns_clone": "0"}, "loaded", False),
    ],
)
def test_bwrap_may_be_refused_when_apparmor_permits_it_to_our_launcher(
    switches: dict[str, str], profile: str, expected: bool
) -> None:
    assert probe.is_for_launcher_only(switches, profile) is expected


def test_a_profile_that_is_not_loaded_is_named_with_the_command_that_loads_it() -> None:
    cause, fix, privilege = probe.explain_refusal(RESTRICTED, in_chroot=False, profile="not loaded")
    assert cause == f"{APPARMOR_PROFILE} is not loaded"
    assert (fix, privilege) == (f"apparmor_parser -r {APPARMOR_PROFILE}", "root")


REFUSING = """
import backends.bubblewrap.probe as bubblewrap
bubblewrap.APPARMOR_PROFILE = "{profile}"
bubblewrap._read_switches = lambda: {switches!r}
for found in bubblewrap.probe():
    print(found.identifier, found.health.value, found.seen)
"""


@pytest.mark.backend("bubblewrap")
@pytest.mark.parametrize(("has_profile", "health"), [(True, "ok"), (False, "failed")])
def test_namespaces_refused_to_bwrap_are_no_fault_where_our_profile_is_in_place(
    as_user: User, tmp_path: Path, has_profile: bool, health: str
) -> None:
    """The refusal is real, by another switch; that AppArmor is its cause is told to the probe."""
    profile = as_user.home.parent / "profile"
    if has_profile:
        profile.touch()
    source = REFUSING.format(profile=profile, switches=RESTRICTED)
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    done = as_user(["unshare", "--user", "--map-root-user", "sh", "-c", forbid, as_user.python, source])
    profile.unlink(missing_ok=True)
    assert f"bubblewrap.namespaces.caller {health}" in done.stdout, done.stdout + done.stderr


# --- limits


def test_what_takes_too_much_is_stopped_by_whatever_holds_limits_here() -> None:
    groups = observe_cgroups()
    assert has_bitten(exceed_memory(groups))
    assert has_bitten(exceed_memory(NO_CGROUPS))
    if "pids" in groups.parents or os.geteuid() != 0:
        assert has_bitten(exceed_pids(groups))


@needs_root
def test_a_limit_that_does_not_bite_is_noticed() -> None:
    """RLIMIT_NPROC is not for root, so nothing refuses it anything."""
    outcome = exceed_pids(NO_CGROUPS)
    assert (outcome.status, has_bitten(outcome)) == (0, False)


def test_no_control_group_is_left_after_the_attempts() -> None:
    groups = observe_cgroups()
    exceed_memory(groups)
    exceed_pids(groups)
    left = [
        place
        for parent in groups.parents.values()
        for place in Path(parent).glob(f"mxc-ops-{os.getpid()}-*")
        if not (place / "cgroup.procs").read_text()
    ]
    assert left == []


@pytest.mark.parametrize(
    ("status", "bitten"), [(BITTEN, True), (-9, True), (0, False), (1, False), (None, False)]
)
def test_only_a_refusal_or_the_kernels_kill_counts(status: int | None, bitten: bool) -> None:
    assert has_bitten(Outcome(status, "")) is bitten


# --- features


@pytest.mark.parametrize(
    ("features", "health"), [(("network",), Health.WARNING), (("landlock",), Health.FAILED)]
)
def test_a_kernel_without_landlock_fails_only_who_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, features: Sequence[str], health: Health
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    (found,) = [one for one in probe.probe(features) if one.identifier == "bubblewrap.landlock"]
    assert found.health is health


def test_users_ids_need_the_programs_that_map_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = feature_probes.rootless()
    assert (found.health, found.seen) == (Health.FAILED, "no newuidmap and no newgidmap")
    assert found.fix == "mxc-ops prep host --backend bubblewrap --feature rootless --yes"


@pytest.mark.parametrize("backend", ["bubblewrap", "lxc"])
@pytest.mark.parametrize(
    ("features", "health", "seen"),
    [
        ((), Health.OK, "not prepared for: no agent that is built from these sources"),
        (("network",), Health.OK, "not prepared for: no agent that is built from these sources"),
        (("sessions",), Health.FAILED, "no agent that is built from these sources"),
    ],
)
def test_a_host_without_the_agent_fails_only_who_asked_for_sessions(
    backend: str, features: Sequence[str], health: Health, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(_program: Program) -> None:
        return None

    monkeypatch.setattr(agent_program, "find_program", find)
    found = agent_program.probe_agent(backend, features)
    assert (found.identifier, found.health, found.seen) == (f"{backend}.sessions", health, seen)
    assert found.fix == f"mxc-ops prep host --backend {backend} --feature sessions --yes"
    with pytest.raises(BackendUnavailable) as refused:
        agent_program.require_agent(backend)
    assert (refused.value.problems[0].code, refused.value.fix) == ("agent_missing", found.fix)


def test_a_host_that_is_to_compile_the_launcher_needs_a_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = [one for one in probe.probe(["compiler"]) if one.identifier == "bubblewrap.compiler"]
    assert (found.health, found.seen) == (Health.FAILED, "no C compiler was found")


# --- attempts


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_an_attempt_ends_with_all_its_processes_when_its_time_is_over(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    source = f"sleep 600 & echo $! > {noted}; wait"
    outcome = attempt(["/bin/sh", "-c", source], deadline_s=1)
    assert (outcome.status, outcome.why) == (None, "it did not end in time")
    stat = Path(f"/proc/{noted.read_text().strip()}/stat")
    deadline = time.monotonic() + 10
    while (text := read(stat)) and text.rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_attempt_hands_over_its_input_and_nothing_of_our_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    outcome = attempt(["/bin/sh", "-c", 'cat; echo "[$A_SECRET]"; exit 3'], deadline_s=10, stdin="given\n")
    assert (outcome.status, outcome.text) == (3, "given\n[]\n")


def test_a_program_that_cannot_be_started_is_told() -> None:
    outcome = attempt(["/no/such/program"], deadline_s=1)
    assert outcome.status == 127
    assert "No such file" in outcome.why
