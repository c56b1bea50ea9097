"""Sandboxes of one backend, whose participants are killed at any moment; run by test_session_crash.

``python -m tests.e2e.session_rounds BACKEND ROUNDS SEED FOLDER``: prints how often what was seen, and the
names of the folders that its sandboxes had, as JSON. It is run in control groups of its own, so that whatever
lives at the end is known to be of ours.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from backends.errors import LaunchFailed, LifecycleError, MxcError
from mxc_ops import Policy
from mxc_ops.session.entry import Entry
from mxc_ops.session.service import Sessions
from mxc_ops.session.session import Session
from mxc_ops.session.states import Shown

PHASES = (
    *(
        "provision",
        "start",
        "exec",
        "detach",
        "put",
        "get",
        "fork",
        "snapshot",
        "suspend",
        "stop",
        "deprovision",
    ),
)
VICTIMS = ("caller", "supervisor", "sandbox", "inside", "nursery", "everybody")
LONGEST_S = {"start": 0.6, "fork": 1.0, "snapshot": 0.5}
CALL = """
import sys
from mxc_ops import MxcError, Policy
from mxc_ops.session.session import Session
from mxc_ops.session.service import Sessions
phase, one, folder, backend, mark = sys.argv[1:]
print("ready", flush=True)
try:
    if phase == "fork":
        Sessions().fork(one, 1)
    elif phase == "start":
        Sessions().start(one)
    elif phase == "provision":
        Sessions().provision(Policy(containment=backend, env={"MARK": mark}))
    else:
        session = Session.attach(one)
        if phase == "exec":
            session.exec("sleep 0.1; echo done > /tmp/done")
        elif phase == "detach":
            session.detach(["/bin/sleep", "300"])
        elif phase == "put":
            session.put(folder, "/tmp/there")
        elif phase == "get":
            session.get("/etc/passwd", f"{folder}/got")
        elif phase == "snapshot":
            session.snapshot()
        elif phase == "suspend":
            session.suspend(); session.resume()
        elif phase == "stop":
            session.stop()
        else:
            session.close()
    print("done")
except MxcError as error:
    print(error.code, error.problems[0].code)
