"""Facts that hold until the next boot: found out once, and believed only from ourselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.linux import boot_cache
from backends.linux.boot_cache import cached
from tests.conftest import User

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]


class Question:
    """Counts how often it is asked."""

    def __init__(self, answer: str = "found out") -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self.answer


def ask(folder: Path, answer: str = "found out") -> tuple[str, bool]:
    """The answer, and whether it had to be found out."""
    question = Question(answer)
    text = cached("fact", question, folder=str(folder))
    return text, question.asked == 1


def test_a_fact_is_found_out_once(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "boot"
    assert ask(folder, "several\nlines \n") == ("several\nlines \n", True)
    assert ask(folder, "another") == ("several\nlines \n", False)
    assert [path.name for path in folder.iterdir()] == ["fact"], "nothing half is left"


def test_an_empty_answer_is_an_answer(tmp_path: Path) -> None:
    assert ask(tmp_path, "") == ("", True)
    assert ask(tmp_path, "another") == ("", False)


def test_facts_have_their_names(tmp_path: Path) -> None:
    cached("one", Question("1"), folder=str(tmp_path))
    assert cached("two", Question("2"), folder=str(tmp_path)) == "2"
    assert cached("one", Question("3"), folder=str(tmp_path)) == "1"


def another_boot(fact: Path) -> None:
    text = fact.read_text().partition("\n")[2]
    fact.write_text(f"00000000-0000-4000-8000-000000000000\n{text}")


def group_writable(fact: Path) -> None:
    fact.chmod(0o664)


def world_writable(fact: Path) -> None:
    fact.chmod(0o646)


def linked(fact: Path) -> None:
    fact.rename(fact.with_name("elsewhere"))
    fact.symlink_to("elsewhere")


def emptied(fact: Path) -> None:
    fact.write_text("")


@pytest.mark.parametrize("change", [another_boot, group_writable, world_writable, linked, emptied])
def test_what_may_be_wrong_is_found_out_again(change: Callable[[Path], None], tmp_path: Path) -> None:
    ask(tmp_path)
    change(tmp_path / "fact")
    assert ask(tmp_path, "now") == ("now", True)
    assert ask(tmp_path) == ("now", False), "and kept again"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_somebody_elses_word_is_not_taken(tmp_path: Path) -> None:
    ask(tmp_path)
    os.chown(tmp_path / "fact", 12345, 12345)
    assert ask(tmp_path, "now") == ("now", True)


def test_without_a_place_each_asks_for_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        assert ask(tmp_path / "file" / "folder", "still") == ("still", True)


def test_a_user_without_a_directory_of_his_own_asks_each_time(as_user: User) -> None:
    source = "from backends.linux.boot_cache import cached; print(cached('fact', lambda: input()))"
    for runtime in ("", "/proc/1", "relative"):
        for answer in ("one", "two"):
            told = as_user(source, stdin=answer, env={"XDG_RUNTIME_DIR": runtime})
            assert told.stdout == f"{answer}\n", told.stderr


def test_a_user_keeps_facts_in_his_run_time_directory(as_user: User) -> None:
    source = "from backends.linux.boot_cache import cached; print(cached('fact', lambda: input()))"
    env = {"XDG_RUNTIME_DIR": str(as_user.home)}
    assert [as_user(source, stdin=text, env=env).stdout for text in ("one", "two")] == ["one\n", "one\n"]


def test_nothing_is_kept_where_the_boot_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_cache, "_BOOT_ID", str(tmp_path / "missing"))
    assert ask(tmp_path, "one") == ("one", True)
    assert ask(tmp_path, "two") == ("two", True)
    assert list(tmp_path.iterdir()) == []
