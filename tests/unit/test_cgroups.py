"""Where control groups may be made, read from made-up /proc files and directories: v1 and v2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.linux.cgroups import NO_CGROUPS, SandboxCgroup, limit_settings, observe_cgroups, sweep_groups

NAMESPACE = Path("/proc/self/ns/pid").stat().st_ino


def _proc(folder: Path, membership: str, mounts: str) -> str:
    folder.mkdir()
    (folder / "cgroup").write_text(membership)
    (folder / "mountinfo").write_text(mounts)
    return str(folder)


def test_v2_uses_the_nearest_ancestor_that_hands_controllers_down(tmp_path: Path) -> None:
    tree = tmp_path / "cg"
    own = tree / "user.slice" / "app.slice" / "shell.scope"
    own.mkdir(parents=True)
    for directory, controllers in ((own, ""), (own.parent, "memory pids"), (tree, "memory pids cpu")):
        (directory / "cgroup.subtree_control").write_text(controllers)
        (directory / "cgroup.procs").write_text("")
    proc = _proc(
        tmp_path / "proc",
        "0::/user.slice/app.slice/shell.scope\n",
        f"30 1 0:26 / {tree} rw - cgroup2 cgroup2 rw\n",
    )
    facts = observe_cgroups(proc)
    assert (facts.version, facts.parents) == ("v2", dict.fromkeys(("memory", "pids"), str(own.parent)))


def test_v1_stays_below_our_own_group(tmp_path: Path) -> None:
    own = tmp_path / "memory" / "ours"
    own.mkdir(parents=True)
    proc = _proc(
        tmp_path / "proc", "4:memory:/ours\n", f"30 1 0:26 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
    )
    facts = observe_cgroups(proc)
    assert (facts.version, facts.parents) == ("v1", {"memory": str(own)})


def test_without_any_hierarchy_there_are_no_groups(tmp_path: Path) -> None:
    assert observe_cgroups(_proc(tmp_path / "proc", "0::/\n", "")) == NO_CGROUPS


def test_what_a_dead_owner_left_behind_goes_at_the_next_start() -> None:
    facts = observe_cgroups()
    if "pids" not in facts.parents:
        pytest.skip("this caller may make no control groups")
    stale = Path(facts.parents["pids"]) / f"mxc-ops-{NAMESPACE}-4194999-1-0"
    stale.mkdir()
    program = (
        "from backends.linux.cgroups import SandboxCgroup, observe_cgroups, limit_settings as s\n"
        "facts = observe_cgroups()\n"
        "SandboxCgroup(facts, s(facts.version, None, 9, None)).remove()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    assert not stale.exists()


def test_it_is_found_wherever_it_is_and_what_others_have_stays() -> None:
    facts = observe_cgroups()
    if "pids" not in facts.parents:
        pytest.skip("this caller may make no control groups")
    below = Path(facts.parents["pids"]) / f"mxc-ops-test-{os.getpid()}"
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    names = {
        "dead": f"mxc-ops-{NAMESPACE}-4194999-1-0",
        "alive": f"mxc-ops-{NAMESPACE}-{os.getpid()}-{started}-9",
        "of another pid namespace": "mxc-ops-1-4194999-1-0",
        "not ours": "mxc-ops-",
    }
    for name in names.values():
        (below / "deep" / name).mkdir(parents=True)
    try:
        assert str(below / "deep" / names.pop("dead")) in sweep_groups()
        assert {path.name for path in (below / "deep").iterdir() if path.is_dir()} == set(names.values())
    finally:
        for name in names.values():
            (below / "deep" / name).rmdir()
        (below / "deep").rmdir()
        below.rmdir()


def test_a_group_with_a_dying_process_in_it_goes_at_the_next_chance() -> None:
    facts = observe_cgroups()
    if "pids" not in facts.parents:
        pytest.skip("this caller may make no control groups")
    settings = limit_settings(facts.version, None, 9, None)
    before = set(Path(facts.parents["pids"]).iterdir())
    group = SandboxCgroup(facts, settings)
    (folder,) = set(Path(facts.parents["pids"]).glob(f"mxc-ops-{NAMESPACE}-{os.getpid()}-*")) - before
    with subprocess.Popen(["sleep", "60"]) as dying:
        (folder / "cgroup.procs").write_text(str(dying.pid))
        group.remove()
        assert folder.exists()
        dying.kill()
    SandboxCgroup(facts, settings).remove()
    assert not folder.exists()
