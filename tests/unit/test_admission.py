"""A full host is told as one, with figures, before it swaps."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import BackendUnavailable
from backends.qemu.admission import MIB, admit, available_bytes

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

MACHINES = st.fixed_dictionaries(
    {
        "memory_mib": st.integers(96, 1 << 20),
        "whole": st.booleans(),
        "starting": st.integers(0, 100),
    }
)


def admitted(available: int, **machine: object) -> bool:
    try:
        admit(available=available, **machine)  # pyright: ignore[reportArgumentType]
    except BackendUnavailable:
        return False
    return True


def test_a_full_host_is_worth_another_try_and_says_how_full_it_is() -> None:
    with pytest.raises(BackendUnavailable) as caught:
        admit(512, whole=True, available=700 * MIB)
    assert caught.value.retryable
    assert caught.value.problems[0].code == "host_full"
    assert re.findall(r"\d+ MiB", str(caught.value.problems[0].message)) == ["512 MiB", "256 MiB", "700 MiB"]
    assert "mxcOps.vm.memoryMib" in caught.value.fix


def test_a_machine_that_fits_is_admitted() -> None:
    admit(512, whole=True, available=900 * MIB)
    admit(512, whole=False, available=700 * MIB)


@given(MACHINES, st.integers(0, 1 << 42))
def test_more_memory_never_turns_a_machine_away_and_a_bigger_one_never_fits_better(
    machine: dict[str, int], available: int
) -> None:
    if admitted(available, **machine):
        assert admitted(available + MIB, **machine)
        assert admitted(available, **{**machine, "whole": False})
        assert admitted(available, **{**machine, "memory_mib": machine["memory_mib"] - 1})
        assert admitted(available, **{**machine, "starting": max(0, machine["starting"] - 1)})


def test_each_machine_that_starts_takes_room() -> None:
    """What is promised to those that start cannot be promised again."""
    admit(512, whole=True, starting=0, available=900 * MIB)
    with pytest.raises(BackendUnavailable):
        admit(512, whole=True, starting=1, available=900 * MIB)


def test_a_host_that_does_not_tell_admits(monkeypatch: pytest.MonkeyPatch) -> None:
    def untold() -> None:
        return None

    monkeypatch.setattr("backends.qemu.admission.available_bytes", untold)
    admit(1 << 30, whole=True)


def test_what_is_available_is_read_from_this_host() -> None:
    available = available_bytes()
    assert available is not None
    assert MIB < available < 1 << 50
    with pytest.raises(BackendUnavailable):
        admit(2 * available // MIB, whole=True)
