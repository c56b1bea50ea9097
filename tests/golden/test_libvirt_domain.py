"""Domain XML is data: the same machine gives the same text, on any host.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.qemu.libvirt_domain import domain_xml
from tests.domains import CASES, MODELS, UUID

GOLDEN = Path(__file__).parent / "libvirt"


@pytest.mark.parametrize("name", CASES)
def test_the_definition_of_a_domain(name: str) -> None:
    xml = domain_xml(CASES[name], UUID, MODELS[name])
    file = GOLDEN / f"{name}.xml"
    if os.environ.get("MXC_UPDATE_GOLDEN") == "1":
        file.write_text(xml)
    assert xml == file.read_text()


def test_every_golden_file_is_of_a_case() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)
