"""The store of sandboxes: found by what people write, changed by one at a time, never by somebody else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.errors import BackendUnavailable, LaunchFailed, LifecycleError, MxcError, PolicyRefused
from backends.frozen import replace
from mxc_ops.session import transition
from mxc_ops.session.entry import Entry, process_start
from mxc_ops.session.places import Place, Places, default_places
from mxc_ops.session.record import SCHEMA_VERSION, State, moment, seconds
from mxc_ops.session.states import Shown
from mxc_ops.session.store import Store
from mxc_ops.session.sweep import sweep
from mxc_ops.session.transition import Transition
from mxc_ops.session.trees import remove_tree
from tests.conftest import CHECKOUT, UNPRIVILEGED_UID, User
from tests.unit.session_stores import PARTS, record, remove, save, store_below

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_below(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The store's folder."""
    return tmp_path / "state/mxc-ops/sessions"


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def refused(kind: type[MxcError], problem: str) -> Generator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.problems[0].code == problem
    assert caught.value.fix


def begin(entry: Entry) -> int:
    """A start up to where its supervisor is to come to life; the start's number."""
    with Transition(entry, "start", wait_s=1) as moving:
        moving.save(replace(moving.record, state=State.STARTING, starts=moving.record.starts + 1))
        return moving.record.starts


def hold(entry: Entry) -> int:
    return entry.hold_alive(begin(entry))


@contextmanager
def supervised(entry: Entry) -> Generator[None]:
    """A supervisor holds it, from a start to a crash; what was written stays."""
    alive = hold(entry)
    try:
        save(entry, state=State.RUNNING)
        yield
    finally:
        os.close(alive)


def names(path: Path | str) -> list[str]:
    return sorted(entry.name for entry in Path(path).iterdir())


def ids(store: Store) -> list[str]:
    return [one.id if isinstance(one, Entry) else f"{one.reason} {one.tail}" for one in store.entries()]


def shown(entry: Entry, store: Store) -> Shown:
    return store.open(entry.id).shown


# --- making and finding -----------------------------------------------------------------------------


def test_without_a_store_there_are_no_sandboxes_and_none_is_made_by_looking(
    store: Store, tmp_path: Path
) -> None:
    assert store.entries() == []
    with refused(LifecycleError, "not_provisioned"):
        store.open("web")
    assert sweep(store.home).removed == ()
    assert not (tmp_path / "state").exists()


def test_a_sandbox_is_found_by_its_id_its_beginning_and_its_name(store: Store, home: Path) -> None:
    made = store.create(record("web", containment="lxc"))
    for text in (made.id, made.record.tail, made.id[:7], made.record.tail[:6], "web"):
        found = store.open(text)
        assert (found.record, found.shown, found.path) == (made.record, Shown.PROVISIONED, made.path)
    assert made.record.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert names(made.path) == ["alive", "journal", "lock", "record.json"]
    assert names(home) == [".lock", ".names", made.record.tail]


def test_everything_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0, 0o077):
        before = os.umask(umask)
        try:
            folder = tmp_path / str(umask)
            folder.mkdir(mode=0o700)
            store = store_below(folder)
            entry = store.create(record("web"))
            with Transition(entry, "start") as moving:
                moving.save(replace(moving.record, run_folder=moving.make_run_folder()))
        finally:
            os.umask(before)
        private = [path for path in folder.rglob("sessions/**/*") if not path.is_symlink()]
        assert len(private) >= 8
        assert {oct(path.stat().st_mode & 0o7777) for path in private} == {"0o700", "0o600"}


def test_sandboxes_are_told_in_the_order_of_their_making(store: Store) -> None:
    made = [store.create(replace(record(), created=moment(at), last_used=moment(at))) for at in (30, 10, 20)]
    assert ids(store) == [made[1].id, made[2].id, made[0].id]


def test_a_name_is_had_by_one_and_free_again_when_that_is_removed(store: Store, home: Path) -> None:
    first = store.create(record("web"))
    with refused(PolicyRefused, "name_taken"):
        store.create(record("web"))
    assert ids(store) == [first.id]
    assert [name for name in names(home) if name.startswith(".new")] == []
    remove(first)
    with refused(LifecycleError, "not_provisioned"):
        store.open("web")
    second = store.create(record("web"))
    assert store.open("web").id == second.id


