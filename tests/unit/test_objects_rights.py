"""Whose rights count: the caller's, also when root acts for somebody through sudo."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Access, PathState
from backends.errors import PolicyRefused
from backends.linux.delegation import Caller, as_caller, calling_user
from tests.conftest import User
from tests.unit.observing import DENIED, RO, RW, observe

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts for another user, which only root can")
SOMEBODY = Caller(61234, 61234, (61234,))


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A directory that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="mxc-ops-rights-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_without_sudo_the_caller_is_the_real_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert calling_user() == Caller(os.getuid(), os.getgid(), tuple(os.getgroups()))


@needs_root
def test_through_sudo_the_caller_is_the_user_with_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.getpwnam("games")
    monkeypatch.setenv("SUDO_UID", str(account.pw_uid))
    groups = tuple(os.getgrouplist("games", account.pw_gid))
    assert calling_user() == Caller(account.pw_uid, account.pw_gid, groups)


@needs_root
def test_an_unlisted_sudo_user_has_the_group_that_sudo_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "61299")
    monkeypatch.setenv("SUDO_GID", "61235")
    assert calling_user() == Caller(61299, 61235, (61235,))


@needs_root
def test_root_through_sudo_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "0")
    assert calling_user().uid == 0


@needs_root
@pytest.mark.parametrize("value", ["games", "-1", "4294967295", "99999999999", "1 ", "\u0661"])
def test_a_sudo_user_that_is_no_number_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", value)
    with pytest.raises(PolicyRefused) as caught:
        calling_user()
    assert caught.value.problems[0].fix == "unset SUDO_UID"


def test_sudo_variables_of_a_plain_user_mean_nothing(as_user: User) -> None:
    source = "from backends.linux.objects import calling_user; print(calling_user().uid)"
    done = as_user(source, env={"SUDO_UID": "0"})
    assert done.stdout == f"{as_user.uid}\n", done.stderr


@needs_root
@pytest.mark.parametrize(
    ("mode", "rights"),
    [(0o600, (False, False)), (0o604, (True, False)), (0o606, (True, True)), (0o602, (False, True))],
)
def test_files_of_others_give_what_their_mode_says(
    mode: int, rights: tuple[bool, bool], open_tmp: Path
) -> None:
    (open_tmp / "f").touch()
    (open_tmp / "f").chmod(mode)
    [found] = observe((open_tmp / "f", RW), caller=SOMEBODY)
    assert (found.readable, found.writable) == rights


@needs_root
def test_the_group_and_supplementary_groups_count(open_tmp: Path) -> None:
    for name, group in (("primary", 70001), ("supplementary", 70002), ("foreign", 70003)):
        (open_tmp / name).touch()
        os.chown(open_tmp / name, 0, group)
        (open_tmp / name).chmod(0o640)
    caller = Caller(61234, 70001, (70001, 70002))
    found = observe(
        *((open_tmp / name, RO) for name in ("primary", "supplementary", "foreign")), caller=caller
    )
    assert [path.readable for path in found] == [True, True, False]


@needs_root
def test_directories_need_the_right_to_enter(open_tmp: Path) -> None:
    (open_tmp / "d").mkdir()
    (open_tmp / "d").chmod(0o704)
    assert not observe((open_tmp / "d", RO), caller=SOMEBODY)[0].readable
    (open_tmp / "d").chmod(0o705)
    assert observe((open_tmp / "d", RO), caller=SOMEBODY)[0].readable


@needs_root
@pytest.mark.parametrize("access", [RO, DENIED])
def test_a_path_behind_an_unreadable_parent_is_unknown(access: Access, open_tmp: Path) -> None:
    (open_tmp / "closed").mkdir(mode=0o700)
    (open_tmp / "closed/f").touch()
    [found] = observe((open_tmp / "closed/f", access), caller=SOMEBODY)
    assert (found.state, found.error) == (PathState.UNKNOWN, "Permission denied")
    assert observe((open_tmp / "closed/f", RO))[0].state is PathState.OBJECT


@needs_root
def test_a_link_into_another_process_is_not_followed_with_roots_rights(open_tmp: Path) -> None:
    (open_tmp / "closed").mkdir(mode=0o700)
    (open_tmp / "closed/f").touch()
    held = os.open(open_tmp / "closed", os.O_PATH)
    try:
        (open_tmp / "way").symlink_to("/proc/1/root/etc")  # needs the right to trace process 1
        [found] = observe((open_tmp / "way", RO), caller=SOMEBODY)
    finally:
        os.close(held)
    assert (found.state, found.error) == (PathState.UNKNOWN, "Permission denied")


@needs_root
def test_root_keeps_its_rights_after_acting_for_somebody(open_tmp: Path) -> None:
    (open_tmp / "f").touch(mode=0o600)
    observe((open_tmp / "f", RW), caller=SOMEBODY)
    status = Path("/proc/thread-self/status").read_text()
    assert "Uid:\t0\t0\t0\t0\n" in status
    assert os.getgroups() == calling_user_groups()
    [found] = observe((open_tmp / "f", RW), caller=Caller(0, 0, ()))
    assert found.readable and found.writable


def calling_user_groups() -> list[int]:
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Groups:")
    )
    return [int(group) for group in line.split()[1:]]


@needs_root
def test_other_threads_keep_their_identity_meanwhile() -> None:
    inside, go = threading.Event(), threading.Event()

    def work(_access: object) -> str:
        inside.set()
        go.wait(10)
        return Path("/proc/thread-self/status").read_text()

    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(as_caller(SOMEBODY, work)))
    thread.start()
    inside.wait(10)
    ours = Path("/proc/thread-self/status").read_text()
    go.set()
    thread.join()
    assert "Uid:\t0\t0\t0\t0\n" in ours
    assert "Uid:\t0\t0\t0\t61234\nGid:\t0\t0\t0\t61234\n" in answers[0]
    assert "Groups:\t61234 \n" in answers[0]
    assert "CapEff:\t0000000000000000\nCapBnd" in answers[0]


@needs_root
def test_many_runs_at_once_do_not_mix_identities(open_tmp: Path) -> None:
    for uid in range(61300, 61308):
        (open_tmp / str(uid)).touch()
        os.chown(open_tmp / str(uid), uid, uid)
        (open_tmp / str(uid)).chmod(0o600)
    answers: dict[int, list[bool]] = {}

    def ask(uid: int) -> None:
        policy = [(open_tmp / str(other), RO) for other in range(61300, 61308)]
        answers[uid] = [path.readable for path in observe(*policy, caller=Caller(uid, uid, (uid,)))]

    threads = [threading.Thread(target=ask, args=(uid,)) for uid in range(61300, 61308)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {uid: [uid == other for other in range(61300, 61308)] for uid in range(61300, 61308)}


def test_a_plain_user_cannot_act_for_somebody_else(as_user: User) -> None:
    done = as_user(
        "from backends.linux.delegation import *\n"
        "from backends.errors import PolicyRefused\n"
        "try: as_caller(Caller(1, 1, ()), lambda access: print('acted'))\n"
        "except PolicyRefused as refusal: print(refusal.problems[0].code)"
    )
    assert done.stdout == "caller_rights\n", done.stderr


def test_a_plain_users_rights_are_checked_by_the_kernel(as_user: User) -> None:
    done = as_user(
        "import os\n"
        "from backends.base import Access, Grant\n"
        "from backends.linux.objects import calling_user, observe_paths\n"
        "os.mkdir('own'); os.mkdir('shut', 0o000)\n"
        "paths = [os.path.abspath(name) for name in ('own', 'shut', '/usr', '/etc/shadow', 'shut/x')]\n"
        "grants = [Grant(path, Access.READ_WRITE, '') for path in paths]\n"
        "found, objects = observe_paths(grants, calling_user(), visible_trees=[])\n"
        "for path in found: print(path.state.value, path.readable, path.writable)\n"
        "os.rmdir('shut'); os.rmdir('own')\n"
    )
    assert done.stdout.splitlines() == [
        "object True True",
        "object False False",
        "object True False",
        "object False False",
        "unknown False False",
    ], done.stderr


@needs_root
def test_a_read_only_file_system_gives_no_right_to_write(open_tmp: Path) -> None:
    [found] = observe(("/proc/version", RW), caller=SOMEBODY)
    assert (found.readable, found.writable) == (True, False)
