"""What package managers print, understood: their shell commands run against recorded outputs.

Debian's own tools run for real, on a package database of the test's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mxc_ops.prep.receipts import Receipt, merged
from mxc_ops.prep.rules import rule
from mxc_ops.prep.rules.package_managers import MANAGERS
from mxc_ops.prep.shells.sh import SHELL

INSTALLED = rule("packages.installed")
needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-query")), reason="needs apt-get and dpkg-query"
)


@dataclass(frozen=True)
class Host:
    """A folder with programs that answer as recorded, and with `receipt.before`."""

    folder: Path

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ncd {self.folder}\n{script}\n")
        path.chmod(0o755)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "LANG": "de_DE.UTF-8",
            "receipt": f"{self.folder}/receipt",
            "DPKG_ADMINDIR": f"{self.folder}/dpkg",
            "APT_CONFIG": f"{self.folder}/apt.conf",
        }
        return subprocess.run(
            ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
        )

    def lines(self, fact: str) -> list[str]:
        """What the host answers to one question, put as we put all of them."""
        (answer,) = SHELL.answers(self.run(SHELL.survey([fact], 20)).stdout.splitlines(), 1)
        return answer

    def measured(self, family: str) -> dict[str, list[str]]:
        commands = INSTALLED.measured(packages=["x"], family=family)
        as_in_a_change = {name: self.run(f"export LC_ALL=C; {command}") for name, command in commands.items()}
        return {name: done.stdout.splitlines() for name, done in as_in_a_change.items()}

    def wanted(self, family: str, made: Mapping[str, Sequence[str]]) -> list[str]:
        """Of what an installation has made, what somebody else has asked for."""
        assert INSTALLED.reverse_queries is not None
        ask = INSTALLED.reverse_queries(packages=made["asked"], family=family, prior={}, made=made)
        asked: Mapping[str, Sequence[str]] = ask[1].arguments
        told = self.lines(MANAGERS[family].wanted(asked["virtual"]))
        return [name for name in told if name in asked["packages"]]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def table(*packages: tuple[str, str, str]) -> str:
    """A dpkg status file: names (with ``:arch``), states, versions; further lines after a newline."""
    stanzas: list[str] = []
    for name, state, rest in packages:
        version, _, more = rest.partition("\n")
        plain, _, machine = name.partition(":")
        extra = f"\n{more}" if more else ""
        stanzas.append(
            f"Package: {plain}\nStatus: install ok {state}\nArchitecture: {machine or 'all'}\n"
            f"Version: {version}\nMaintainer: a\nDescription: b{extra}\n"
        )
    return "\n".join(stanzas)


@pytest.fixture
def debian(host: Host) -> Host:
    (host.folder / "dpkg/updates").mkdir(parents=True)
    (host.folder / "dpkg/info").mkdir()
    (host.folder / "apt/lists/partial").mkdir(parents=True)
    (host.folder / "apt.conf").write_text(
        f'Dir::State "{host.folder}/apt"; Dir::State::status "{host.folder}/dpkg/status";'
        f' Dir::Cache "{host.folder}/cache"; Dir::Etc "{host.folder}/etc"; APT::Architecture "amd64";'
        ' APT::Architectures { "amd64"; "i386"; };'
    )
    host.program("dpkg", "echo amd64")
    return host


@needs_apt
def test_debian_packages_count_as_installed_by_name_and_by_what_they_provide(debian: Host) -> None:
    (debian.folder / "dpkg/status").write_text(
        table(
            ("gcc", "installed", "1"),
            ("libz:amd64", "installed", "1\nMulti-Arch: same"),
            ("libz:i386", "installed", "1\nMulti-Arch: same"),
            ("old", "config-files", "1\nProvides: of-old"),
            ("exim", "installed", "1\nProvides: default-mta, mail-agent (= 3)"),
        )
    )
    names = ["gcc", "libz", "old", "of-old", "default-mta", "mail-agent", "mta", "g++"]
    assert debian.lines(MANAGERS["debian"].missing(names)) == ["old", "of-old", "mta", "g++"]


@needs_apt
def test_what_apt_brought_along_is_measured_by_the_list_before_and_after(debian: Host) -> None:
    status = debian.folder / "dpkg/status"
    earlier = [("libc6:amd64", "installed", "2.36-9\nMulti-Arch: same"), ("dnsmasq", "config-files", "2.89")]
    status.write_text(table(*earlier, ("gone", "installed", "1")))
    (debian.folder / "receipt.before").write_text(debian.run(MANAGERS["debian"].listing).stdout)
    status.write_text(
        table(
            ("libc6:amd64", "installed", "2.36-10\nMulti-Arch: same"),
            ("libc6:i386", "installed", "2.36-10\nMulti-Arch: same"),
            ("dnsmasq", "installed", "2.90"),
            ("lxc", "installed", "5"),
            ("liblxc1:amd64", "unpacked", "5\nMulti-Arch: same"),
            ("never", "not-installed", "1"),
        )
    )
    assert debian.measured("debian") == {
        "added": ["libc6:i386", "liblxc1", "lxc"],
        "removed": ["gone"],
        "upgraded": ["dnsmasq config-files 2.90", "libc6 2.36-9 2.36-10"],
    }


@needs_apt
def test_apt_names_what_would_have_to_go_with_ours(debian: Host) -> None:
    (debian.folder / "dpkg/status").write_text(
        table(
            ("lxc", "installed", "5\nDepends: liblxc1"),
            ("liblxc1:amd64", "installed", "5\nMulti-Arch: same"),
            ("since", "installed", "1\nDepends: liblxc1"),
            ("since-too", "installed", "1\nDepends: since"),
            ("left", "config-files", "1\nConffiles:\n /etc/left 0123456789abcdef0123456789abcdef"),
            ("kept", "config-files", "1"),
            ("other", "installed", "1"),
        )
    )
    told = debian.lines(MANAGERS["debian"].removal(["lxc", "liblxc1", "left", "gone"], ["kept"]))
    assert told == ["left", "liblxc1", "lxc", "since", "since-too"]
    assert debian.lines(MANAGERS["debian"].removal(["gone"], [])) == []


AT_ONCE = {"added": ["bubblewrap", "libcap2", "nginx"], "removed": [], "upgraded": []}
"""What was measured when somebody has installed nginx meanwhile."""


@needs_apt
@pytest.mark.parametrize("asked", ["bubblewrap", "a-sandbox"])
def test_what_others_install_by_name_at_the_same_time_is_not_ours(debian: Host, asked: str) -> None:
    (debian.folder / "dpkg/status").write_text(
        table(
            ("bubblewrap:amd64", "installed", "1\nMulti-Arch: same\nProvides: a-sandbox (= 1)"),
            ("libcap2", "installed", "1"),
            ("nginx", "installed", "1\nProvides: httpd, a-sandbox-not"),
        )
    )
    debian.program("apt-mark", "printf '%s\\n' base bubblewrap nginx")
    made = {"asked": [asked], **AT_ONCE}
    wanted = debian.wanted("debian", made)
    assert wanted == ["nginx"]
    back = INSTALLED.reverse(AT_ONCE["added"], wanted, prior={}, made=made, packages=[asked], family="debian")
    assert back.refusal == "asked for by somebody else: nginx"


def test_rpm_packages_are_told_with_their_architecture_and_keys_by_their_version(host: Host) -> None:
    (host.folder / "receipt.before").write_text("glibc.x86_64 0:2.39-1.fc40\nkernel.x86_64 0:6.8-1\n")
    listed = (
        "kernel.x86_64 0:6.8-1",
        "kernel.x86_64 0:6.9-1",
        "glibc.x86_64 0:2.39-2.fc40",
        "glibc.i686 0:2.39-2.fc40",
        "bubblewrap.x86_64 2:0.10.0-1.fc40",
        "gpg-pubkey.(none) 0:a15b79cc-63d04c2c",
    )
    host.program("rpm", f"printf '%s\\n' {' '.join(repr(line) for line in listed)}")
    measured = host.measured("fedora")
    assert measured["added"] == ["bubblewrap.x86_64", "glibc.i686", "gpg-pubkey-a15b79cc-63d04c2c"]
    assert measured["upgraded"] == ["glibc.x86_64 0:2.39-1.fc40 0:2.39-2.fc40"]
    assert measured["removed"] == []


RPM = """
case "$1" in
-q) case " lib.x86_64 tool.noarch " in *" $2 "*) exit 0;; esac; echo "package $2 is not installed"; exit 1;;
esac
user=1; app=1
for name; do
    test $name != user.x86_64 || user=
    test $name != my-app.noarch || app=