def test_a_name_whose_making_died_is_free(store: Store, home: Path) -> None:
    store.create(record("other"))
    (home / ".names/web").symlink_to("0" * 32)
    (home / ".names/odd").symlink_to("/etc/passwd")
    for name in ("web", "odd"):
        with refused(LifecycleError, "not_provisioned"):
            store.open(name)
        assert store.open(store.create(record(name)).id).record.name == name


def test_a_name_that_leads_to_a_sandbox_of_another_name_leads_nowhere(store: Store, home: Path) -> None:
    made = store.create(record("web"))
    (home / ".names/evil").symlink_to(made.record.tail)
    with refused(LifecycleError, "not_provisioned"):
        store.open("evil")


def test_what_fills_the_folder_is_done_before_anybody_sees_it(store: Store) -> None:
    def fill(folder: int) -> None:
        assert ids(store) == []
        os.mkdir("private", 0o700, dir_fd=folder)

    assert Path(store.create(record(), fill).path, "private").is_dir()


def test_a_making_that_fails_leaves_nothing(store: Store, home: Path) -> None:
    def fill(folder: int) -> None:
        os.mkdir("private", 0o700, dir_fd=folder)
        raise FileNotFoundError("of the caller's")

    with pytest.raises(FileNotFoundError, match="of the caller's"):
        store.create(record("web"), fill)
    assert names(home) == []


def test_an_id_is_not_given_twice(store: Store) -> None:
    made = record("web")
    store.create(made)
    with refused(PolicyRefused, "name_taken"):
        store.create(made)
    with refused(LaunchFailed, "store_failed"):
        store.create(replace(made, name=""))
    assert ids(store) == [made.id]


# Beginnings shared, names that could be beginnings, names that are hexadecimal but no beginning.
_TAILS = {
    f"{'a' * 31}0": ("bubblewrap", "web"),
    f"{'a' * 31}1": ("lxc", "aaab"),
    f"{'a' * 20}{'b' * 12}": ("vm", ""),
    f"ab{'0' * 30}": ("microvm", "abc"),
    f"abc{'1' * 29}": ("bubblewrap", "ab"),
    f"b{'0' * 31}": ("lxc", "fade"),
}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = store_below(tmp_path_factory.mktemp("crowded"))
    for tail, (containment, name) in _TAILS.items():
        store.create(record(name, containment=containment, tail=tail))
    return store


