"""Processes that use one store of sandboxes at once, and are killed; run by test_session_store_crash.

Forked from one that has everything imported, so that a round costs no start of an interpreter. A lifecycle is
played with the least that holds its rules: the sandbox is a process that does nothing but hold its lock.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from backends.errors import LifecycleError, MxcError
from backends.frozen import replace
from mxc_ops.session.entry import Entry, process_start
from mxc_ops.session.record import State
from mxc_ops.session.states import Shown
from mxc_ops.session.store import Store
from mxc_ops.session.sweep import Swept, sweep
from mxc_ops.session.transition import Transition
from tests.unit.session_stores import record, store_below

ACTORS = 16
_NAMES = ("web", "db", "build", "")
_LONGEST_S = 0.4
FILES = {"alive", "journal", "lock", "record.json"}


# --- a lifecycle ------------------------------------------------------------------------------------


def start(entry: Entry) -> None:
    with Transition(entry, "start") as moving:
        moving.admit()
        moving.make_run_folder()
        moving.save(replace(moving.record, state=State.STARTING, starts=moving.record.starts + 1))
        pid = _supervisor(entry, moving.record.starts)
        known = {"supervisor_pid": pid, "supervisor_start": process_start(pid)}
        moving.save(replace(moving.record, state=State.RUNNING, **known))


def use(entry: Entry) -> None:
    with Transition(entry, "exec") as moving:
        moving.admit()
    entry.touch()


def stop(entry: Entry) -> None:
    with Transition(entry, "stop") as moving:
        moving.admit()
        _stop(entry, moving)


def deprovision(entry: Entry) -> None:
    with Transition(entry, "deprovision") as moving:
        if moving.shown is not Shown.PROVISIONED:
            _stop(entry, moving)
        moving.remove()


def _stop(entry: Entry, moving: Transition) -> None:
    moving.save(replace(moving.record, state=State.STOPPING))
    end_supervisor(entry)
    moving.remove_run_folder()
    moving.save(replace(moving.record, state=State.PROVISIONED, supervisor_pid=0, supervisor_start=0))


def _supervisor(entry: Entry, starts: int) -> int:
    """What a spawned one is: without any descriptor of its parent's. It is alive before this returns."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os.dup2(told, 3)
            os.closerange(4, 256)
            entry.hold_alive(starts)  # raises when it comes too late: then there is nothing to supervise
            with suppress(BrokenPipeError):
                os.write(3, b"\n")
            os.close(3)
            while os.getppid() != 1:  # the driver adopts it; whose driver is gone, goes
                time.sleep(1)
        os._exit(0)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid


def end_supervisor(entry: Entry) -> None:
    """Also of one whose starter was killed before it could write who that is."""
    if (known := entry.supervisor()) is not None:
        with suppress(ProcessLookupError):
            os.kill(known[0], signal.SIGKILL)


# --- the races --------------------------------------------------------------------------------------


def act(store: Store, dice: random.Random) -> None:
    choice = dice.random()
    if choice < 0.2:
        store.create(record(dice.choice(_NAMES), containment=dice.choice(["bubblewrap", "lxc", "vm"])))
    elif choice < 0.3:
        store.entries()
    elif choice < 0.35:
        sweep(store.home, force=True)
    else:
        found = [one for one in store.entries() if isinstance(one, Entry)]
        text = dice.choice([*_NAMES[:-1], *(one.id[: dice.randint(7, 40)] for one in found)])
        dice.choice([start, use, use, stop, deprovision])(store.open(text))


def actor(folder: str, seed: int, until: float) -> NoReturn:
    """Act until it is time; what is no code of ours is written beside the store."""
    store, dice, codes = store_below(folder), random.Random(seed), Counter[str]()
    try:
        while time.monotonic() < until:
            try:
                act(store, dice)
                codes["done"] += 1
            except MxcError as error:
                codes[f"{error.code} {error.problems[0].code}"] += 1
        told = Path(folder, f"telling-{seed}")
        told.write_text(json.dumps(codes))
        told.rename(Path(folder, f"codes-{seed}"))  # whole, also when this one is killed right here
    except BaseException:
        Path(folder, f"traceback-{seed}").write_text(traceback.format_exc())
    os._exit(0)


