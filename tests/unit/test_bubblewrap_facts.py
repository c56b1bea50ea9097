"""Which bwrap is taken, what it must be able to do, and who may run workloads: each refusal names its fix."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends import registry
from backends.bubblewrap.facts import NEEDED_OPTIONS, check_helper, find_helper
from backends.errors import BackendUnavailable, ConfigError, UnsupportedContainment
from backends.linux import numbers
from backends.linux.uid_range import UidRange, configured_range, lease

PREP = "mxc-ops prep host --backend bubblewrap --yes"


def _program(folder: Path, options: tuple[str, ...], *, mode: int = 0o755, elf: bool = True) -> str:
    program = folder / "bwrap"
    listed = "\n".join(options)
    if elf:
        program.write_bytes(b"\x7fELF" + listed.replace("\n", "\0").encode() + b"\0bubblewrap 1.2.3\0 %s\n\0")
    else:
        said = f'case "$1" in --help) echo "{listed}";; --version) echo "bubblewrap 9.9";; esac'
        program.write_text(f"#!/bin/sh\n{said}\n")
    program.chmod(mode)
    return str(folder)


@pytest.mark.parametrize("elf", [True, False], ids=["program", "wrapper script"])
def test_options_and_version_are_read_from_programs_and_asked_of_scripts(tmp_path: Path, elf: bool) -> None:
    helper = find_helper(_program(tmp_path, NEEDED_OPTIONS, elf=elf))
    assert (helper.missing_options, helper.version) == ((), "1.2.3" if elf else "9.9")
    check_helper(helper)


@pytest.mark.parametrize("option", ["--bind-fd", "--ro-bind-fd", "--disable-userns"])
def test_a_bwrap_without_an_option_that_we_rely_on_is_refused(tmp_path: Path, option: str) -> None:
    # --ro-bind-fd contains the text of no other option, but "--bind-fd" must not be found inside of it
    options = tuple(name for name in NEEDED_OPTIONS if name != option)
    with pytest.raises(BackendUnavailable, match=option) as caught:
        check_helper(find_helper(_program(tmp_path, options)))
    assert (caught.value.problems[0].code, caught.value.fix) == ("bwrap_too_old", PREP)


def test_a_setuid_bwrap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        check_helper(find_helper(_program(tmp_path, NEEDED_OPTIONS, mode=0o4755)))
    assert caught.value.fix == f"chmod u-s {tmp_path}/bwrap"


@pytest.mark.parametrize("name", [name for name, entry in registry.CONTAINMENTS.items() if not entry.module])
def test_every_other_containment_is_known_and_says_why_it_is_not_available(name: str) -> None:
    with pytest.raises(UnsupportedContainment) as caught:
        registry.get(name)
    assert registry.CONTAINMENTS[name].why in str(caught.value)
    assert caught.value.fix


def test_what_no_version_knows_is_told_apart() -> None:
    with pytest.raises(UnsupportedContainment, match="no containment is called 'docker'"):
        registry.resolve_intent("docker", "linux")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"uidRange": {"first": 0, "count": 5}}', '{"uidRange": {"first": 70000, "count": 0}}'],
)
def test_a_host_file_that_cannot_be_used_is_an_error_not_no_range(tmp_path: Path, content: str) -> None:
    file = tmp_path / "host.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        configured_range(str(file))
    assert caught.value.fix == PREP


def test_a_host_that_prep_has_not_seen_has_no_range(tmp_path: Path) -> None:
    assert configured_range(str(tmp_path / "absent.json")) is None


def test_the_recorded_range_is_read(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    file.write_text(json.dumps({"uidRange": {"first": 1_900_000_000, "count": 16}}))
    assert configured_range(str(file)) == UidRange(1_900_000_000, 16)


def test_no_uid_is_given_twice_and_none_left_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "RUN_DIRECTORY", str(tmp_path))
    uids = UidRange(2_000_000, 3)
    leases = [lease(uids) for _ in range(3)]
    assert sorted(taken.uid for taken in leases) == [2_000_000, 2_000_001, 2_000_002]
    with pytest.raises(BackendUnavailable) as caught:
        lease(uids)
    assert caught.value.retryable
    os.close(leases[1].lock)
    again = lease(uids)
    assert again.uid == leases[1].uid
    for taken in (leases[0], again, leases[2]):
        os.close(taken.lock)
