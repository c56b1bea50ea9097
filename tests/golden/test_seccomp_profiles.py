"""What each seccomp profile allows, as text: a change of policy shows as a difference to review.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.linux import seccomp

GOLDEN = Path(__file__).parent / "seccomp"


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_the_profile_is_the_one_reviewed(profile: str) -> None:
    golden = GOLDEN / f"{profile}.txt"
    text = seccomp.describe(profile)
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
