"""Landlock rules, as the launcher applies them on this kernel."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.frozen import replace
from backends.inside.protocol import LandlockPath, LandlockRules, Started, Step
from backends.linux import landlock
from tests.unit.launching import Finished, inside_spec, run_inside, start_inside

ABI = landlock.abi()
pytestmark = pytest.mark.skipif(ABI < 6, reason="the kernel's Landlock is older than interface 6")


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two directories that everybody may write to: one granted, one not."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    granted, other = tmp_path / "granted", tmp_path / "other"
    for folder in (granted, other):
        folder.mkdir()
        (folder / "sub").mkdir()
        (folder / "file").write_text("content\n")
        for path in (folder, folder / "sub", folder / "file"):
            path.chmod(0o777)
    yield granted, other


def rules(*writable: Path) -> LandlockRules:
    made = landlock.rules(landlock.NEWEST_ABI, [str(path) for path in writable])
    assert made is not None
    return made


def run(script: str, wanted: LandlockRules) -> Finished:
    return run_inside("sh", "-c", script, landlock=wanted)


def test_everything_can_be_read_and_only_granted_trees_written(trees: tuple[Path, Path]) -> None:
    granted, other = trees
    script = "cat file && echo x > new && mkdir d && ln -s a b && mkfifo p && rm new && mv file sub/"
    assert (
        run(f"cd {granted}; {script} && true > sub/file && echo done", rules(granted)).stdout
        == b"content\ndone\n"
    )
    assert list((granted / "sub").iterdir()) == [granted / "sub/file"]
    refused = run(
        f"cd {other}; cat file; true > new; mkdir d; ln -s a b; mkfifo p; rm file; true > file; true >> file",
        rules(granted),
    )
    assert refused.stdout == b"content\n"
    assert len(refused.stderr.splitlines()) == 7
    assert sorted(path.name for path in other.iterdir()) == ["file", "sub"]
    assert (other / "file").read_text() == "content\n"


def test_files_do_not_move_out_of_a_granted_tree(trees: tuple[Path, Path]) -> None:
    granted, other = trees
    script = f"import os; os.rename('{granted}/file', '{other}/sub/file')"
    moved = run_inside("python3", "-c", script, landlock=rules(granted))
    assert b"Error" in moved.stderr
    assert (granted / "file").exists()


def test_the_abi_in_use_is_reported(trees: tuple[Path, Path]) -> None:
    assert run("true", rules(trees[0])).messages[0] == Started(landlock_abi=ABI)
    assert run_inside("true").messages[0] == Started(landlock_abi=0)


def test_a_kernel_older_than_demanded_is_refused(trees: tuple[Path, Path]) -> None:
    wanted = replace(rules(trees[0]), minimum_abi=ABI + 1)
    failure = run("true", wanted).failure
    assert (failure.step, failure.errno, failure.index) == (Step.LANDLOCK, errno.EOPNOTSUPP, ABI)


def test_a_missing_path_is_an_error_unless_it_is_optional(trees: tuple[Path, Path]) -> None:
    granted, _ = trees
    missing = LandlockPath(str(granted / "missing"), landlock.READ)
    known = rules(granted)
    position = len(known.paths)
    failed = run("true", replace(known, paths=(*known.paths, missing))).failure
    assert (failed.step, failed.errno, failed.index) == (Step.LANDLOCK_PATH, errno.ENOENT, position)
    assert run("true", replace(known, paths=(*known.paths, replace(missing, optional=True)))).exit_code == 0


def test_a_single_file_can_be_writable(trees: tuple[Path, Path]) -> None:
    granted, _ = trees
    refused = run(f"cd {granted}; true > file; true > sub/file; rm file", rules(granted / "file"))
    assert (granted / "file").read_text() == ""
    assert len(refused.stderr.splitlines()) == 2


def test_process_1_is_out_of_reach_of_signals(trees: tuple[Path, Path]) -> None:
    assert run("kill -0 1 && echo reached", replace(rules(trees[0]), scoped=0)).stdout == b"reached\n"
    refused = run("kill -0 1 && echo reached; kill -0 $$ && echo own", rules(trees[0]))
    assert refused.stdout == b"own\n"


def test_abstract_sockets_of_others_are_out_of_reach(trees: tuple[Path, Path]) -> None:
    name = f"mxc-landlock-{os.getpid()}"
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}'); print('reached')"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        server.listen()
        reached = run_inside("python3", "-c", connect, landlock=replace(rules(trees[0]), scoped=0))
        refused = run_inside("python3", "-c", connect, landlock=rules(trees[0]))
    assert reached.stdout == b"reached\n"
    assert b"PermissionError" in refused.stderr


def test_standard_output_can_be_opened_again_when_it_is_a_file_of_the_host(trees: tuple[Path, Path]) -> None:
    _, other = trees
    with (other / "file").open("w") as file:
        spec = inside_spec(
            "sh", "-c", "echo one > /dev/stdout; echo two >> /proc/self/fd/1", landlock=rules()
        )
        with start_inside(spec, stdout=file.fileno()) as launch:
            run = launch.finish()
    assert (run.stderr, (other / "file").read_text()) == (b"", "one\ntwo\n")


def test_devices_work(trees: tuple[Path, Path]) -> None:
    run = run_inside("sh", "-c", "echo x > /dev/null && head -c 3 /dev/zero | wc -c", landlock=rules())
    assert run.stdout == b"3\n"


@pytest.mark.parametrize(
    ("abi", "handled"),
    [(1, 0x1FFF), (2, 0x3FFF), (3, 0x7FFF), (4, 0x7FFF), (5, 0xFFFF), (6, 0xFFFF), (7, 0xFFFF)],
)
def test_rules_ask_for_no_more_than_an_interface_has(abi: int, handled: int) -> None:
    made = landlock.rules(abi, ["/w"])
    assert made is not None
    assert made.handled_fs == handled
    assert made.scoped == (3 if abi >= 6 else 0)
    assert all(path.access & ~handled == 0 for path in made.paths)


def test_without_landlock_there_are_no_rules_unless_it_is_demanded() -> None:
    assert landlock.rules(0, ["/w"]) is None
    assert landlock.rules(0, ["/w"], minimum_abi=1) is not None
