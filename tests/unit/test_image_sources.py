"""Debian sources as the host's own apt has them."""

from __future__ import annotations

import os

import pytest

from vm_images.apt_sources import Source, parse_sources, source_lines
from vm_images.python_packages import platform_tags

MIRROR = "http://mirror.example/debian"
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----"
DEB822 = f"""# a comment
Types: deb
URIs: {MIRROR}
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: {MIRROR}-security
Suites: bookworm-security
Components: main contrib
Check-Valid-Until: no
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""
ONE_LINE = f"# first\ndeb [arch=amd64 signed-by=/k/a.gpg,/k/b.gpg trusted=yes] {MIRROR} bookworm main\n"


def told(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def parse(lines: str, **texts: str) -> tuple[Source, ...]:
    named = {"/etc/apt/a.sources": texts.get("deb822", ""), "/etc/apt/a.list": texts.get("one_line", "")}
    return parse_sources(lines, "bookworm", lambda path: named.get(path, ""))


def test_the_sources_of_the_hosts_own_release_are_taken_with_their_keys() -> None:
    found = parse(
        told(
            f"{MIRROR}|bookworm|main|Debian|/etc/apt/a.sources:1",
            f"{MIRROR}|bookworm-updates|main|Debian|/etc/apt/a.sources:1",
            f"{MIRROR}-security|bookworm-security|main|Debian|/etc/apt/a.sources:2",
            f"{MIRROR}-security|bookworm-security|contrib|Debian|/etc/apt/a.sources:2",
        ),
        deb822=DEB822,
    )
    assert [source.release for source in found] == ["bookworm", "bookworm-updates", "bookworm-security"]
    assert found[0].options == (("signed-by", "/usr/share/keyrings/debian.gpg"),)
    assert found[2].components == ("main", "contrib")
    assert (found[2].options, found[2].key) == ((("check-valid-until", "no"),), KEY)
    assert source_lines(found[1:], {KEY: "/private/key.asc"}) == (
        f"deb [signed-by=/usr/share/keyrings/debian.gpg] {MIRROR} bookworm-updates main\n"
        f"deb [check-valid-until=no signed-by=/private/key.asc] {MIRROR}-security bookworm-security"
        " main contrib\n"
    )


def test_options_of_a_one_line_entry_are_passed_on() -> None:
    [found] = parse(told(f"{MIRROR}|bookworm|main|Debian|/etc/apt/a.list:2"), one_line=ONE_LINE)
    assert dict(found.options) == {"signed-by": "/k/a.gpg,/k/b.gpg", "trusted": "yes"}


@pytest.mark.parametrize(
    "line",
    [
        f"{MIRROR}|bookworm-backports|main|Debian Backports|/etc/apt/a.list:2",
        f"{MIRROR}|bookworm-backports|main|Debian|/etc/apt/a.list:2",
        f"{MIRROR}|trixie|main|Debian|/etc/apt/a.list:2",
        "https://packages.example|bookworm|main|Example Inc.|/etc/apt/a.list:2",
        "https://packages.example|stable|main|Debian|/etc/apt/a.list:2",
    ],
)
def test_other_releases_and_other_peoples_packages_are_left_out(line: str) -> None:
    assert parse(told(line)) == ()


def test_without_an_index_the_origin_is_not_known_and_not_asked_for() -> None:
    [found] = parse(told(f"{MIRROR}|bookworm|main|$(ORIGIN)|/etc/apt/none.list:7"))
    assert (found.site, found.options) == (MIRROR, ())


def test_wheels_may_be_for_any_glibc_up_to_the_guests() -> None:
    tags = platform_tags("2.36-9+deb12u14", os.uname().machine)
    machine = os.uname().machine
    assert tags[0] == f"manylinux_2_36_{machine}"
    assert f"manylinux2014_{machine}" in tags and f"manylinux_2_17_{machine}" in tags
    assert f"manylinux_2_37_{machine}" not in tags and tags[-1] == "any"
