"""What is done about each item: from what was seen to commands, as pure rules."""

from __future__ import annotations

import json

import pytest

from backends.linux.id_ranges import overlaps
from mxc_ops.prep.decisions import (
    Decision,
    apparmor_profile,
    helper_program,
    id_range,
    installed_packages,
    kernel_setting,
    root_directory,
)

HOST_FILE = "/etc/mxc-ops/host.json"
SWITCH = "kernel.apparmor_restrict_unprivileged_userns"
SWITCH_FILE = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
PROFILE = "/etc/apparmor.d/mxc-ops-bwrap"


def untouched(decision: Decision) -> bool:
    return not decision.commands and not decision.refusal


def test_installed_packages_are_left_alone() -> None:
    assert untouched(installed_packages([], ["gcc", "libc6-dev"]))


def test_only_missing_packages_are_installed_under_a_deadline() -> None:
    commands = installed_packages(["libc6-dev"], ["gcc", "libc6-dev"]).commands
    assert commands[-1].startswith("timeout -k 5 900 ")
    assert commands[-1].endswith("install libc6-dev")


@pytest.mark.parametrize(
    ("seen", "wanted"), [(None, "1"), ("1", "1"), ("96365", ">=1024"), ("1024", ">=1024")]
)
def test_a_kernel_setting_that_is_absent_or_right_is_left_alone(seen: str | None, wanted: str) -> None:
    assert untouched(kernel_setting(seen, "user.max_user_namespaces", wanted))


def test_a_wrong_kernel_setting_is_made_to_last_and_then_set() -> None:
    lasting, now = kernel_setting("0", "kernel.unprivileged_userns_clone", "1").commands
    assert "/etc/sysctl.d/90-mxc-ops-kernel.unprivileged_userns_clone.conf" in lasting
    assert now == "printf '%s\\n' 1 > /proc/sys/kernel/unprivileged_userns_clone"


def test_a_count_below_the_least_is_raised_to_it() -> None:
    assert (
        kernel_setting("0", "user.max_user_namespaces", ">=1024")
        .commands[1]
        .startswith("printf '%s\\n' 1024 ")
    )


def test_a_missing_directory_is_made() -> None:
    commands = root_directory(None, "/srv/x").commands
    assert commands == ("umask 022 && mkdir -p /srv/x && chmod 0755 /srv/x",)


def test_a_directory_of_roots_is_left_alone() -> None:
    assert untouched(root_directory({"kind": "directory", "mode": "755", "owner": "0"}, "/x"))


@pytest.mark.parametrize(
    "seen",
    [
        {"kind": "directory", "mode": "777", "owner": "0"},
        {"kind": "directory", "mode": "755", "owner": "1000"},
        {"kind": "symbolic link", "mode": "777", "owner": "0"},
        {"kind": "file", "mode": "644", "owner": "0"},
    ],
)
def test_a_place_that_others_can_change_is_refused(seen: dict[str, str]) -> None:
    decision = root_directory(seen, "/usr/local/lib/x")
    assert decision.refusal and not decision.commands
    assert "rm -r /usr/local/lib/x" in decision.fix


def test_a_free_range_is_recorded() -> None:
    (command,) = id_range({"/etc/passwd": "root:x:0:0::/root:/bin/sh"}, HOST_FILE, "1900000000:4096").commands
    assert '"first": 1900000000' in command
    assert command.endswith("mv -f /etc/mxc-ops/.host.json.new /etc/mxc-ops/host.json")


def test_a_recorded_range_is_kept_also_when_it_is_another_than_ours() -> None:
    texts = {HOST_FILE: json.dumps({"uidRange": {"first": 700000, "count": 100}})}
    decision = id_range(texts, HOST_FILE, "1900000000:4096")
    assert untouched(decision)
    assert decision.before == "ids 700000 to 700099"


def test_other_entries_of_the_host_file_are_kept() -> None:
    (command,) = id_range({HOST_FILE: '{"site": "north"}'}, HOST_FILE, "1900000000:4096").commands
    assert '"site": "north"' in command


@pytest.mark.parametrize("text", ["{", "[]", '{"uidRange": {"first": "x", "count": 1}}', '{"uidRange": {}}'])
def test_a_host_file_that_cannot_be_understood_is_refused(text: str) -> None:
    decision = id_range({HOST_FILE: text}, HOST_FILE, "1900000000:4096")
    assert decision.refusal and not decision.commands


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/etc/passwd", "eve:x:1900000001:100::/:/bin/sh"),
        ("/etc/group", "eves:x:1900004095:"),
        ("/etc/subuid", "eve:1899990000:65536"),
        ("/etc/subgid", "eve:1900004000:65536"),
    ],
)
def test_ids_that_somebody_has_are_refused_by_name(path: str, line: str) -> None:
    decision = id_range({path: line}, HOST_FILE, "1900000000:4096")
    assert decision.refusal.startswith(f"{path} gives eve")
    assert not decision.commands


def test_neighbours_of_the_range_do_not_overlap() -> None:
    texts = {"/etc/subuid": "a:1899934464:65536\nb:1900004096:65536", "/etc/passwd": "c:x:1900004096:1::/:"}
    assert overlaps(texts, 1900000000, 4096) == []


def test_lines_that_are_no_entries_are_passed_over() -> None:
    assert overlaps({"/etc/passwd": "+::::::\n\n# x", "/etc/subuid": "a:b:c\na:1"}, 1, 100) == []


def test_a_built_helper_is_left_alone_and_a_missing_one_is_built() -> None:
    assert untouched(helper_program(True, "/store/x", ["cc"]))
    assert helper_program(False, "/store/x", ["cc", "a b.c"]).commands == ("timeout -k 5 120 cc 'a b.c'",)


@pytest.mark.parametrize("seen", [{}, {SWITCH_FILE: "0"}])
def test_without_the_restriction_no_profile_is_written(seen: dict[str, str]) -> None:
    assert untouched(apparmor_profile(seen, SWITCH, PROFILE, "/usr/bin/bwrap"))


def test_where_namespaces_are_restricted_bwrap_alone_is_permitted_them() -> None:
    write, load = apparmor_profile({SWITCH_FILE: "1\n"}, SWITCH, PROFILE, "/usr/bin/bwrap").commands
    assert "profile mxc-ops-bwrap /usr/bin/bwrap flags=(unconfined) {\n  userns,\n}" in write
    assert load == f"apparmor_parser -r {PROFILE}"


def test_a_profile_of_the_distribution_is_enough() -> None:
    seen = {SWITCH_FILE: "1", "/etc/apparmor.d/bwrap-userns-restrict": "profile bwrap …"}
    assert untouched(apparmor_profile(seen, SWITCH, PROFILE, "/usr/bin/bwrap"))
