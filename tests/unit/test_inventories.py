"""The inventories that people copy: each file loads, and asks of every host for what there is."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, cast

import pytest

from mxc_ops.prep.choices import PREFIX, Choices, choices_from
from mxc_ops.prep.items import LINUX, WINDOWS, HostFacts, items_for, needs_of, unsupported
from vm_images.sources import IMAGES

Data = dict[str, Any]

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = sorted(path.name for path in (CHECKOUT / "inventories").glob("*.py"))


def hosts_of(name: str) -> dict[str, Data]:
    """The data of every host, by its name.

    As pyinfra reads the file: a variable is a group, unless its name begins with an underscore; a group is a
    list of hosts or (hosts, data), a host a name or (name, data). A host's own data win over its groups',
    later groups' over earlier ones'.
    """
    of_groups: dict[str, Data] = {}
    own: dict[str, Data] = {}
    for variable, group in runpy.run_path(str(CHECKOUT / "inventories" / name)).items():
        if variable.startswith("_"):
            continue
        hosts, data = with_data(group)
        for host in hosts:
            title, more = with_data(host)
            of_groups.setdefault(title, {}).update(data)
            own.setdefault(title, {}).update(more)
    return {title: {**data, **own[title]} for title, data in of_groups.items()}


def with_data(entry: Any) -> tuple[Any, Data]:
    return cast("tuple[Any, Data]", entry) if isinstance(entry, tuple) else (entry, {})


def choices_of(data: Data) -> Choices:
    return choices_from({key.removeprefix(PREFIX): of for key, of in data.items() if key.startswith(PREFIX)})


def facts_of(title: str) -> HostFacts:
    if title.startswith("@mxcwin/"):
        return HostFacts(title, "Windows 11 Pro", "", "administrator", system=WINDOWS)
    return HostFacts(title, "Debian GNU/Linux 12", "debian", "sudo", system=LINUX)


def test_the_documents_name_all_of_them() -> None:
    written = (CHECKOUT / "docs/host-preparation.md").read_text()
    assert FILES == ["fleet.py", "local.py", "windows.py"]
    assert [name for name in FILES if f"inventories/{name}" not in written] == []


@pytest.mark.parametrize("name", FILES)
def test_every_host_is_asked_for_what_there_is(name: str) -> None:
    hosts = hosts_of(name)
    assert hosts
    for title, data in hosts.items():
        choices = choices_of(data)
        assert choices.backends, title
        needs = needs_of(choices)
        assert unsupported(needs, facts_of(title)) is None, title
        assert items_for(needs, facts_of(title), Choices(choices.backends)), title


@pytest.mark.parametrize("name", FILES)
def test_every_image_and_bridge_named_is_one_that_is_prepared_there(name: str) -> None:
    for title, data in hosts_of(name).items():
        choices = choices_of(data)
        told = [need.data for need in needs_of(choices)]
        assert set(choices.images) <= {of["image"] for of in told if "image" in of} & set(IMAGES), title
        assert set(choices.bridges) <= {of["bridge"] for of in told if "bridge" in of}, title


@pytest.mark.parametrize("name", FILES)
def test_keys_of_hosts_are_checked_and_passwords_stand_in_no_inventory(name: str) -> None:
    for title, data in hosts_of(name).items():
        assert not [key for key in data if "password" in key], title
        checking = data.get("ssh_strict_host_key_checking", "yes")
        assert checking == "yes", title
