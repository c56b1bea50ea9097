"""The page about `mxcOps` names what there is, and nothing else; so does the one about machines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mxc_ops.config.extension import SHAPES
from mxc_ops.config.loader import load
from mxc_ops.config.request import build_request
from mxc_ops.policy.machine import COMMANDS, VM_RANGES


def _first_column(text: str) -> set[str]:
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_field_has_its_row(checkout: Path) -> None:
    page = (checkout / "docs/config.md").read_text()
    ours, _, rest = page.partition("`vm` has these fields")
    of_vm, _, rest = rest.partition("`network` has these fields")
    of_network, _, rest = rest.partition("Each entry of `names`")
    of_name, _, of_mapping = rest.partition("Each entry of `portMappings`")
    assert _first_column(ours) == SHAPES["MxcOps"].keys()
    assert _first_column(of_vm) == SHAPES["MxcOpsVm"].keys()
    assert _first_column(of_network) == SHAPES["MxcOpsNetwork"].keys()
    assert _first_column(of_name) == SHAPES["MxcOpsName"].keys()
    assert _first_column(of_mapping) == SHAPES["MxcOpsPortMapping"].keys()
    limits = next(line for line in ours.splitlines() if line.startswith("| `limits`"))
    assert set(re.findall(r"`(\w+)`", limits)) == {"limits", *SHAPES["MxcOpsLimits"]}


@pytest.mark.parametrize("name", VM_RANGES)
@pytest.mark.parametrize("page", ["config.md", "virtual-machines.md"])
def test_the_ranges_are_the_ones_that_hold(checkout: Path, page: str, name: str) -> None:
    least, greatest = VM_RANGES[name]
    row = re.search(rf"^\| `{name}`.*$", (checkout / "docs" / page).read_text(), re.MULTILINE)
    assert row is not None and f"{least} to {greatest}" in row[0]


def test_the_page_about_machines_speaks_of_every_kind_of_command_and_its_config_is_valid(
    checkout: Path,
) -> None:
    page = (checkout / "docs/virtual-machines.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `command`"))
    assert all(f"`{kind}`" in row for kind in COMMANDS)
    config = json.loads(re.findall(r"^```json\n(\{.*?)^```", page, re.MULTILINE | re.DOTALL)[0])
    assert load(json.dumps(config).encode()).warnings == ()


def test_the_example_of_a_network_holds(checkout: Path) -> None:
    page = (checkout / "docs/config.md").read_text()
    examples = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 1
    network = build_request(load(examples[0].encode()), platform="linux").network
    assert [rule.pattern for rule in network.names] == ["*.example.test"]
    assert (len(network.allow), len(network.mappings)) == (1, 2)
