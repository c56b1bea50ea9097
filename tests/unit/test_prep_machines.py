"""Which hosts can have which backends: by system and by machine, each backend judged by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends import registry
from backends.needs import FEATURES, Need, NeedKind
from mxc_ops.prep.choices import Choices
from mxc_ops.prep.items import WINDOWS, HostFacts, items_for, needs_of, unsupported

DEBIAN = HostFacts("@local", "Debian GNU/Linux 12", "debian", "root")
WINDOWS_11 = HostFacts("@mxcwin/desk", "Windows 11 Pro", "", "administrator", system=WINDOWS)
ONE_MACHINE = ("microvm", "vm", "hyperlight")


def codes(*backends: str, on: HostFacts) -> str:
    trouble = unsupported(needs_of(Choices(backends)), on)
    return trouble.code if trouble else ""


@pytest.mark.parametrize("backend", ONE_MACHINE)
def test_what_is_for_one_machine_is_refused_on_another(backend: str) -> None:
    arm = replace(DEBIAN, machine="aarch64")
    assert codes(backend, on=DEBIAN) == ""
    trouble = unsupported(needs_of(Choices((backend,))), arm)
    assert trouble is not None
    assert (trouble.code, trouble.path) == ("unsupported_machine", "@local")
    assert trouble.message == f"{backend} exists on x86_64 only, and this is aarch64"
    assert "--backend" in trouble.fix


@pytest.mark.parametrize("backend", ONE_MACHINE)
def test_no_feature_makes_it_exist_on_another_machine(backend: str) -> None:
    needs = needs_of(Choices((backend,), FEATURES))
    assert unsupported(needs, replace(DEBIAN, machine="aarch64")) is not None
    assert items_for(needs, replace(DEBIAN, machine="aarch64"), Choices((backend,))) == ()


def test_hyperlight_exists_on_both_systems_and_one_machine() -> None:
    assert codes("hyperlight", on=WINDOWS_11) == ""
    assert codes("hyperlight", on=replace(WINDOWS_11, machine="aarch64")) == "unsupported_machine"


@pytest.mark.parametrize("backend", ["bubblewrap", "lxc"])
def test_what_is_for_every_machine_is_refused_on_none(backend: str) -> None:
    assert codes(backend, on=replace(DEBIAN, machine="riscv64")) == ""


@pytest.mark.parametrize("backends", [("windows_sandbox", "lxc"), ("lxc", "windows_sandbox")])
def test_a_backend_that_cannot_exist_here_is_not_dropped_for_another_that_can(
    backends: tuple[str, ...],
) -> None:
    trouble = unsupported(needs_of(Choices(backends)), DEBIAN)
    assert trouble is not None
    assert trouble.code == "unsupported_system"
    assert trouble.message == "windows_sandbox exists on windows only, and this is Debian GNU/Linux 12"
    assert "--backend" in trouble.fix
    assert codes(*backends, on=WINDOWS_11) == "unsupported_system"


@pytest.mark.parametrize("backends", [("lxc", "microvm"), ("microvm", "lxc")])
def test_nor_is_one_of_another_machine(backends: tuple[str, ...]) -> None:
    assert codes(*backends, on=DEBIAN) == ""
    assert codes(*backends, on=replace(DEBIAN, machine="aarch64")) == "unsupported_machine"


def test_only_what_the_machine_can_have_becomes_an_item() -> None:
    everywhere = Need("some.directory", NeedKind.DIRECTORY, "kept here", data={"path": "/srv/some"})
    needs = (everywhere, replace(everywhere, identifier="some.other", machines=("x86_64",)))
    arm = replace(DEBIAN, machine="aarch64")
    assert unsupported(needs, arm) is None
    assert [item.identifier for item in items_for(needs, arm, Choices(()))] == ["some.directory"]
    assert [item.identifier for item in items_for(needs, DEBIAN, Choices(()))] == [
        "some.directory",
        "some.other",
    ]


def test_needs_are_called_after_their_backend() -> None:
    # `unsupported` tells backends apart by it.
    for name in registry.preparable():
        for need in needs_of(Choices((name,), FEATURES)):
            assert need.identifier.startswith(f"{name}."), need.identifier
