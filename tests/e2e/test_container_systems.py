"""Containers of the system that is asked for: our recipe's, or what a template of LXC's unpacks (root)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.guest_etc import HOSTNAME
from tests.conftest import User
from tests.e2e.commands import MXC_EXEC, MXC_OPS, Commands
from tests.images import image
from vm_images.apt import host_system

pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="images are put into the system's store, which is root's"),
]
STORE = Path("/var/lib/mxc-ops/images")
# What the test's template has in common with LXC's own: its words, and that it may complain and fail.
TEMPLATE = """#!/bin/sh
set -e
while test $# -gt 0; do eval "${1#--}=\\$2"; shift 2; done
test "$release" != offline || { echo "ERROR: Failed to download" >&2; exit 1; }
test -f "$path/config"
mkdir -p "$LXC_CACHE_PATH" && echo kept > "$LXC_CACHE_PATH/file"
cp -a @tree@/. "$rootfs"
echo "$name $dist $release $arch" > "$rootfs/asked"
"""


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A template whose system is a shell, with a device, a set-id program, and links out of it."""
    with tempfile.TemporaryDirectory(prefix="mxc-ops-template-") as name:
        folder = Path(name)
        tree = folder / "tree"
        for part in ("bin", "usr/bin", "var"):
            (tree / part).mkdir(parents=True)
        for program in ("sh", "cat", "ls", "stat"):
            source = shutil.which(program)
            assert source is not None
            shutil.copy(source, tree / "bin" / program)
            linked = subprocess.run(["ldd", source], capture_output=True, text=True, check=True).stdout
            for library in re.findall(r"/[^ ]+", linked):
                target = tree / library.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, target)
        (tree / "bin/cat").chmod(0o4755)
        os.mknod(tree / "usr/disk", 0o60666, os.makedev(7, 250))
        (folder / "outside").mkdir()
        (tree / "var/log").symlink_to(folder / "outside")
        (folder / "template").write_text(TEMPLATE.replace("@tree@", str(tree)))
        (folder / "template").chmod(0o755)
        yield folder / "template"


@pytest.fixture(scope="module")
def root(as_user: User) -> Iterator[Commands]:
    made = Commands("root", as_user)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def fetched(root: Commands, template: Path) -> Iterator[str]:
    """The name of an image that is there for these tests alone."""
    before = {path.name for path in STORE.glob(".*")}
    done = root.run(MXC_OPS, "image", "download", "Own", "1.0-test", "--template", template)
    assert done.returncode == 0, done.stderr
    assert not {path.name for path in STORE.glob(".building-*")} - before
    yield "own-1.0-test"
    assert root.run(MXC_OPS, "image", "remove", "own-1.0-test").returncode == 0


def document(distribution: str, release: str, line: str) -> str:
    body = {
        "version": "0.6.0-alpha",
        "containment": "lxc",
        "lxc": {"distribution": distribution, "release": release},
        "process": {"commandLine": line},
    }
    return json.dumps(body)


def test_the_hosts_own_debian_is_our_recipe(root: Commands) -> None:
    image("base")
    codename, *_ = host_system().releases
    line = ". /etc/os-release; echo $ID $VERSION_CODENAME"
    done = root.run(MXC_EXEC, root.config(document("debian", codename, line)))
    assert (done.returncode, done.stdout) == (0, f"debian {codename}\n"), done.stderr


def test_another_release_is_refused_with_what_there_is(root: Commands) -> None:
    image("base")
    done = root.run(MXC_OPS, "run", root.config(document("debian", "nowhere", "true")))
    assert done.returncode == 125
    assert f"no image on this host is debian nowhere; 'base' is {host_system()}" in done.stderr
    assert "fix: mxc-ops image download debian nowhere" in done.stderr


def test_a_fetched_system_is_the_containers_root_tamed(root: Commands, fetched: str, template: Path) -> None:
    line = "cat /asked; ls /usr /var/log; stat -c %a /bin/cat; stat -c %u /bin/sh; cat /etc/hostname"
    flags = ("--distribution", "own", "--release", "1.0-test")
    done = root.run(MXC_OPS, "run", "--backend", "lxc", *flags, "--", "sh", "-c", line)
    assert done.returncode == 0, done.stderr
    told = done.stdout.split()
    assert told[:3] == [fetched, "Own", "1.0-test"]
    assert "disk" not in told
    assert told[-3:] == ["755", "0", HOSTNAME]
    assert list((template.parent / "outside").iterdir()) == []


def test_it_goes_to_hosts_without_a_network_as_a_file(root: Commands, fetched: str) -> None:
    file = root.folder / "own.image"
    assert root.run(MXC_OPS, "image", "export", fetched, file).returncode == 0
    brought = root.run(MXC_OPS, "image", "import", file, "--name", "own-copy-of-a-test", "--json")
    assert brought.returncode == 0, brought.stderr
    try:
        listed = json.loads(root.run(MXC_OPS, "image", "list", "--json").stdout)["images"]
        (found,) = (one for one in listed if fetched in one["names"])
        assert {fetched, "own-copy-of-a-test"} <= {*found["names"]}
        assert found["inputs"]["system"] == {"distribution": "own", "releases": ["1.0-test"]}
        assert root.run(MXC_OPS, "image", "verify", fetched).returncode == 0
    finally:
        root.run(MXC_OPS, "image", "remove", "own-copy-of-a-test")


def test_no_machine_boots_it(root: Commands, fetched: str) -> None:
    done = root.run(MXC_OPS, "run", "--backend", "vm", "--image", fetched, "--", "true")
    assert done.returncode == 64
    assert f"the image '{fetched}' is of containers only" in done.stderr


def test_without_a_network_the_way_around_is_told(root: Commands, template: Path) -> None:
    done = root.run(MXC_OPS, "image", "download", "own", "offline", "--template", template)
    assert done.returncode == 1
    assert "own offline could not be fetched: " in done.stderr
    assert "ERROR: Failed to download" in done.stderr
    assert "mxc-ops image import own-offline.image" in done.stderr
    assert not (STORE / "names/own-offline").is_symlink()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("own", "1", "--template", "/no/such/template"), "no template '/no/such/template'"),
        (("own", "1", "--template", "no-such"), "fix: mxc-ops prep host --backend lxc --feature build --yes"),
        (("own", "1", "--name", "../own"), "'../own' cannot be an image's name"),
    ],
)
def test_what_cannot_be_fetched_at_all_is_told(root: Commands, words: tuple[str, ...], said: str) -> None:
    done = root.run(MXC_OPS, "image", "download", *words)
    assert done.returncode == 1
    assert said in done.stderr


def test_only_root_fetches(somebody: Commands, template: Path) -> None:
    done = somebody.run(MXC_OPS, "image", "download", "own", "1", "--template", template)
    assert done.returncode == 1
    assert "fix: sudo mxc-ops image download own 1" in done.stderr
