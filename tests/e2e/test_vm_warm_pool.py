"""`WarmPool`: runs take machines that wait, and nothing about them shows that they did."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mxc_ops import ConfigError, Limits, Outcome, Policy, Result, VirtualMachine, WarmPool, run
from tests.e2e.commands import children
from tests.images import image

pytestmark = pytest.mark.backend("vm")

PLAIN = Policy(containment="vm")
IDENTITY = "cat /proc/sys/kernel/random/uuid /etc/machine-id; uname -n"


@pytest.fixture(scope="module", autouse=True)
def base_image() -> None:
    image("base")


@pytest.fixture
def pool() -> Iterator[WarmPool]:
    with WarmPool(PLAIN, size=1) as made:
        yield made


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def waited(result: Result) -> bool:
    """Whether it took a machine of the pool: then none was started for it."""
    steps = [step for step, _ in result.timings]
    assert ("acquired" in steps) is not ("spawned" in steps)
    return "acquired" in steps


def test_a_policy_is_applied_to_the_machine_that_was_taken(pool: WarmPool, tmp_path: Path) -> None:
    """All of it came after the machine was made, for which nobody had any policy."""
    tmp_path.chmod(0o755)
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"{name}\n")
    (tmp_path / "ro" / "secret").write_text("secret\n")
    policy = PLAIN.replace(
        read_only=[tmp_path / "ro"],
        read_write=[tmp_path / "rw"],
        denied=[tmp_path / "ro" / "secret"],
        env={"A": "b", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        limits=Limits(open_files=64),
        timeout_s=100,
    )
    line = "cat ro/file rw/file; ls ro; echo $A; ulimit -n; echo new > rw/file; cat; echo oops >&2; exit 3"
    warm = run(policy, line, input=b"in")
    assert waited(warm)
    assert (tmp_path / "rw" / "file").read_text() == "new\n"
    (tmp_path / "rw" / "file").write_text("rw\n")
    pool.close()
    cold = run(policy, line, input=b"in")
    assert not waited(cold)
    assert warm.stdout == cold.stdout == b"ro\nrw\nfile\nb\n64\nin"
    assert warm.stderr == cold.stderr == b"oops\n"
    assert (warm.exit_code, warm.outcome) == (cold.exit_code, cold.outcome) == (3, Outcome.EXITED)
    assert (warm.limits, warm.enforced, warm.conflicts) == (cold.limits, cold.enforced, cold.conflicts)
    assert warm.provenance == cold.provenance


def test_each_run_has_a_machine_of_its_own(pool: WarmPool) -> None:
    """Also more of them at once than are ready; and what one leaves behind, no other finds."""
    leave = "cat /tmp/left /dev/shm/left 2>&1 | grep -c mine; echo mine | tee /tmp/left > /dev/shm/left"
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(run, [PLAIN] * 4, [f"{IDENTITY}; {leave}"] * 4))
    seen = [result.check().stdout.decode().split() for result in results]
    assert all(len({*column}) == len(seen) for column in list(zip(*seen, strict=True))[:3])
    assert [facts[3] for facts in seen] == ["0"] * 4


def test_another_machine_is_not_taken_from_it(pool: WarmPool) -> None:
    assert not waited(run(PLAIN.replace(vm=VirtualMachine(memory_mib=160)), "true"))
    assert waited(run(PLAIN, "true"))


def test_closing_ends_what_waits() -> None:
    run(PLAIN, "true")
    before = children()
    descriptors = open_descriptors()
    with WarmPool(PLAIN, size=2) as pool:
        assert len(children() - before) == 2
    pool.close()
    assert children() <= before
    assert open_descriptors() <= descriptors


def test_what_cannot_be_kept_ready_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        WarmPool(Policy(containment="bubblewrap"), 1)
    assert caught.value.problems[0].code == "no_pool"
    with pytest.raises(ConfigError) as caught:
        WarmPool(PLAIN, 0)
    assert caught.value.problems[0].code == "pool_size"
