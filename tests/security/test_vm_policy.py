"""What only machines do with a policy: copies that meet changes of the host, sizes, steps that are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mxc_ops import Limits, Policy, PolicyRefused, Result, VirtualMachine, run
from tests.images import image

pytestmark = pytest.mark.backend("vm")

STEPS = ("spawned", "qmpUp", "restored", "agentReady", "started", "firstByte", "exit", "filesBack")


@pytest.fixture(scope="module", autouse=True)
def base_image() -> None:
    image("base")


@pytest.fixture
def rw(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    folder = tmp_path / "rw"
    folder.mkdir()
    for name in ("both", "ours", "theirs", "removed here", "removed there", "same"):
        (folder / name).write_text("old\n")
    return folder


def meanwhile(folder: Path, line: str, change: Callable[[], object]) -> Result:
    """Run `line` in the folder; the host makes its change after the copy was made."""
    first = [change]

    def act(_: bytes) -> None:
        if first:
            first.pop()()

    policy = Policy(containment="vm", read_write=[folder], cwd=folder)
    return run(policy, f"{line}; echo now; sleep 1", on_stdout=act)


def test_what_host_and_guest_both_changed_is_kept_twice_and_named(rw: Path) -> None:
    def change() -> None:
        for name in ("both", "ours", "removed there"):
            (rw / name).write_text("host\n")
        (rw / "same").write_text("guest\n")
        (rw / "removed here").unlink()
        (rw / "new").write_text("host\n")

    line = "echo guest | tee both theirs same 'removed here' new > /dev/null; rm 'removed there'"
    result = meanwhile(rw, line, change)
    assert result.exit_code == 0
    texts = {path.name: path.read_text() for path in rw.iterdir()}
    kept = {Path(conflict.path).name: Path(conflict.kept_as) for conflict in result.conflicts}
    assert texts["both"] == texts["ours"] == texts["new"] == "host\n"
    assert texts["theirs"] == "guest\n"
    assert {"both", "new"} <= kept.keys()
    for name in ("both", "new"):
        assert kept[name].read_text() == "guest\n"
        assert kept[name].parent == rw
        assert kept[name].name.startswith(f"{name}.mxc-guest-")
    assert texts["removed there"] == "host\n", "what the host changed is not removed"
    assert any(path.read_text() == "guest\n" for path in rw.iterdir() if path.name.startswith("removed here"))
    assert {conflict.pointer for conflict in result.conflicts} == {"read_write[0]"}
    assert [entry["path"] for entry in result.as_dict()["conflicts"]] == [c.path for c in result.conflicts]


def test_a_grant_that_is_replaced_meanwhile_gets_nothing_of_the_guest(rw: Path) -> None:
    """A symlink in its place must not lead the copy elsewhere."""
    elsewhere = rw.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "both").write_text("precious\n")

    def change() -> None:
        rw.rename(rw.parent / "moved")
        rw.symlink_to(elsewhere)

    try:
        meanwhile(rw, "echo guest > both; echo guest > new", change)
    except Exception as error:
        assert "rw" in str(error)
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {"both": "precious\n"}


def test_more_than_a_machine_is_handed_is_refused_by_name(rw: Path) -> None:
    """Counted with its holes: in a copy there are none."""
    with (rw / "hole").open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(PolicyRefused) as caught:
        run(Policy(containment="vm", read_write=[rw]), "true")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("grant_too_large", "read_write[0]")
    assert problem.fix
    assert run(Policy(containment="vm", read_only=[rw]), f"wc -c < {rw}/hole").stdout == b"%d\n" % (2 << 30)


def test_what_a_machine_needs_itself_cannot_be_granted() -> None:
    reserved = ["/usr", "/usr/lib", "/etc", "/bin", "/etc/passwd", "/etc/hosts"]
    with pytest.raises(PolicyRefused) as caught:
        run(Policy(containment="vm", read_only=reserved), "true")
    codes = {problem.code for problem in caught.value.problems}
    assert codes == {"guest_path_reserved"}
    assert {problem.path for problem in caught.value.problems} <= {f"read_only[{n}]" for n in range(6)}


def test_more_memory_than_the_machine_has_is_refused() -> None:
    policy = Policy(containment="vm", vm=VirtualMachine(memory_mib=160), limits=Limits(memory_mib=200))
    with pytest.raises(PolicyRefused) as caught:
        run(policy, "true")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("memory_beyond_machine", "/mxcOps/limits/memoryMib")


def test_no_name_of_a_module_starts_a_program_of_the_machines_root() -> None:
    """A socket of a family that is not there would have the kernel start modprobe."""
    result = run(Policy(containment="vm"), "cat /proc/sys/kernel/modprobe")
    assert (result.exit_code, result.stdout) == (0, b"\n")


def test_the_steps_of_a_run_are_told_in_order(rw: Path) -> None:
    result = run(Policy(containment="vm", read_write=[rw]), "sleep 0.2; echo out")
    names = [name for name, _ in result.timings]
    times = [ms for _, ms in result.timings]
    assert [name for name in names if name in STEPS] == list(STEPS)
    assert times == sorted(times)
    assert list(result.as_dict()["timings"]) == names


@pytest.mark.parametrize("grace_s", [0.0, 5.0])
def test_a_command_whose_time_is_up_leaves_nothing_even_if_it_then_exits(rw: Path, grace_s: float) -> None:
    policy = Policy(containment="vm", read_write=[rw], cwd=rw, timeout_s=1, grace_s=grace_s)
    result = run(policy, "trap 'echo late > both; exit 0' TERM; echo guest > both; sleep 60 & wait")
    assert (result.exit_code, result.timed_out) == (124, True)
    assert (rw / "both").read_text() == "old\n"
