"""The system that a container's root is to be: how it is asked for, and which image has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import SandboxRequest
from backends.errors import BackendUnavailable, ConfigError, PolicyRefused
from backends.registry import get
from mxc_ops import Policy, System
from mxc_ops.config.request import build_request
from mxc_ops.image_lookup import with_image
from mxc_ops.policy.features import check_features
from tests.unit.documents import loaded
from tests.unit.image_stores import add, only
from vm_images import store as image_store

DEBIAN = System("debian", ("bookworm", "12"))
NAMES = st.from_regex("[a-z0-9][a-z0-9._-]{0,30}", fullmatch=True)


def request(containment: str = "lxc", **section: Any) -> SandboxRequest:
    fields = {"lxc": section} if section else {}
    return build_request(loaded(version="0.8.0-alpha", containment=containment, **fields))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "images"
    only(monkeypatch, place)
    return place


def test_what_a_document_asks_for_arrives() -> None:
    assert request().system == System()
    assert request(distribution="alpine", release="3.20").system == System("alpine", ("3.20",))
    assert request(distribution="Debian", release="Bookworm").system == System("debian", ("bookworm",))
    assert request(distribution=None, release=None).system == System()


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ({"distribution": "debian"}, "/lxc/release"),
        ({"release": "bookworm"}, "/lxc/distribution"),
        ({"distribution": "debian", "release": "a b"}, "/lxc/release"),
        ({"distribution": "../names", "release": "12"}, "/lxc/distribution"),
        ({"distribution": "d" * 40, "release": "12"}, "/lxc/distribution"),
    ],
)
def test_half_a_system_and_what_can_be_no_name_are_refused(section: dict[str, str], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        request(**section)
    (problem,) = caught.value.problems
    assert problem.path == place
    assert problem.expected


@given(NAMES, NAMES)
def test_a_policy_and_a_document_say_the_same(distribution: str, release: str) -> None:
    policy = Policy(containment="lxc", system=System(distribution, (release,)))
    document = policy.as_config("true")
    assert document["lxc"] == {"distribution": distribution, "release": release}
    assert build_request(loaded(**document)).system == policy.request("true").system
    assert Policy.from_config(json.dumps(document).encode()).system == policy.system


@pytest.mark.parametrize("system", ["debian", System("debian"), System("", ("12",)), DEBIAN])
def test_a_policy_names_one_distribution_and_one_release(system: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Policy(containment="lxc", system=system)
    assert caught.value.problems[0].path.startswith("system")


def test_only_containers_have_a_system_to_choose() -> None:
    asked = Policy(containment="bubblewrap", system=System("debian", ("12",))).request("true")
    with pytest.raises(PolicyRefused) as caught:
        check_features(asked, get("bubblewrap").capabilities)
    assert "debian 12" in caught.value.problems[0].message


@pytest.mark.parametrize("release", ["bookworm", "12"])
def test_the_image_of_containers_is_found_by_each_name_of_its_release(folder: Path, release: str) -> None:
    key = add(folder, "base", system=DEBIAN)
    found = with_image(request(distribution="debian", release=release)).image
    assert found is not None
    assert (found.key, found.system) == (key, DEBIAN)


def test_without_a_system_it_is_the_image_of_containers_whatever_that_is(folder: Path) -> None:
    key = add(folder, "base", system=System("other", ("1",)))
    found = with_image(request()).image
    assert found is not None and found.key == key


def test_another_system_is_the_image_of_its_name(folder: Path) -> None:
    add(folder, "base", system=DEBIAN)
    key = add(folder, "alpine-3.20", memory_mib=200, system=System("alpine", ("3.20",)))
    found = with_image(request(distribution="Alpine", release="3.20")).image
    assert found is not None and found.key == key


@pytest.mark.parametrize(
    ("there", "wanted", "seen", "fix"),
    [
        ({}, ("debian", "trixie"), "no image on this host is debian trixie", "image build base"),
        ({"base": System()}, ("debian", "trixie"), "a system that it does not tell", "image build base"),
        ({"base": DEBIAN}, ("debian", "trixie"), "'base' is debian bookworm", "download debian trixie"),
        ({"base": DEBIAN}, ("alpine", "3.20"), "'base' is debian bookworm", "download alpine 3.20"),
        ({}, ("alpine", "3.20"), "no image on this host is alpine 3.20", "download alpine 3.20"),
        ({"alpine-3.20": DEBIAN}, ("alpine", "3.20"), "'alpine-3.20' is debian", "download alpine 3.20"),
        ({"debian-13": System("debian", ("14",))}, ("debian", "13"), "'debian-13' is", "download debian 13"),
    ],
)
def test_an_image_of_another_system_is_never_taken_for_it(
    folder: Path, there: dict[str, System], wanted: tuple[str, str], seen: str, fix: str
) -> None:
    for name, system in there.items():
        add(folder, name, system=system)
    with pytest.raises(BackendUnavailable) as caught:
        with_image(request(distribution=wanted[0], release=wanted[1]))
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("no_image", "/lxc")
    assert seen in problem.message
    assert problem.fix == f"mxc-ops {fix}" if fix.startswith("image") else f"mxc-ops image {fix}"


@pytest.mark.parametrize(
    "told",
    [None, 7, "debian", ["debian"], {"distribution": "debian"}, {"distribution": 1, "releases": ["12"]}],
)
def test_a_manifest_that_tells_it_in_another_way_tells_nothing(folder: Path, told: Any) -> None:
    key = add(folder, "base", system=DEBIAN)
    manifest = folder / key / "image.json"
    content = json.loads(manifest.read_text())
    content["inputs"]["system"] = told
    manifest.write_text(json.dumps(content))
    assert image_store.find_image("base").system == System()