def race(folder: str, rounds: int, seed: int) -> None:
    """Rounds of sixteen actors, of which some are killed at any moment; what each leaves is checked."""
    dice = random.Random(seed)
    store = store_below(folder)
    _adopt_orphans()
    for turn in range(rounds):
        until = time.monotonic() + _LONGEST_S
        actors = [_fork(actor, folder, seed + 1000 * turn + number, until) for number in range(ACTORS)]
        for pid in dice.sample(actors, ACTORS // 2 if turn % 4 else 0):
            time.sleep(dice.uniform(0, _LONGEST_S / ACTORS * 2))
            os.kill(pid, signal.SIGKILL)
        for pid in actors:
            os.waitpid(pid, 0)
        _reap()
        check(store, dice)
    clear(store)


def check(store: Store, dice: random.Random) -> None:
    """Whatever happened: all can be read, nothing is left over, and each is usable or stale."""
    tracebacks = [path.read_text() for path in Path(store.path).parents[2].glob("traceback-*")]
    assert not tracebacks, tracebacks[0]
    require_tidy(store)
    for one in store.entries():
        assert isinstance(one, Entry)
        if dice.random() < 0.3:  # others go on as they are
            if one.shown is Shown.RUNNING:
                use(one)
            elif one.shown in (Shown.PROVISIONED, Shown.STALE):
                start(one)
                use(one)
            elif dice.random() < 0.5:
                stop(one)
            else:
                deprovision(one)


def require_tidy(store: Store, *, force: bool = False) -> None:
    swept = sweep(store.home, force=force)
    assert swept.kept == (), swept.kept
    again = sweep(store.home)
    assert again == Swept((), ()), again
    entries = [one for one in store.entries() if isinstance(one, Entry)]
    assert len(entries) == len(store.entries()), store.entries()
    top = Path(store.path)
    assert {path.name for path in top.iterdir()} - {".lock", ".names"} == {one.record.tail for one in entries}
    for one in entries:
        assert {path.name for path in Path(one.path).iterdir()} - {"journal.old"} == FILES
        assert len(one.journal()) >= 1
    named = {one.record.name: one.record.tail for one in entries if one.record.name}
    assert len(named) == len([one for one in entries if one.record.name]), "a name is had twice"
    links = {path.name: str(path.readlink()) for path in top.glob(".names/*")}
    assert links == named
    run = {path.name for path in Path(store.home.places.run.path).glob("*")}
    assert run <= {one.record.tail for one in entries}


def clear(store: Store) -> None:
    for one in store.entries():
        assert isinstance(one, Entry)
        deprovision(one)
    require_tidy(store)
    assert store.entries() == []
    assert not list(Path(store.home.places.run.path).glob("*"))


# --- every single step ------------------------------------------------------------------------------

_CALLS = (
    *("mkdir", "rmdir", "open", "close", "rename", "unlink", "symlink", "write", "fsync", "fdatasync"),
    *("utime", "ftruncate", "scandir", "listdir", "readlink", "stat"),
)


def step_by_step(folder: str, stride: int) -> None:
    """Each phase, killed in turn before each of its system calls, or before each `stride`-th of them."""
    phases: dict[str, Callable[[Store, Entry], object]] = {
        "create": lambda store, _: store.create(record("web")),
        "start": lambda _, entry: start(entry),
        "stop": lambda _, entry: stop(entry),
        "deprovision": lambda _, entry: deprovision(entry),
        "sweep": lambda store, _: sweep(store.home, force=True),
    }
    _adopt_orphans()
    steps = {phase: _steps(Path(folder, phase), phase, play, stride) for phase, play in phases.items()}
    print(json.dumps(steps))


def _steps(folder: Path, phase: str, play: Callable[[Store, Entry], object], stride: int) -> int:
    folder.mkdir()
    store = store_below(folder)
    for step in range(1, 10_000, stride):
        entry = store.create(record("other"))
        if phase in ("stop", "deprovision"):
            start(entry)
        if phase == "sweep":
            _leave_something(store, entry)
        status = os.waitpid(_fork(_until_step, store, entry, play, step), 0)[1]
        whole = os.waitstatus_to_exitcode(status) == 0
        _after(store, entry, phase, whole=whole)
        clear(store)
        if whole:
            return step
    raise AssertionError("it has no end")


def _until_step(store: Store, entry: Entry, play: Callable[[Store, Entry], object], step: int) -> NoReturn:
    left = [step]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **settings: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **settings)

        return instead

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        play(store, entry)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _after(store: Store, entry: Entry, phase: str, *, whole: bool) -> None:
    _reap()
    assert not whole or phase != "deprovision" or len(store.entries()) == 0
    require_tidy(store, force=phase == "sweep")
    for one in store.entries():
        assert isinstance(one, Entry)
        # Its supervisor may live, or come or go this very moment, and who was moving it does not.
        with suppress(LifecycleError):
            if one.shown in (Shown.STARTING, Shown.STOPPING):
                stop(one)
        with suppress(LifecycleError):
            if store.open(one.id).shown is not Shown.RUNNING:
                start(store.open(one.id))
        use(store.open(one.id))
    assert phase in ("deprovision", "sweep") or store.open(entry.id).shown is Shown.RUNNING


def _leave_something(store: Store, entry: Entry) -> None:
    top, run = Path(store.path), Path(store.home.places.run.path)
    start(entry)
    (top / f".new-{'0' * 32}").mkdir(mode=0o700)
    (top / f".gone-{'0' * 32}/sub/sub").mkdir(parents=True)
    (top / ".names/dead").symlink_to("0" * 32)
    (run / ("0" * 32)).mkdir(mode=0o700)
    (run / ("0" * 32) / "of").symlink_to(f"{store.path}/{'0' * 32}")
    bad = store.create(record("bad"))
    Path(bad.path, "record.json").write_text("")


# --- processes --------------------------------------------------------------------------------------


def _fork(what: Callable[..., NoReturn], *args: object) -> int:
    pid = os.fork()
    if pid == 0:
        what(*args)
    return pid


def _adopt_orphans() -> None:
    """Supervisors whose starter was killed become our children, and end with us at the latest."""
    import ctypes

    set_child_subreaper = 36
    assert ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0) == 0


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    os.setpgid(0, 0)
    mode, place, *numbers = sys.argv[1:]
    {"race": race, "steps": step_by_step}[mode](place, *map(int, numbers))