done
test "$LC_ALL" = C && needed='is needed by (installed)' || needed='wird benötigt von (installiert)'
echo "error: Failed dependencies:" >&2
printf '\\t%s\\n' "lib.so.1()(64bit) $needed ${user:+user-2:1.0~rc1-3.fc40.x86_64}" >&2
test -n "$user" || test -z "$app" ||
    printf '\\t%s\\n' "user >= 1 $needed my-app-1-1.el9_4.1.noarch" >&2
"""


@pytest.mark.parametrize("family", ["fedora", "suse"])
def test_rpm_names_all_that_an_erasure_would_break(host: Host, family: str) -> None:
    host.program("rpm", RPM)
    told = host.lines(MANAGERS[family].removal(["lib.x86_64", "tool.noarch", "gone.x86_64"], []))
    assert told == ["lib.x86_64", "tool.noarch", "user.x86_64", "my-app.noarch"]
    assert host.lines(MANAGERS[family].removal(["gone.x86_64"], [])) == []


APK = """
case "$1" in
info) sed "${2:+s/x/x/}$(test -n "$2" || echo 's/-[0-9][^-]*\\(-r[0-9]*\\)*$//')" installed;;
del) printf '%s\\n' '( 1/10) Purging flatpak (1.14.6-r0)' '(10/10) Purging libcap2 (2.70-r0)' \\
    'Executing busybox-1.36.1-r29.trigger' 'OK: 8 MiB in 14 packages';;