"""
CODES = {
    *("done", "killed", "not_started not_started", "not_started suspended", "stale_id stale_id"),
    *("backend_error sandbox_ended", "backend_error supervisor_lost", "backend_error command_not_started"),
    *("backend_error order_failed", "already_started already_started", "already_stopped already_stopped"),
    *("backend_error launch_failed", "backend_error qemu_ended", "backend_error agent_silent"),
    *("backend_error setup_lxc", "backend_error guest_failed"),
    *("backend_error setup_bubblewrap", "backend_error copy_failed", "backend_error guest_silent"),
}


def main(backend: str, rounds: int, seed: str, folder: Path) -> None:
    chance = random.Random(seed)
    service = Sessions()
    mark = f"rounds-{os.getpid()}"
    policy = Policy(containment=backend, env={"MARK": mark})
    neighbour = Session.open(policy)
    ticking = neighbour.detach(["/bin/sh", "-c", "while :; do date +%N > /tmp/tick; sleep 0.05; done"])["job"]
    seen: Counter[str] = Counter()
    tails: set[str] = set()
    one = service.start(service.provision(policy).id).id
    for number in range(rounds):
        phase, victim = chance.choice(PHASES), chance.choice(VICTIMS)
        seen[_round(service, one, phase, victim, chance, (str(folder), backend, mark))] += 1
        tails |= {entry.record.tail for entry in _entries(service, mark)}
        _end_others(service, mark, {one, neighbour.id})
        one = _usable(service, one, policy, forced=number % 4 == 3)
        if neighbour.job(ticking)["status"] is not None or neighbour.exec("cat /tmp/tick").exit_code:
            raise RuntimeError(f"round {number}: the neighbour was touched")
    neighbour.close()
    for entry in _entries(service, mark):
        service.deprovision(entry.id, discard=True)
    service.gc()
    print(json.dumps({"seen": seen, "tails": sorted(tails)}))


def _entries(service: Sessions, mark: str) -> list[Entry]:
    """Ours, among those of others on this host."""
    entries = (entry for entry in service.entries() if isinstance(entry, Entry))
    return [entry for entry in entries if mark in json.dumps(dict(entry.record.document))]


def _end_others(service: Sessions, mark: str, but: set[str]) -> None:
    """What was provisioned or copied runs commands, or does not run; what was kept can be removed."""
    for one in but:
        with suppress(LifecycleError):
            for kept in Session.attach(one).snapshots():
                Session.attach(one).remove_snapshot(kept.name)
    for entry in _entries(service, mark):
        if entry.id in but:
            continue
        if entry.shown is Shown.RUNNING:
            with suppress(LifecycleError, LaunchFailed):  # it is just ending
                if Session.attach(entry.id).exec("true").exit_code:
                    raise RuntimeError(f"{entry.id} runs nothing")
        service.deprovision(entry.id, discard=True)


def _round(
    service: Sessions, one: str, phase: str, victim: str, chance: random.Random, words: tuple[str, ...]
) -> str:
    """What the caller answered."""
    if phase == "start" and service.store.open(one).shown is Shown.RUNNING:
        service.stop(one)
    Path(words[0], "got").unlink(missing_ok=True)
    caller = subprocess.Popen(
        [sys.executable, "-c", CALL, phase, one, *words], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    caller.stdout.readline()
    # Most phases take some milliseconds, some a hundred times as long.
    time.sleep(LONGEST_S.get(phase, 0.2) * 100 ** -chance.random())
    for pid in _victims(service, one, victim, caller.pid, chance):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said, _ = caller.communicate(timeout=90)
    answer = said.strip() or "killed"
    if answer not in CODES:
        raise RuntimeError(f"{phase}, {victim} killed: the caller answered {answer!r}")
    return f"{phase}: {answer}"


def _victims(service: Sessions, one: str, victim: str, caller: int, chance: random.Random) -> list[int]:
    try:
        holder = service.store.open(one).supervisor()
    except MxcError:
        holder = None
    below = list(_below(holder[0])) if holder else []
    choices = {
        "caller": [caller],
        "supervisor": [holder[0]] if holder else [],
        "sandbox": below[:1],
        "inside": [chance.choice(below)] if below else [],
        "nursery": list(_below(caller))[:1],
        "everybody": [caller, *([holder[0]] if holder else []), *below],
    }
    return choices[victim]


def _below(pid: int) -> Iterator[int]:
    """All that descend from a process, those that were started first at the front."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                yield child
                yield from _below(child)


def _usable(service: Sessions, one: str, policy: Policy, *, forced: bool) -> str:
    """It runs commands, or says that it is gone; then it is brought back. The sandbox of the next round."""
    if forced:
        service.gc()
    for _ in range(3):
        try:
            session = Session.attach(one)
            if service.store.open(one).shown is Shown.PROVISIONED:
                session.start()
            session.resume()
            if session.exec("true").exit_code == 0:
                return one
            raise RuntimeError(f"{one} runs nothing")
        except LifecycleError as error:
            if error.code == "stale_id" and not _is_kept(service, one):
                one = service.start(service.provision(policy).id).id
            elif error.code in ("stale_id", "not_started"):
                _again(service, one)
            else:
                raise
        except LaunchFailed:
            time.sleep(0.2)  # it is just ending
    raise RuntimeError(f"{one} is neither usable nor stale: {service.inspect(one)}")


def _is_kept(service: Sessions, one: str) -> bool:
    try:
        return service.store.open(one).id == one
    except LifecycleError:
        return False


def _again(service: Sessions, one: str) -> None:
    with suppress(LifecycleError):
        service.stop(one)
    service.start(one)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
