"""Hyperlight's native driver: with the installed packages as far as this host's hypervisor goes, then with others."""

from __future__ import annotations

import pytest

from backends.hyperlight.native.facts import NativeFacts
from tests.hyperlight_packages import with_the_real_guest
from tests.native_runs import facts_with, run

pytestmark = pytest.mark.backend("hyperlight")


@pytest.fixture(scope="module")
def real() -> NativeFacts:
    return facts_with(with_the_real_guest())


def test_x(real: NativeFacts) -> None:
    print(run(real, "print(1)"))
    assert 0