def expected(text: str) -> str:
    """The tail that a text stands for, or the code of the error: said again, plainly."""
    prefixes = {"bubblewrap": "bwrap", "lxc": "lxc", "microvm": "vm", "vm": "vm"}
    ids = {f"{prefixes[containment]}:{tail}": tail for tail, (containment, _) in _TAILS.items()}
    of_names = {name: tail for tail, (_, name) in _TAILS.items() if name}
    if text in of_names:
        return of_names[text]
    found = [tail for whole, tail in ids.items() if (whole if ":" in text else tail).startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        return "ambiguous_id"
    return "stale_id" if len(text.rpartition(":")[2]) == 32 else "not_provisioned"


@st.composite
def written(draw: st.DrawFn) -> str:
    tail = draw(st.sampled_from([*_TAILS, "c" * 32, f"{'a' * 31}2"]))
    shortened = tail[: draw(st.integers(1, 32))]
    prefix = draw(st.sampled_from(["", "", "bwrap:", "lxc:", "vm:"]))
    others = st.sampled_from([name for _, name in _TAILS.values() if name] + ["nobody", "aa", "f"])
    return draw(st.just(prefix + shortened) | others)


@given(written())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_people_write_leads_to_one_sandbox_or_to_a_code(crowded: Store, text: str) -> None:
    try:
        answer = crowded.open(text).record.tail
    except LifecycleError as error:
        answer = error.problems[0].code
    assert answer == expected(text)


# --- one transition at a time -----------------------------------------------------------------------


def test_a_transition_is_kept_and_noted(store: Store) -> None:
    entry = store.create(record())
    with Transition(entry, "start") as moving:
        moving.admit()
        moving.save(replace(moving.record, state=State.STARTING, starts=1))
        assert moving.shown is Shown.STARTING
        assert store.open(entry.id).shown is Shown.STARTING
        moving.save(replace(moving.record, state=State.RUNNING, supervisor_pid=9))
    found = store.open(entry.id).record
    assert (found.state, found.starts, found.supervisor_pid) == (State.RUNNING, 1, 9)
    steps = [(line["phase"], line.get("from"), line["to"]) for line in entry.journal()]
    assert steps == [
        ("provision", None, "provisioned"),
        ("start", "provisioned", "starting"),
        ("start", "starting", "running"),
    ]
    assert all(seconds(line["at"]) > 0 and line["by"] == os.getpid() for line in entry.journal())


def test_another_ones_transition_is_waited_for_and_then_told(store: Store) -> None:
    entry = store.create(record())
    with (
        Transition(entry, "start"),
        refused(LaunchFailed, "busy"),
        Transition(store.open(entry.id), "stop", wait_s=0.05),
    ):
        pytest.fail("two at once")
    done: list[str] = []

    def later() -> None:
        with Transition(entry, "stop"):
            done.append("later")

    with Transition(entry, "start"):
        thread = threading.Thread(target=later)
        thread.start()
        time.sleep(0.05)
        done.append("first")
    thread.join()
    assert done == ["first", "later"]


def test_a_transition_sees_what_was_written_meanwhile(store: Store) -> None:
    entry = store.create(record())
    save(store.open(entry.id), state=State.RUNNING, starts=5)
    with Transition(entry, "start") as moving:
        assert moving.record.starts == 5
        assert moving.shown is Shown.STALE


@pytest.mark.parametrize(
    "changes", [{"id": f"bwrap:{'0' * 32}"}, {"name": "x"}, {"containment": "lxc"}, {"created": moment(0)}]
)
def test_a_sandbox_stays_the_one_it_is(store: Store, changes: dict[str, Any]) -> None:
    entry = store.create(record())
    with Transition(entry, "start") as moving, pytest.raises(ValueError, match="keeps its"):
        moving.save(replace(moving.record, **changes))


def test_a_record_that_could_not_be_read_again_is_not_written(store: Store) -> None:
    entry = store.create(record())
    with Transition(entry, "start") as moving, pytest.raises(ValueError):
        moving.save(replace(moving.record, starts=-1))
    assert store.open(entry.id).record == entry.record
    assert len(entry.journal()) == 1


def test_a_removed_sandbox_is_stale_for_whoever_still_knows_it(store: Store) -> None:
    entry = store.create(record("web"))
    remove(store.open("web"))
    for act in (
        lambda: remove(entry),
        lambda: save(entry),
        entry.touch,
        lambda: entry.hold_alive(1),
        entry.journal,
        lambda: store.open(entry.id),
    ):
        with refused(LifecycleError, "stale_id"):
            act()


def test_who_waits_for_a_sandbox_that_is_removed_meanwhile_is_told(store: Store) -> None:
    entry = store.create(record())
    codes: list[str] = []

    def later() -> None:
        with pytest.raises(LifecycleError) as caught, Transition(entry, "start"):
            pass
        codes.append(caught.value.code)

    with Transition(entry, "deprovision") as moving:
        thread = threading.Thread(target=later)
        thread.start()
        time.sleep(0.05)
        moving.remove()
    thread.join()
    assert codes == ["stale_id"]


def test_the_journal_is_bounded_and_survives_half_a_line(store: Store) -> None:
    entry = store.create(record())
    with Transition(entry, "x" * 4000) as moving:
        for starts in range(40):
            moving.save(replace(moving.record, starts=starts))
    sizes = [Path(entry.path, name).stat().st_size for name in ("journal", "journal.old")]
    assert all(size < 80_000 for size in sizes)
    assert len(entry.journal()) > 16
    with Path(entry.path, "journal").open("ab") as file:
        file.write(b'{"at":"2026')
    known = len(entry.journal())
    save(entry, "stop", starts=99)
    assert len(entry.journal()) == known + 1
    assert entry.journal()[-1]["phase"] == "stop"


# --- what is alive ----------------------------------------------------------------------------------


def test_a_supervisor_lives_as_long_as_its_descriptor(store: Store) -> None:
    entry = store.create(record())
    with supervised(entry):
        assert shown(entry, store) is Shown.RUNNING
        assert not store.open(entry.id).needs_reclaim
        with refused(LifecycleError, "already_started"):
            entry.hold_alive(1)
        with Transition(entry, "start") as moving:
            with refused(LifecycleError, "already_started"):
                moving.admit()
            with refused(LifecycleError, "already_started"):
                moving.remove()
    assert shown(entry, store) is Shown.STALE
    assert store.open(entry.id).needs_reclaim
    with refused(LifecycleError, "stale_id"), Transition(entry, "exec") as moving:
        moving.admit()


def test_looking_does_not_keep_a_supervisor_from_living(store: Store) -> None:
    entry = store.create(record())
    starts = begin(entry)
    looking = os.open(f"{entry.path}/alive", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, [looking]).start()
    os.close(entry.hold_alive(starts))


def test_who_holds_a_sandbox_is_known_whatever_the_record_says(store: Store) -> None:
    entry = store.create(record())
    assert entry.supervisor() is None
    with supervised(entry):
        assert entry.record.supervisor_pid == 0
        assert entry.supervisor() == (os.getpid(), process_start(os.getpid()))
        alive = Path(entry.path, "alive")
        for other in (b"", b"1 1\n", b"x y\n", b"%d 1\n" % os.getpid(), b"999999999 1\n", b"9" * 5000):
            alive.write_bytes(other)
            assert entry.supervisor() is None
        alive.unlink()
        assert entry.supervisor() is None
    os.close(hold(entry))
    assert entry.supervisor() is None


def test_the_descriptor_of_a_supervisor_is_not_inherited(store: Store) -> None:
    alive = hold(store.create(record()))
    assert not os.get_inheritable(alive)
    os.close(alive)


def test_a_supervisor_that_comes_to_life_too_late_gives_up(store: Store) -> None:
    """Its starter was killed; others stopped the sandbox, or started it again, or removed it."""
    entry = store.create(record())
    first = begin(entry)
    save(entry, "stop", state=State.PROVISIONED)
    with refused(LifecycleError, "stale_id"):
        entry.hold_alive(first)
    second = begin(entry)
    with refused(LifecycleError, "stale_id"):
        entry.hold_alive(first)
    os.close(entry.hold_alive(second))
    save(entry, state=State.RUNNING)
    with refused(LifecycleError, "stale_id"):
        entry.hold_alive(second)
    remove(entry)
    with refused(LifecycleError, "stale_id"):
        entry.hold_alive(second)


@pytest.mark.parametrize("state", [State.PROVISIONED, State.STARTING])
def test_nothing_begins_or_ends_while_a_supervisor_lives(store: Store, state: State) -> None:
    entry = store.create(record())
    with supervised(entry):
        with refused(LifecycleError, "already_started"):
            save(entry, state=state, starts=2)
        assert store.open(entry.id).record.state is State.RUNNING
    save(entry, state=state, starts=2)


@pytest.mark.parametrize("starts", [0, 2, -1])
def test_a_start_has_the_next_number(store: Store, starts: int) -> None:
    entry = store.create(record())
    with pytest.raises(ValueError, match="number of its own"):
        save(entry, state=State.STARTING, starts=starts)


def test_one_that_is_removed_while_it_is_opened_is_stale(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = store.create(record("gone"))
    real = transition.open_entry

    def opened(*arguments: Any) -> int:
        monkeypatch.undo()  # removing opens it, too
        folder = real(*arguments)
        remove(store.open(entry.id))
        return folder

    monkeypatch.setattr(transition, "open_entry", opened)
    with refused(LifecycleError, "stale_id"), Transition(entry, "stop"):
        pass


def test_in_the_middle_of_a_transition_nothing_is_stale(store: Store) -> None:
    entry = store.create(record())
    with Transition(entry, "start") as moving:
        moving.save(replace(moving.record, state=State.STARTING, starts=1))
        assert shown(entry, store) is Shown.STARTING
    assert shown(entry, store) is Shown.STALE


def test_after_a_boot_nothing_runs_and_what_is_left_is_reclaimed(tmp_path: Path) -> None:
    before = store_below(tmp_path)
    entry = before.create(record())
    save(entry, state=State.RUNNING)
    after = store_below(tmp_path, boot_id="another")
    found = after.open(entry.id)
    assert (found.shown, found.needs_reclaim) == (Shown.PROVISIONED, True)
    save(found, state=State.PROVISIONED)
    assert not after.open(entry.id).needs_reclaim
    assert after.open(entry.id).record.boot_id == "another"


def test_using_a_sandbox_is_told_at_once_and_kept_by_the_next_transition(store: Store) -> None:
    entry = store.create(replace(record(), created=moment(0), last_used=moment(0)))
    alive = Path(entry.path, "alive")
    os.utime(alive, (0, 0))
    assert store.open(entry.id).last_used == moment(0)
    text = Path(entry.path, "record.json").read_bytes()
    entry.touch()
    assert abs(seconds(store.open(entry.id).last_used) - time.time()) < 60
    assert Path(entry.path, "record.json").read_bytes() == text
    os.utime(alive, (1000, 1000))
    save(entry)
    assert store.open(entry.id).record.last_used == moment(1000)
    os.utime(alive, (2**40, 2**40))
    assert seconds(store.open(entry.id).last_used) <= time.time()


def test_a_sandbox_whose_lock_files_are_gone_is_still_one(store: Store) -> None:
    entry = store.create(record())
    save(entry, state=State.RUNNING)
    for name in ("lock", "alive"):
        Path(entry.path, name).unlink()
    assert shown(entry, store) is Shown.STALE
    with supervised(entry):
        assert shown(entry, store) is Shown.RUNNING
    remove(entry)


# --- the sockets' folder ----------------------------------------------------------------------------


def started(entry: Entry) -> Path:
    with Transition(entry, "start") as moving:
        folder = Path(moving.make_run_folder())
        moving.save(replace(moving.record, state=State.RUNNING))
    return folder


def test_a_start_has_an_empty_private_folder_and_removal_takes_it_away(store: Store, tmp_path: Path) -> None:
    entry = store.create(record())
    folder = started(entry)
    assert folder == tmp_path / "run/mxc-ops/sessions" / entry.record.tail
    assert store.open(entry.id).record.run_folder == str(folder)
    (folder / "agent").touch()
    assert started(entry) == folder
    assert names(folder) == ["of"]
    remove(entry)
    assert names(folder.parent) == []


def test_the_folder_is_found_by_a_process_that_has_other_places(store: Store, tmp_path: Path) -> None:
    """A user's ``cron`` has no XDG_RUNTIME_DIR."""
    entry = store.create(record())
    folder = started(entry)
    other = Store(replace(store.home.places, run=Place(str(tmp_path / "elsewhere"), PARTS)))
    assert other.open(entry.id).record.run_folder == str(folder)
    remove(other.open(entry.id))
    assert not folder.exists()


def test_a_run_folder_that_is_another_ones_is_left_alone(store: Store, tmp_path: Path) -> None:
    entry = store.create(record())
    for path in (tmp_path / "run" / entry.record.tail, tmp_path / entry.record.tail, tmp_path / "other"):
        path.mkdir(mode=0o700)
        (path / "precious").touch()
        save(entry, run_folder=str(path))
        with Transition(entry, "stop") as moving:
            moving.remove_run_folder()
        assert (path / "precious").exists()


# --- what is not ours to interpret ------------------------------------------------------------------


def _newer(path: Path) -> None:
    text = path.joinpath("record.json").read_text()
    changed = text.replace(f'"schemaVersion":{SCHEMA_VERSION}', f'"schemaVersion":{SCHEMA_VERSION + 1}')
    path.joinpath("record.json").write_text(changed)


def _record_is(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        (path / "record.json").unlink()
        make(path / "record.json")

    return spoil


def _folder_is_a_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _record_of_another(path: Path) -> None:
    text = (path / "record.json").read_text()
    (path / "record.json").write_text(text.replace(path.name, "0" * 32))


_SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (_newer, "newer"),
    "empty": (lambda path: (path / "record.json").write_text(""), "corrupt"),
    "zeros": (lambda path: (path / "record.json").write_bytes(bytes(4096)), "corrupt"),
    "missing": (lambda path: (path / "record.json").unlink(), "corrupt"),
    "of another": (_record_of_another, "corrupt"),
    "a link": (_record_is(lambda path: path.symlink_to("/etc/passwd")), "foreign"),
    "a dead link": (_record_is(lambda path: path.symlink_to("nowhere")), "foreign"),
    "a fifo": (_record_is(lambda path: os.mkfifo(path, 0o600)), "foreign"),
    "a directory": (_record_is(lambda path: path.mkdir(mode=0o700)), "foreign"),
    "open to others": (lambda path: (path / "record.json").chmod(0o644), "foreign"),
    "folder open to others": (lambda path: path.chmod(0o750), "foreign"),
    "folder a link": (_folder_is_a_link, "foreign"),
    "folder a file": (lambda path: (path.rename(path.with_name("moved")), path.touch(0o600)), "foreign"),
}


@pytest.mark.parametrize("how", _SPOILT)
def test_a_spoilt_sandbox_is_told_and_touched_by_nothing(store: Store, home: Path, how: str) -> None:
    good, bad = store.create(record()), store.create(record("web"))
    spoil, reason = _SPOILT[how]
    spoil(Path(bad.path))
    content = sorted((str(path), path.lstat().st_mode, path.lstat().st_size) for path in home.rglob("*"))
    assert ids(store) == [good.id, f"{reason} {bad.record.tail}"]
    for text in (bad.id, bad.record.tail[:9], "web"):
        with refused(LaunchFailed, f"record_{reason}"):
            store.open(text)
    for act in (lambda: save(bad), lambda: remove(bad)):
        with pytest.raises(MxcError):
            act()
    with refused(PolicyRefused, "name_taken"):
        store.create(record("web"))
    assert [path for path, _ in sweep(store.home).kept] == [bad.path]
    if how not in ("missing", "empty", "newer", "zeros", "of another"):
        assert [path for path, _ in sweep(store.home, force=True).kept] == [bad.path]
    now = sorted((str(path), path.lstat().st_mode, path.lstat().st_size) for path in home.rglob("*"))
    assert now == content


@pytest.mark.parametrize("how", ["newer", "empty", "missing", "of another"])
def test_a_spoilt_sandbox_goes_by_force_when_nobody_holds_it(store: Store, home: Path, how: str) -> None:
    bad = store.create(record("web"))
    _SPOILT[how][0](Path(bad.path))
    for name in ("alive", "lock"):
        held = os.open(f"{bad.path}/{name}", os.O_RDWR)
        fcntl.flock(held, fcntl.LOCK_EX)
        assert sweep(store.home, force=True).kept == ((bad.path, "is in use"),)
        os.close(held)
    swept = sweep(store.home, force=True)
    assert (bad.path in swept.removed, swept.kept) == (True, ())
    assert names(home) == [".lock", ".names"]
    assert names(home / ".names") == []
    assert sweep(store.home, force=True).removed == ()


@AS_ROOT
@pytest.mark.parametrize("name", ["", "record.json", "lock", "alive", "journal"])
def test_what_belongs_to_somebody_else_is_foreign(store: Store, name: str) -> None:
    entry = store.create(record())
    save(entry, state=State.RUNNING)
    os.chown(Path(entry.path, name), UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    for act in (lambda: remove(store.open(entry.id)), lambda: save(entry)):
        with pytest.raises(MxcError):
            act()
            act()
        if name == "journal":
            return
    assert ids(store) == [f"foreign {entry.record.tail}"]
    assert sweep(store.home, force=True).removed == ()


@AS_ROOT
@pytest.mark.parametrize("part", ["mxc-ops", "mxc-ops/sessions"])
def test_a_store_of_somebody_else_is_refused(store: Store, tmp_path: Path, part: str) -> None:
    entry = store.create(record())
    os.chown(tmp_path / "state" / part, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    for act in (
        store.entries,
        lambda: store.open(entry.id),
        lambda: store.create(record()),
        lambda: sweep(store.home),
        entry.touch,
        lambda: save(entry),
    ):
        with refused(BackendUnavailable, "store_not_ours"):
            act()


@pytest.mark.parametrize("part", ["mxc-ops", "mxc-ops/sessions"])
def test_a_link_in_place_of_the_store_is_refused(store: Store, tmp_path: Path, part: str) -> None:
    store.create(record())
    path = tmp_path / "state" / part
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    for act in (store.entries, lambda: store.create(record())):
        with refused(BackendUnavailable, "store_not_ours"):
            act()


def test_a_store_that_others_may_look_at_is_closed_to_them(store: Store, tmp_path: Path) -> None:
    entry = store.create(record())
    (tmp_path / "state/mxc-ops").chmod(0o777)
    (tmp_path / "state/mxc-ops/sessions").chmod(0o755)
    assert ids(store) == [entry.id]
    modes = [(tmp_path / "state" / part).stat().st_mode & 0o777 for part in ("mxc-ops", "mxc-ops/sessions")]
    assert modes == [0o755, 0o700]


def test_a_link_in_place_of_a_lock_is_not_followed(store: Store, home: Path, tmp_path: Path) -> None:
    entry = store.create(record())
    for path in (home / ".lock", Path(entry.path, "lock"), Path(entry.path, "alive")):
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "made through a link")
    for act in (lambda: store.create(record("web")), lambda: entry.hold_alive(1), lambda: save(entry)):
        with pytest.raises(MxcError):
            act()
    assert not (tmp_path / "made through a link").exists()


def test_what_lies_in_the_store_and_is_no_sandbox_is_none(store: Store, home: Path) -> None:
    entry = store.create(record())
    for name in ("readme", "A" * 32, "0" * 31, ".hidden"):
        (home / name).mkdir()
    assert ids(store) == [entry.id]
    assert sweep(store.home) == sweep(store.home)
    assert (home / "readme").is_dir()


@AS_ROOT
def test_another_users_sandboxes_are_invisible_and_untouchable(as_user: User) -> None:
    folder = as_user.tree / "ours"
    folder.mkdir(mode=0o755)
    store = store_below(folder)
    entry = store.create(record("web"))
    script = f"""
from backends.errors import MxcError
from mxc_ops.session.places import Place, Places, default_places
from mxc_ops.session.record import new_record
from mxc_ops.session.store import Store
from mxc_ops.session.sweep import sweep
own = Store()
print(own.path)
own.create(new_record("lxc", {{}}, "", name="web"))
print(len(own.entries()), own.open("web").id != {entry.id!r})
parts = ("mxc-ops", "sessions")
theirs = Store(Places(Place({str(folder / "state")!r}, parts), Place({str(folder / "run")!r}, parts)))
for act in (theirs.entries, lambda: theirs.open({entry.id!r}), lambda: own.open({entry.id!r}),
            lambda: theirs.create(new_record("lxc", {{}}, "")), lambda: sweep(theirs.home, force=True)):
    try:
        print("done", act())
    except MxcError as error:
        print(error.code)
"""
    done = as_user(script)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == [
        f"{as_user.home}/.local/state/mxc-ops/sessions",
        "1 True",
        *("backend_unavailable", "backend_unavailable", "stale_id", "backend_unavailable"),
        "backend_unavailable",
    ]
    theirs = Store(Places(Place(f"{as_user.home}/.local/state", PARTS), store.home.places.run))
    with refused(BackendUnavailable, "store_not_ours"):
        theirs.entries()
    assert ids(store) == [entry.id]


def test_the_places_are_roots_or_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    root = default_places()
    assert (root.state.path, root.run.path) == ("/var/lib/mxc-ops/sessions", "/run/mxc-ops/sessions")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    user = default_places()
    assert (user.state.path, user.run.path) == (f"{tmp_path}/mxc-ops/sessions",) * 2
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/u")
    for runtime in ("relative", str(tmp_path / "missing"), ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        bare = default_places()
        assert bare.state.path == "/home/u/.local/state/mxc-ops/sessions"
        assert bare.run.path == "/home/u/.local/state/mxc-ops/run/sessions"


# --- leftovers --------------------------------------------------------------------------------------


def test_leftovers_of_the_dead_go_and_what_the_living_do_stays(
    store: Store, home: Path, tmp_path: Path
) -> None:
    entry = store.create(record("web"))
    run = started(entry).parent
    (home / f".new-{'0' * 32}").mkdir(mode=0o700)
    (home / f".new-{'0' * 32}/deep/er").mkdir(parents=True)
    (home / f".gone-{'1' * 32}").mkdir()
    (home / ".names/dead").symlink_to("2" * 32)
    (home / entry.record.tail / ".unfinished").write_text("{")
    (run / f".new-{'0' * 32}").mkdir(mode=0o700)
    for tail, owner in (("3" * 32, home), ("4" * 32, "/another/store")):
        (run / tail).mkdir(mode=0o700)
        (run / tail / "of").symlink_to(f"{owner}/{tail}")
    (run / ("5" * 32)).mkdir(mode=0o700)
    (run / f".gone-{'6' * 32}").mkdir()

    seen: list[tuple[str, ...]] = []
    store.create(record(), lambda folder: seen.append(sweep(store.home).removed))
    assert set(seen[0]) == {
        f"{home}/.new-{'0' * 32}",
        f"{home}/.gone-{'1' * 32}",
        f"{home}/.names/dead",
        f"{entry.path}/.unfinished",
        f"{run}/.new-{'0' * 32}",
        f"{run}/.gone-{'6' * 32}",
        f"{run}/{'3' * 32}",
    }
    assert len(store.entries()) == 2
    assert names(run) == sorted([entry.record.tail, "4" * 32, "5" * 32])
    assert store.open("web").id == entry.id
    assert sweep(store.home).removed == ()


def test_what_is_being_written_is_not_swept(store: Store) -> None:
    entry = store.create(record())
    with Transition(entry, "start"):
        Path(entry.path, ".unfinished").touch(0o600)
        assert sweep(store.home).removed == ()


@contextmanager
def mounted(place: Path) -> Generator[None]:
    """Something that cannot be removed."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@AS_ROOT
def test_what_cannot_be_removed_is_told_and_tried_again(store: Store) -> None:
    entry = store.create(record())
    gone = Path(store.path, f".gone-{entry.record.tail}")
    Path(entry.path).rename(gone)
    with mounted(gone / "mounted"):
        gone.rename(entry.path)
        try:
            with refused(LaunchFailed, "leftover"):
                remove(entry)
            with refused(LifecycleError, "stale_id"):
                store.open(entry.id)
            assert sweep(store.home).kept == ((str(gone), "cannot be removed: Device or resource busy"),)
        finally:
            assert names(gone) == ["mounted"]
    assert sweep(store.home).removed == (str(gone),)
    assert ids(store) == []


@AS_ROOT
def test_a_run_folder_that_hides_whose_it_is_goes_when_it_says_so_again(store: Store) -> None:
    entry = store.create(record())
    run = started(entry)
    with mounted(run):
        remove(entry)
        assert sweep(store.home).removed == ()
    assert sweep(store.home).removed == (str(run),)


# --- trees ------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    here = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with opened(tmp_path) as parent:
        remove_tree("tree", parent)
        remove_tree("tree", parent)
    assert names(tmp_path) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept/inner").mkdir(parents=True)
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/out").symlink_to(tmp_path / "kept")
    (tmp_path / "tree/sub/out").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    with opened(tmp_path) as parent:
        remove_tree("tree", parent)
        remove_tree("link", parent)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inner", "kept"]


def test_a_workload_cannot_close_its_directories_to_removal(as_user: User) -> None:
    script = """
import os
from pathlib import Path
from mxc_ops.session.trees import remove_tree
top = Path("closing")
(top / "a/b/c").mkdir(parents=True)
(top / "a/b/file").touch(0)
(top / "read-only/inner/most").mkdir(parents=True)
(top / "dangling").symlink_to("nowhere")
for path in ("a/b/c", "a/b", "a", "read-only/inner/most"):
    (top / path).chmod(0)
for path in ("read-only/inner", "read-only"):
    (top / path).chmod(0o555)
top.chmod(0)
here = os.open(".", os.O_RDONLY)
remove_tree("closing", here)
print(top.exists())
"""
    done = as_user(script)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_two_may_remove_the_same_tree(tmp_path: Path) -> None:
    for top in range(40):
        (tmp_path / f"tree/{top}/a/b/c").mkdir(parents=True)
    failures: list[BaseException] = []

    def act() -> None:
        try:
            with opened(tmp_path) as parent:
                remove_tree("tree", parent)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(tmp_path) == []


@AS_ROOT
def test_a_full_disk_is_told_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    script = f"""
import os, subprocess
from backends.errors import LaunchFailed
from backends.frozen import replace
from mxc_ops.session.sweep import sweep
from mxc_ops.session.transition import Transition
from tests.unit.session_stores import record, store_below
small = {str(tmp_path / "small")!r}
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", small], check=True)
store = store_below(small)
entry = store.create(record("web"))
large = {{"x": "y" * 300_000}}
codes = []
for act in ("save", "create"):
    try:
        if act == "create":
            store.create(replace(record("other"), document=large))
        with Transition(entry, "start") as moving:
            moving.save(replace(moving.record, backend_data=large))
    except LaunchFailed as error:
        codes.append((error.problems[0].code, error.retryable))
found = store.open("web")
print(codes, found.record == entry.record, len(store.entries()), sorted(os.listdir(store.path))[:-1])
print([name.rpartition("/")[2] for name in sweep(store.home).removed])
"""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script],
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[('store_failed', True), ('store_failed', True)] True 1 ['.lock', '.names']",
        "[]",
    ]


def test_listing_opens_two_files_for_each_sandbox(tmp_path: Path) -> None:
    """Counted, not timed: the folder and the record, after the three directories that lead to the store."""
    store = store_below(tmp_path)
    for _ in range(5):
        store.create(record())
    opened: list[str] = []
    original = os.open

    def counted(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(str(path))
        return original(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", counted)
        assert len(store.entries()) == 5
    assert len(opened) == 3 + 5 * 2
