"""Upstream's own files: 71 contract fixtures with their verdicts, and the examples that users start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backends.errors import ConfigError
from mxc_ops.config.document import Strictness
from mxc_ops.config.loader import load

REFUSED_EXAMPLES: dict[str, str] = {}
"""Examples that are refused by default, with the rule of the spec that says so: none is."""


def _fixtures(shared_dir: Path) -> Iterator[tuple[Path, bool, bool]]:
    """Each fixture with its verdict and whether its contract is of one-shot requests only."""
    root = shared_dir / "mxc-samples" / "contract-fixtures"
    for file in sorted(root.rglob("*.json")):
        contract, *folders = file.relative_to(root).parts
        yield file, "valid" in folders, contract != "v0_8_0_alpha" or "one_shot" in folders


def _loads(file: Path, *, one_shot_only: bool) -> bool:
    try:
        load(file.read_bytes(), strictness=Strictness.CONTRACT, one_shot_only=one_shot_only)
    except ConfigError:
        return False
    return True


def test_every_contract_fixture_has_the_verdict_that_upstream_states(shared_dir: Path) -> None:
    fixtures = list(_fixtures(shared_dir))
    wrong = [
        str(file) for file, valid, one_shot in fixtures if _loads(file, one_shot_only=one_shot) is not valid
    ]
    assert len(fixtures) == 71
    assert wrong == []


def test_every_example_loads_by_default(shared_dir: Path) -> None:
    examples = sorted((shared_dir / "mxc-samples" / "examples").glob("*.json"))
    refused: dict[str, str] = {}
    for file in examples:
        try:
            load(file.read_bytes())
        except ConfigError as error:
            refused[file.name] = str(error)
    assert len(examples) == 33
    assert refused == REFUSED_EXAMPLES


def test_an_example_that_outgrew_its_version_loads_with_a_warning(shared_dir: Path) -> None:
    source = (shared_dir / "mxc-samples" / "examples" / "wslc_hello_world.json").read_bytes()
    warnings = load(source).warnings
    assert [warning.path for warning in warnings] == ["/containment", "/experimental"]
    assert all("0.6.0-alpha" in warning.message for warning in warnings)
