"""Gaining capabilities, namespaces or another identity (spec: backends.md §1.6; upstream-gaps.md P3, P5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.security.callers import Caller
from tests.security.host import wait_for_process
from tests.security.upstream import ALL_CAPABILITIES

CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def test_all_five_capability_sets_are_empty(caller: Caller) -> None:
    attack = "cat /proc/self/status"
    theirs = _status(caller.upstream(attack).stdout if caller.uid == 0 else _with_all(caller, attack))
    assert int(theirs["CapEff"], 16) and int(theirs["CapBnd"], 16)
    ours = _status(caller.run(attack).stdout)
    assert {name: int(ours[name], 16) for name in CAPABILITY_SETS} == dict.fromkeys(CAPABILITY_SETS, 0)
    assert ours["NoNewPrivs"] == "1"


def _with_all(caller: Caller, attack: str) -> str:
    return caller.bare(attack, *ALL_CAPABILITIES).stdout


def _status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_process_1_has_no_capability_either(caller: Caller) -> None:
    ours = _status(caller.run("cat /proc/1/status").stdout)
    assert {name: int(ours[name], 16) for name in CAPABILITY_SETS} == dict.fromkeys(CAPABILITY_SETS, 0)


def test_raising_capabilities(caller: Caller, probe: Path) -> None:
    attack = [probe, "capset", "ambient", "setuid-root", "chroot"]
    with_all = caller.bare(attack, *ALL_CAPABILITIES).results
    assert with_all["capset"] == with_all["setuid-root"] == "ok"
    told = caller.run(attack, read_only=[probe.parent])
    assert "ok" not in told.results.values(), told
    assert len(told.results) == 4


@pytest.mark.parametrize("way", ["unshare-user", "clone-user", "clone3-user"])
def test_making_a_user_namespace(caller: Caller, probe: Path, way: str) -> None:
    policy: dict[str, Any] = {"read_only": [probe.parent]}
    assert caller.upstream([probe, way], **policy).results[way] == "ok"
    assert caller.run([probe, way], **policy).results[way] in ("EPERM", "ENOSYS", "ENOSPC")


def test_becoming_root_in_a_namespace_with_the_systems_tools(caller: Caller) -> None:
    attack = "unshare --user --map-root-user sh -c 'id -u; grep CapEff /proc/self/status'"
    assert caller.upstream(attack).stdout.startswith("0\n")
    told = caller.run(attack)
    assert told.stdout == "" and told.stderr


def test_clone3_answers_that_there_is_no_such_call(caller: Caller, probe: Path) -> None:
    """Its flags are behind a pointer, out of a filter's sight; ENOSYS makes C libraries use clone instead."""
    assert caller.upstream([probe, "clone3"], read_only=[probe.parent]).results["clone3"] == "ok"
    assert caller.run([probe, "clone3"], read_only=[probe.parent]).results["clone3"] == "ENOSYS"


@pytest.mark.parametrize("kind", ["net", "ipc", "uts", "mnt", "pid", "cgroup"])
def test_entering_a_namespace(caller: Caller, probe: Path, kind: str) -> None:
    attack = [probe, f"setns=/proc/self/ns/{kind}"]
    own = ("--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-pid", "--unshare-cgroup-try")
    assert caller.bare(attack, *ALL_CAPABILITIES, *own, "--proc", "/proc").results["setns"] == "ok"
    told = caller.run(attack, read_only=[probe.parent])
    assert told.results["setns"] in ("EPERM", "ENOSYS")


def test_all_namespaces_are_its_own(caller: Caller) -> None:
    kinds = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")
    listing = "for kind in " + " ".join(kinds) + "; do readlink /proc/self/ns/$kind; done"
    host = caller.program(["sh", "-c", listing]).stdout.splitlines()
    assert len(host) == len(kinds)
    theirs = caller.upstream(listing).stdout.splitlines()
    assert theirs[-1] == host[-1], "upstream shares the cgroup namespace"
    ours = caller.run(listing).stdout.splitlines()
    assert len(ours) == len(kinds)
    assert not set(ours) & set(host)


def test_the_host_knows_it_by_a_uid_without_rights(caller: Caller) -> None:
    """Outside, too, the workload is nobody with rights: never root, also when root starts it."""
    if caller.uid == 0:
        assert "0 0" in caller.upstream("cat /proc/self/uid_map | tr -s ' '").stdout, (
            "upstream's is root's own"
        )
    nap = "31.0625"
    running = caller.begin(["sleep", nap], timeout_s=1)
    found = wait_for_process(nap)
    assert running.told().outcome == "timed out"
    assert found.groups == ()
    if caller.uid == 0:
        assert found.uid == found.gid >= 1_000_000_000
    else:
        assert (found.uid, found.gid) == (caller.uid, caller.gid)


def test_files_only_root_may_read_stay_closed(caller: Caller) -> None:
    """Even granted: the grant of a root caller shows what its owner may read, but nothing else of root's."""
    attack = "cat /etc/shadow; head -c 64 /proc/kcore; cat /proc/1/environ; dmesg | head -1"
    if caller.uid == 0:
        assert "root:" in caller.upstream(attack).stdout
    told = caller.run(attack)
    assert told.stdout == ""
