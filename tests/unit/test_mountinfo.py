"""Reading the mount table."""

from __future__ import annotations

import os

from backends.linux.mountinfo import mount_id, parse_mountinfo, read_mountinfo


def test_fields_are_found_with_any_number_of_optional_ones() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw\n"
        "37 35 0:22 / /proc rw - proc proc rw\n"
    )
    first, second = parse_mountinfo(text)
    assert (first.mount_id, first.device, first.root, first.point) == (36, "98:0", "/mnt1", "/mnt2")
    assert (first.filesystem, second.filesystem) == ("ext3", "proc")


def test_escaped_blanks_tabs_newlines_and_backslashes_are_decoded() -> None:
    [mount] = parse_mountinfo("1 2 8:1 /a\\134b /c\\040d\\011e\\012f rw - ext4 /dev/x rw\n")
    assert (mount.root, mount.point) == ("/a\\b", "/c d\te\nf")


def test_names_with_other_line_separators_stay_whole() -> None:
    [mount] = parse_mountinfo("1 2 8:1 / /a\u2028b\x0cc rw - ext4 /dev/x rw\n")
    assert mount.point == "/a\u2028b\x0cc"


def test_a_descriptor_tells_its_mount() -> None:
    descriptor = os.open("/proc/self", os.O_PATH)
    try:
        [mount] = [mount for mount in read_mountinfo() if mount.mount_id == mount_id(descriptor)]
    finally:
        os.close(descriptor)
    assert mount.filesystem == "proc"
