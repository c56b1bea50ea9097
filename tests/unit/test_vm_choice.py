"""Which accelerator and machine type a run gets, tried out once per boot of the host and build of QEMU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.errors import BackendUnavailable, PolicyRefused
from backends.frozen import replace
from backends.linux import boot_cache
from backends.qemu import choice
from backends.qemu.choice import QemuProgram, accelerator_verdict, choose_accelerator, choose_kind
from backends.qemu.machine import MachineKind
from backends.qemu.tiny_guest import ANSWER

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

# Answers as QEMU would whose accelerators are named in the file `works` beside it, and counts its starts.
FAKE_QEMU = f"""#!/bin/sh
here="${{0%/*}}"
echo "$*" >> "$here/starts"
case "$*" in *"-machine help"*) cat "$here/machines"; exit 0 ;; esac
while [ "$1" != -accel ]; do shift; done
if grep -qx "$2" "$here/works"; then exit {ANSWER}; fi
echo "qemu: -accel $2: not on this host" >&2
exit 1
"""


class FakeQemu:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "qemu"
        path.write_text(FAKE_QEMU)
        path.chmod(0o755)
        self.program = QemuProgram(str(path), "build-1")
        self.has(works=("tcg",))

    def has(self, *, works: tuple[str, ...] = (), machines: tuple[str, ...] = ("microvm", "q35")) -> None:
        (self.folder / "works").write_text("".join(f"{name}\n" for name in works))
        listed = "".join(f"{name:<20} something\n" for name in machines)
        (self.folder / "machines").write_text(f"Supported machines are:\n{listed}")

    @property
    def tried(self) -> list[str]:
        """The accelerators that were tried out, in order."""
        lines = (self.folder / "starts").read_text().splitlines()
        return [line.split("-accel ")[1].split()[0] for line in lines if "-accel" in line]


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQemu:
    monkeypatch.setattr(boot_cache, "RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return FakeQemu(tmp_path)


def test_an_accelerator_that_is_asked_for_and_does_not_work_is_refused(qemu: FakeQemu) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        choose_accelerator(qemu.program, "kvm", "/mxcOps/vm/accel")
    problem = caught.value.problems[0]
    assert (problem.code, problem.path) == ("accelerator_does_not_work", "/mxcOps/vm/accel")
    assert "kvm: QEMU ended with 1" in problem.message
    assert "not on this host" in problem.message
    assert "mxc-ops doctor" in problem.fix
    assert qemu.tried == ["kvm"], "nothing else is taken instead"


def test_what_works_is_taken_at_its_word(qemu: FakeQemu) -> None:
    qemu.has(works=("tcg", "kvm"))
    assert choose_accelerator(qemu.program, "tcg", "") == "tcg"
    assert choose_accelerator(qemu.program, "kvm", "") == "kvm"


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm cannot be opened here")
def test_a_kvm_that_opens_and_does_not_work_is_passed_over(qemu: FakeQemu) -> None:
    assert choose_accelerator(qemu.program, "", "") == "tcg"
    assert qemu.tried == ["kvm", "tcg"]


def test_a_host_that_carries_no_guest_says_why(qemu: FakeQemu) -> None:
    qemu.has(works=())
    with pytest.raises(BackendUnavailable) as caught:
        choose_accelerator(qemu.program, "", "/mxcOps/vm/accel")
    problem = caught.value.problems[0]
    assert problem.path == "", "nobody asked for one"
    assert "tcg: QEMU ended with 1" in problem.message
    assert "mxc-ops prep host" in problem.fix


def test_a_verdict_is_kept_for_this_boot_and_this_build(qemu: FakeQemu) -> None:
    verdicts = [accelerator_verdict(qemu.program, "tcg") for _ in range(3)]
    assert qemu.tried == ["tcg"]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert verdicts[0].works
    accelerator_verdict(replace(qemu.program, build="build-2"), "tcg")
    assert qemu.tried == ["tcg", "tcg"]
    accelerator_verdict(qemu.program, "kvm")
    assert qemu.tried == ["tcg", "tcg", "kvm"]


def test_a_bad_verdict_is_kept_with_its_reason(qemu: FakeQemu) -> None:
    first, second = (accelerator_verdict(qemu.program, "kvm") for _ in range(2))
    assert qemu.tried == ["kvm"]
    assert first == second
    assert "not on this host" in second.why


def test_a_verdict_does_not_outlive_the_boot(qemu: FakeQemu, tmp_path: Path) -> None:
    accelerator_verdict(qemu.program, "tcg")
    (kept,) = (path for path in (tmp_path / "run").rglob("tcg-*"))
    kept.write_text(kept.read_text().replace("-", "0", 1))
    accelerator_verdict(qemu.program, "tcg")
    assert qemu.tried == ["tcg", "tcg"]


def test_microvm_is_taken_where_it_is(qemu: FakeQemu) -> None:
    assert choose_kind(qemu.program, "", "") is MachineKind.MICROVM
    assert choose_kind(qemu.program, "q35", "") is MachineKind.Q35


def test_a_qemu_without_microvm_gives_q35_and_refuses_what_it_has_not(qemu: FakeQemu) -> None:
    qemu.has(works=("tcg",), machines=("pc", "q35"))
    assert choose_kind(qemu.program, "", "") is MachineKind.Q35
    with pytest.raises(PolicyRefused) as caught:
        choose_kind(qemu.program, "microvm", "/mxcOps/vm/machine")
    problem = caught.value.problems[0]
    assert (problem.code, problem.path) == ("machine_not_available", "/mxcOps/vm/machine")
    assert problem.expected == "q35"


def test_a_host_without_qemu_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found() -> None:
        return None

    monkeypatch.setattr(choice, "find_qemu", not_found)
    with pytest.raises(BackendUnavailable) as caught:
        choice.observe_qemu()
    assert caught.value.problems[0].code == "qemu_missing"
    assert "mxc-ops prep host" in caught.value.fix


def test_another_build_of_qemu_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "qemu"
    path.write_text("one")
    monkeypatch.setattr(choice, "find_qemu", lambda: str(path))
    first = choice.observe_qemu()
    assert choice.observe_qemu() == first
    path.rename(tmp_path / "old")
    path.write_text("two")
    os.utime(path, ns=(0, (tmp_path / "old").stat().st_mtime_ns))
    assert choice.observe_qemu().build != first.build