esac
"""


def test_apk_packages_are_parted_into_names_and_versions(host: Host) -> None:
    host.program("apk", APK)
    lines = ["musl-1.2.5-r1", "libstdc++-13.2.1_git20240309-r0", "font-2-1.0-r0", ".build-20240101.120000"]
    (host.folder / "installed").write_text("\n".join(lines) + "\n")
    (host.folder / "receipt.before").write_text("musl 1.2.5-r0\n")
    measured = host.measured("alpine")
    assert measured["added"] == [".build", "font-2", "libstdc++"]
    assert measured["upgraded"] == ["musl 1.2.5-r0 1.2.5-r1"]


def test_apk_names_what_would_have_to_go_with_ours(host: Host) -> None:
    host.program("apk", APK)
    (host.folder / "installed").write_text("bubblewrap-0.9.0-r1\nlibcap2-2.70-r0\nmusl-1.2.5-r0\n")
    removal = MANAGERS["alpine"].removal
    assert host.lines(removal(["bubblewrap", "libcap2"], [])) == ["bubblewrap", "flatpak", "libcap2"]
    assert host.lines(removal(["gone"], [])) == []


PACMAN = """
echo "$*" >> log
case "$1" in
-Q) printf '%s\\n' 'bubblewrap 0.9.0-1' 'glibc 2.39-2' 'libcap 1:2.70-1';;
-Qq) test "$2" = a-sandbox && echo bubblewrap || printf '%s\\n' bubblewrap glibc libcap;;
-Qqe) printf '%s\\n' base bubblewrap nginx;;
-Rcp) printf '%s\\n' bubblewrap flatpak;;
esac
"""


@pytest.fixture
def arch(host: Host) -> Host:
    host.program("pacman", PACMAN)
    host.program("pacman-conf", f"echo {host.folder}/db/")
    return host


def test_pacman_packages_are_measured(arch: Host) -> None:
    (arch.folder / "receipt.before").write_text("base 3-2\nglibc 2.39-1\n")
    assert arch.measured("arch") == {
        "added": ["bubblewrap", "libcap"],
        "removed": ["base"],
        "upgraded": ["glibc 2.39-1 2.39-2"],
    }


def test_pacman_names_what_would_have_to_go_with_ours(arch: Host) -> None:
    assert arch.lines(MANAGERS["arch"].removal(["bubblewrap", "gone"], [])) == ["bubblewrap", "flatpak"]
    assert "-Rcp --noconfirm --print-format %n bubblewrap" in (arch.folder / "log").read_text()
    assert arch.lines(MANAGERS["arch"].removal(["gone"], [])) == []


@pytest.mark.parametrize("asked", ["bubblewrap", "a-sandbox"])
def test_what_others_install_with_pacman_at_the_same_time_is_not_ours(arch: Host, asked: str) -> None:
    assert arch.wanted("arch", {"asked": [asked], **AT_ONCE}) == ["nginx"]


@pytest.mark.parametrize("has_index", [False, True])
def test_an_arch_host_keeps_its_index_lest_it_is_upgraded_in_part(arch: Host, has_index: bool) -> None:
    if has_index:
        (arch.folder / "db/sync").mkdir(parents=True)
        (arch.folder / "db/sync/core.db").touch()
    for command in MANAGERS["arch"].install("pacman", ["bubblewrap"]):
        assert arch.run(f"set -e; {command}").returncode == 0
    log = (arch.folder / "log").read_text().splitlines()
    install = "--noconfirm -S --needed --noprogressbar bubblewrap"
    assert log == [install] if has_index else ["--noconfirm -Sy", install]


def test_pacman_waits_until_its_database_is_unlocked(arch: Host) -> None:
    (arch.folder / "db").mkdir()
    (arch.folder / "db/db.lck").touch()
    arch.program("sleep", "rm db/db.lck; echo slept >> log")
    arch.run(MANAGERS["arch"].remove(["bubblewrap"], [], [])[0])
    assert (arch.folder / "log").read_text().splitlines() == ["slept", "--noconfirm -Rn bubblewrap"]


@pytest.mark.parametrize(
    ("status", "fails"), [(0, False), (102, False), (106, False), (104, True), (107, True)]
)
def test_zypper_may_ask_for_a_restart_but_not_fail(host: Host, status: int, fails: bool) -> None:
    host.program("zypper", f"exit {status}")
    _, install = MANAGERS["suse"].install("zypper", ["bubblewrap"])
    assert bool(host.run(install).returncode) == fails


@pytest.mark.parametrize("family", MANAGERS)
def test_an_index_that_cannot_be_refreshed_is_a_warning(host: Host, family: str) -> None:
    manager = MANAGERS[family]
    for tool in (*manager.tools, "pacman-conf"):
        host.program(tool, "exit 1")
    refreshed = host.run(f"set -e; {manager.install(manager.tools[0], ['x'])[0]}")
    assert refreshed.returncode == 0
    assert "the index of packages was not refreshed" in refreshed.stderr


def test_edited_configuration_of_erased_packages_goes_but_not_that_of_others(host: Host) -> None:
    ours, others = host.folder / "ours.conf", host.folder / "others.conf"
    host.program(
        "rpm",
        f'case "$1" in -qc) echo {ours}; echo "(contains no files)";;'
        f" -e) touch {ours}.rpmsave {others}.rpmsave;; esac",
    )
    (command,) = MANAGERS["fedora"].remove(["ours.noarch"], [], ["others.noarch"])
    assert host.run(f"set -e; {command}").returncode == 0
    assert (Path(f"{ours}.rpmsave").exists(), Path(f"{others}.rpmsave").exists()) == (False, True)


@pytest.mark.parametrize("made", [{"asked": ["bubblewrap"]}, {"asked": ["bubblewrap"], "added": []}])
def test_an_installation_that_has_added_nothing_leaves_nothing_to_take_back(
    made: dict[str, list[str]],
) -> None:
    named = {"packages": ["bubblewrap"], "family": "arch"}
    assert INSTALLED.reverse_queries is not None
    assert len(INSTALLED.reverse_queries(prior={}, made=made, **named)) == 2
    back = INSTALLED.reverse([], [], prior={}, made=made, **named)
    assert (back.commands, back.refusal) == ((), "")


def test_a_configuration_file_that_was_kept_before_us_stays(host: Host) -> None:
    theirs = host.folder / "ours.conf.rpmsave"
    theirs.write_text("edited long ago")
    host.program("rpm", f'case "$1" in -qc) echo {host.folder}/ours.conf;; esac')
    (command,) = MANAGERS["fedora"].remove(["ours.noarch"], [], [])
    assert host.run(f"set -e; {command}").returncode == 0
    assert theirs.exists()


def test_what_was_there_before_us_stays_also_when_it_was_asked_for() -> None:
    made = {"asked": ["musl-tools"], "added": ["musl-tools"], "removed": [], "upgraded": []}
    names = {"packages": ["gcc", "musl-tools"], "family": "alpine"}
    back = INSTALLED.reverse(["musl-tools"], [], prior={}, made=made, **names)
    assert not back.refusal
    assert not any("gcc" in command for command in back.commands)


def test_configuration_that_came_by_us_goes_also_after_others_have_removed_its_package() -> None:
    """Removed, not purged, and added by us again: to the second list, its configuration was there before."""
    named = {"packages": ["lxc"], "family": "debian"}
    first = Receipt("an.item", "packages.installed", named, made={"asked": ["lxc"], "added": ["lxc"]})
    again = replace(first, made={"asked": ["lxc"], "added": [], "upgraded": ["lxc config-files 5"]})
    back = INSTALLED.reverse(["lxc"], [], prior={}, made=merged(first, again).made, **named)
    assert [command.split()[-3:] for command in back.commands] == [["purge", "lxc", ")"]]
